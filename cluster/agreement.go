package cluster

import (
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// The members' wall clocks vote on the state's time. Each renewal carries its
// sender's wall clock, and Apply notes the state's time beside it, so that every
// node knows every living node's offset without a further message.
const (
	near     = 5 * time.Second // clocks that differ by no more agree; a node further away is named
	tooFar   = time.Minute     // from here on the state's time is not slewed, but jumps
	quietFor = time.Hour       // how often a node repeats in its log that its clock is wrong
)

// offsets are the differences of the voters' wall clocks to the state's time, as
// of renewals after an index, in ascending order.
func offsets(sessions []*pb.Session, voters []string, after uint64) (offs []time.Duration) {
	for _, s := range sessions {
		if off, known := offsetOf(s); known && s.Renewed > after && slices.Contains(voters, s.Node) {
			offs = append(offs, off)
		}
	}
	slices.Sort(offs)
	return offs
}

// offsetOf is the difference of a node's wall clock to the state's time; false
// where it has not said.
func offsetOf(s *pb.Session) (time.Duration, bool) {
	return time.Duration(s.GetWallMs()-s.GetRenewedMs()) * time.Millisecond, s.GetWallMs() != 0
}

// agreed is the median of sorted offsets, the lower one of two, and whether a
// majority of so many voters is near it. It is a pure function, so that all nodes
// answer it alike.
func agreed(offs []time.Duration, voters int) (median time.Duration, ok bool) {
	quorum := voters/2 + 1
	if len(offs) < quorum {
		return 0, false
	}
	median = offs[(len(offs)-1)/2]
	with := 0
	for _, o := range offs {
		if (o - median).Abs() <= near {
			with++
		}
	}
	return median, with >= quorum
}

func (c *Cluster) voters() (ids []string) {
	for _, s := range c.book.servers() {
		if s.Suffrage == raft.Voter {
			ids = append(ids, string(s.ID))
		}
	}
	return ids
}

// judgeClocks notes whether a majority of the voters agree on the time, and that
// it is the state's.
func (c *Cluster) judgeClocks() {
	c.judging.Lock() // an older look must not win over a newer one
	defer c.judging.Unlock()
	var sessions []*pb.Session
	var ts *pb.TimeState
	err := c.store.View(func(v spool.View) (err error) {
		if sessions, err = v.Sessions(); err == nil {
			ts, err = v.TimeState()
		}
		return err
	})
	if err != nil {
		return
	}
	voters := c.voters()
	median, ok := agreed(offsets(sessions, voters, ts.JumpedIndex), len(voters))
	c.agree.Store(ok && median.Abs() <= tooFar)
	c.holdUntil.Store(ts.HoldUntilMs)
}

// findTime notes when the state's time is near what a majority of the clocks that were told
// in this term agrees on.
func (c *Cluster) findTime() {
	if c.timeFound.Load() {
		return
	}
	in, err := c.instant()
	if err != nil {
		return
	}
	fresh, _, _ := c.clocksTold(in, c.raft.CurrentTerm())
	median, ok := agreed(offsets(fresh, in.voters, in.ts.GetJumpedIndex()), len(in.voters))
	if ok && median.Abs() <= near {
		c.timeFound.Store(true)
	}
}

// Ageing reports whether the state's time can be relied on for ages: a majority
// of the members agree with it, and it has not jumped lately. While it can not,
// nothing may be deleted or given up for its age. It is cheap.
func (c *Cluster) Ageing() bool {
	return !c.At(2) || c.agree.Load() && c.Now().UnixMilli() >= c.holdUntil.Load()
}
