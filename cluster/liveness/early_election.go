package liveness

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// View is what a voter says of its leader and its log.
type View struct {
	Term                uint64 // 0: it has no say
	Leader              string // that it follows
	SilentMs            int64  // how long it has heard no leader
	Drains              bool   // it is being drained
	LastTerm, LastIndex uint64 // of the newest entry in its log
}

// ElectionPorts are what an Election needs. All are required. The functions are called
// by the goroutine that calls StandIfDue, Ask by others.
type ElectionPorts struct {
	Self                            string // this node
	Heartbeat, LeaderLease, Latency time.Duration
	Patience                        func() time.Duration // raft's, of a follower
	Term                            func() uint64
	Follows                         func() string        // the leader that this node follows, empty: none
	Silence                         func() time.Duration // how long this node has heard no leader
	Own                             func() View
	Voters                          func() []string
	Ask                             func(ctx context.Context, node string) (View, error)
	PortClosed                      func(ctx context.Context, node string) bool // nothing listens at its addresses
	Stand                           func() error                                // for election, now
	Go                              func(fn func())                             // on a goroutine that the caller waits for
	Log                             *zap.Logger
}

// Election shortens the time without a leader. Raft's followers look for a sign
// of life of their leader at random times, one to two heartbeats apart, and
// none votes while it still counts on one: from a leader's death to the next
// leader it takes one to three heartbeats, more where votes split. That is
// longer than the sessions of those who live may last.
//
// So each follower looks at each pulse (tuning.Tuning), when a sign is expected, and ten
// times a heartbeat once one is missing. When its leader is silent, it
// asks the other voters. If a majority, itself included, has heard nothing
// either, that leader could not commit anything any more and would have
// stepped down by itself; then the one among them whose log is longest stands
// for election at once, in the way in which a leader that hands over lets its
// successor stand. Terms and logs decide as ever: this changes when somebody
// stands, not who wins. If nobody can be asked, raft's own timers remain.
//
// The silence must be longer than the leader's lease, after which it has
// stepped down. If nothing listens any more at its address, though, its
// process is gone, and a third of a heartbeat will do.
//
// Of 20 leaders killed, 25 of 40 survivors' sessions lapsed before (no leader for up to
// 3.5 s), none since (0.55 s). Rejected: shorter timeouts (heartbeats stand behind disk
// writes, see transport), and a longer lease (a dead node's mail would wait longer).
type Election struct {
	ElectionPorts

	stoodTerm  uint64 // term in which we stood: once is enough
	probed     time.Time
	deadLeader string    // leader that nothing listens for
	deadTerm   uint64    // in that term
	rivalSince time.Time // since when another voter has had no leader in the term rivalTerm
	rivalTerm  uint64
}

// StandIfDue stands for election where it is due, once a term.
func (v *Election) StandIfDue(ctx context.Context) {
	if !v.due(ctx) {
		return
	}
	v.stoodTerm = v.Term()
	v.Log.Warn("cluster: the leader is silent; this node stands for election")
	if err := v.Stand(); err != nil {
		v.Log.Debug("cluster: no early election", zap.Error(err))
	}
}

// due reports whether this node should stand now.
func (v *Election) due(ctx context.Context) bool {
	term, silent := v.Term(), v.Silence()
	leader := v.Follows()
	patience := v.Patience()
	if leader == "" || leader == v.Self || term == v.stoodTerm || silent < patience/3 {
		return false
	}
	// Just before raft's own timers can run out: a node that stands by those waits for
	// votes that it can't get yet.
	enough := v.LeaderLease + (patience-v.LeaderLease)/4
	if silent < enough {
		if !v.portClosed(ctx, leader, term) {
			return false
		}
		enough = patience / 3
	}
	if !v.majorityAgrees(ctx, leader, term, enough) {
		return false
	}
	// Asking takes its time. A node that stands although it has heard a leader
	// meanwhile, or leads itself by now, brings that leader down: the others vote
	// whether they have one or not.
	return v.Follows() == leader && v.Term() == term && v.Silence() >= silent
}

// portClosed reports whether nothing listens at the leader's address: the node that
// led there does not any more, even if it is started again. It probes now and then
// only, because a leader that is merely slow hears it.
func (v *Election) portClosed(ctx context.Context, leader string, term uint64) bool {
	if v.deadLeader == leader && v.deadTerm == term {
		return true
	}
	if time.Since(v.probed) < v.Heartbeat/4 {
		return false
	}
	v.probed = time.Now()
	ctx, cancel := context.WithTimeout(ctx, v.Heartbeat/12+2*v.Latency)
	defer cancel()
	if !v.PortClosed(ctx, leader) {
		return false
	}
	v.deadLeader, v.deadTerm = leader, term
	return true
}

// majorityAgrees asks the other voters: a majority must miss the leader, and none of
// those have a longer log than this node.
func (v *Election) majorityAgrees(ctx context.Context, leader string, term uint64, enough time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, v.Heartbeat/4)
	defer cancel()
	me := v.Own()
	type answer struct {
		node string
		View
	}
	answers := make(chan answer)
	voters, asked, votes := 0, 0, false
	for _, node := range v.Voters() {
		voters++
		if node == v.Self {
			votes = true
			continue
		}
		if node == leader {
			continue
		}
		asked++
		v.Go(func() {
			r, err := v.Ask(ctx, node)
			if err != nil {
				r = View{}
			}
			answers <- answer{node, r}
		})
	}
	miss, first, standing := 1, true, false
	for range asked {
		a := <-answers
		if a.Term == 0 || a.Term < term || a.SilentMs < enough.Milliseconds() || a.Leader != "" && a.Leader != leader {
			continue // no answer, or it hears a leader
		}
		miss++
		standing = standing || a.Leader == ""
		if a.Term > term || a.ahead(me) ||
			a.Leader != "" && !me.ahead(a.View) && before(a.View, me, a.node < v.Self) {
			first = false
		}
	}
	return votes && first && miss > voters/2 && v.rivalHadItsTurn(standing, term)
}

// rivalHadItsTurn waits a moment for one who has given its leader up: it stands just
// now, and two who stand at once split the votes, or it stood by raft's own
// timers, before others would vote.
func (v *Election) rivalHadItsTurn(standing bool, term uint64) bool {
	if !standing {
		return true
	}
	if v.rivalTerm != term {
		v.rivalSince, v.rivalTerm = time.Now(), term
	}
	return time.Since(v.rivalSince) > v.Heartbeat/6
}

// ahead reports whether the log behind r is longer than the one behind o.
// Between equals the name decides who stands, unless one has given its leader
// up already: that one waits for votes, and may give its own.
func (r View) ahead(o View) bool {
	return r.LastTerm > o.LastTerm || r.LastTerm == o.LastTerm && r.LastIndex > o.LastIndex
}

// before reports whether, of two with equal logs, r stands rather than o: a node that
// is being drained comes last, else the name decides.
func before(r, o View, byName bool) bool {
	if r.Drains != o.Drains {
		return o.Drains
	}
	return byName
}
