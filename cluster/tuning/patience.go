package tuning

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Pace fits raft's patience to the links, as far as they can be measured. A
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
type Pace struct {
	Base, most time.Duration // of a follower's patience
	lease      time.Duration // a leader's patience
	current    atomic.Int64  // the follower's patience now, a time.Duration

	// leader, term, heard and gaps hold what a follower has heard; one goroutine uses
	// them.
	leader string
	term   uint64
	heard  time.Time
	gaps   Peak

	mu      sync.Mutex // guards what follows: a leader's
	answers map[raft.ServerID]time.Time
	quorum  Peak
	worst   time.Duration // of the quorum's, as of the last look
	votes   Peak          // a candidate's: how long enough votes for a majority took
	voteIn  uint64        // term of the last vote
	came    int           // votes that were answered in that term
}

// paceMemory is how long a gap counts.
const paceMemory = time.Minute

// NewPace makes the pace of a node that has measured nothing yet.
func NewPace(t Tuning) *Pace {
	p := &Pace{
		Base: t.Heartbeat, most: max(t.Heartbeat, 5*(t.Heartbeat-8*t.Latency)), lease: t.LeaderLease,
		gaps: NewPeak(paceMemory), quorum: NewPeak(paceMemory), votes: NewPeak(paceMemory),
		answers: map[raft.ServerID]time.Time{},
	}
	p.current.Store(int64(p.Base))
	return p
}

// Patience is how long this node's raft waits for a sign of the leader.
func (p *Pace) Patience() time.Duration { return time.Duration(p.current.Load()) }

// Keep notes how long raft waits from now on.
func (p *Pace) Keep(d time.Duration) { p.current.Store(int64(d)) }

// Hear takes the last sign of a leader that a follower had, and returns how long
// raft should wait for the next one. A gap that ended with another leader is no
// matter of the links.
func (p *Pace) Hear(now time.Duration, leader string, term uint64, sign time.Time) time.Duration {
	if leader == p.leader && term == p.term && sign.After(p.heard) {
		p.gaps.Note(now, sign.Sub(p.heard))
	}
	p.leader, p.term, p.heard = leader, term, sign
	return min(max(p.Base, 2*p.gaps.Top(now)), p.most)
}

// electionVotes is how many times as long as a vote an election may take: own and
// others' disks are written to, twice each.
const electionVotes = 3

// Voted notes that another node answered a request for its vote. The slowest of
// those that make a majority counts, so that one node that is cut off does not.
func (p *Pace) Voted(now time.Duration, term uint64, took time.Duration, others int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if term != p.voteIn {
		p.voteIn, p.came = term, 0
	}
	if p.came++; p.came == (others+1)/2 {
		p.votes.Note(now, took)
	}
}

// Seek is how long raft should wait for an election where there is no leader.
func (p *Pace) Seek(now time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(max(p.Base, electionVotes*p.votes.Top(now)), p.most)
}

// Answered notes that a follower has answered this node as its leader.
func (p *Pace) Answered(id raft.ServerID) {
	now := time.Now()
	p.mu.Lock()
	p.answers[id] = now
	p.mu.Unlock()
}

// BeginTerm begins to measure the quorum: before, nobody had to answer.
func (p *Pace) BeginTerm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.answers)
	p.quorum, p.worst = NewPeak(paceMemory), 0
}

// Look measures since when the leader's quorum, itself included, has not
// answered. A server that has not answered yet counts from now on.
func (p *Pace) Look(now time.Duration, at time.Time, others []raft.ServerID) {
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
		p.quorum.Note(now, ages[need-1])
	}
	p.worst = p.quorum.Top(now)
}

// Trouble says that the leader's quorum is nearly too slow for it; empty: it is
// not.
func (p *Pace) Trouble() string {
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

// Silent reports whether a follower has not answered this node for so long. One that has
// never answered counts from the first look.
func (p *Pace) Silent(id raft.ServerID, d time.Duration) bool {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	last, ok := p.answers[id]
	if !ok {
		p.answers[id] = now
	}
	return ok && now.Sub(last) > d
}
