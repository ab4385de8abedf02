package cluster

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// pace fits raft's patience to the links, as far as they can be measured. A
// follower measures the gaps between the signs of its leader, and waits for two
// of the longest before it stands for election. A leader measures the gaps
// between the answers of its quorum: its own patience, LeaderLease, can't be
// changed at run time, so it says when [cluster] latency should be set. A candidate
// measures how long votes take: where disks are slow, an election needs longer than
// raft's own timer gives it, and no number of elections would find a leader.
//
// [cluster] latency lengthens Heartbeat, Election (8 times), LeaderLease (7) and
// Deadline (20). A follower waits for twice the longest gap between signs of its leader
// in the last minute, 1.2 to 6 s; without a leader for three times as long as a
// majority's votes took. Far apart, one group of up to 128 entries is under way at once
// (MaxRPCsInFlight 1): at 200 ms one way about 300 commands a second.
type pace struct {
	base, most time.Duration // of a follower's patience
	lease      time.Duration // a leader's patience
	current    atomic.Int64  // the follower's patience now, a time.Duration

	// leader, term, heard and gaps hold what a follower has heard; one goroutine uses
	// them.
	leader string
	term   uint64
	heard  time.Time
	gaps   peak

	mu      sync.Mutex // guards what follows: a leader's
	answers map[raft.ServerID]time.Time
	quorum  peak
	worst   time.Duration // of the quorum's, as of the last look
	votes   peak          // a candidate's: how long enough votes for a majority took
	voteIn  uint64        // term of the last vote
	came    int           // votes that were answered in that term
}

// paceMemory is how long a gap counts.
const paceMemory = time.Minute

func newPace(t Tuning) *pace {
	p := &pace{
		base: t.Heartbeat, most: max(t.Heartbeat, 5*(t.Heartbeat-8*t.Latency)), lease: t.LeaderLease,
		gaps: newPeak(paceMemory), quorum: newPeak(paceMemory), votes: newPeak(paceMemory),
		answers: map[raft.ServerID]time.Time{},
	}
	p.current.Store(int64(p.base))
	return p
}

// patience is how long this node's raft waits for a sign of the leader.
func (p *pace) patience() time.Duration { return time.Duration(p.current.Load()) }

// keep notes how long raft waits from now on.
func (p *pace) keep(d time.Duration) { p.current.Store(int64(d)) }

// hear takes the last sign of a leader that a follower had, and returns how long
// raft should wait for the next one. A gap that ended with another leader is no
// matter of the links.
func (p *pace) hear(now time.Duration, leader string, term uint64, sign time.Time) time.Duration {
	if leader == p.leader && term == p.term && sign.After(p.heard) {
		p.gaps.note(now, sign.Sub(p.heard))
	}
	p.leader, p.term, p.heard = leader, term, sign
	return min(max(p.base, 2*p.gaps.top(now)), p.most)
}

// electionVotes is how many times as long as a vote an election may take: own and
// others' disks are written to, twice each.
const electionVotes = 3

// voted notes that another node answered a request for its vote. The slowest of
// those that make a majority counts, so that one node that is cut off does not.
func (p *pace) voted(now time.Duration, term uint64, took time.Duration, others int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if term != p.voteIn {
		p.voteIn, p.came = term, 0
	}
	if p.came++; p.came == (others+1)/2 {
		p.votes.note(now, took)
	}
}

// seek is how long raft should wait for an election where there is no leader.
func (p *pace) seek(now time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(max(p.base, electionVotes*p.votes.top(now)), p.most)
}

// answered notes that a follower has answered this node as its leader.
func (p *pace) answered(id raft.ServerID) {
	now := time.Now()
	p.mu.Lock()
	p.answers[id] = now
	p.mu.Unlock()
}

// beginTerm begins to measure the quorum: before, nobody had to answer.
func (p *pace) beginTerm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.answers)
	p.quorum, p.worst = newPeak(paceMemory), 0
}

// look measures since when the leader's quorum, itself included, has not
// answered. A server that has not answered yet counts from now on.
func (p *pace) look(now time.Duration, at time.Time, others []raft.ServerID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ages []time.Duration
	for _, id := range others {
		last, ok := p.answers[id]
		if !ok {
			p.answers[id], last = at, at
		}
		ages = append(ages, at.Sub(last))
	}
	if need := (len(others) + 1) / 2; need > 0 {
		slices.Sort(ages)
		p.quorum.note(now, ages[need-1])
	}
	p.worst = p.quorum.top(now)
}

// trouble says that the leader's quorum is nearly too slow for it; empty: it is
// not.
func (p *pace) trouble() string {
	p.mu.Lock()
	worst := p.worst
	p.mu.Unlock()
	if worst <= p.lease*6/10 {
		return ""
	}
	want := ((2*worst-time.Second)/7 + 10*time.Millisecond).Truncate(10 * time.Millisecond)
	return fmt.Sprintf("within the last minute a majority of the nodes did not answer the leader for %v, and after %v it "+
		"steps down: set [cluster] latency to %v or more on all nodes, and start them again one by one",
		worst.Round(10*time.Millisecond), p.lease, max(want, 10*time.Millisecond))
}

// silent reports whether a follower has not answered this node for so long. One that has
// never answered counts from the first look.
func (p *pace) silent(id raft.ServerID, d time.Duration) bool {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	last, ok := p.answers[id]
	if !ok {
		p.answers[id] = now
	}
	return ok && now.Sub(last) > d
}
