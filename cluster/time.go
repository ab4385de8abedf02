package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"relay/cluster/clock"
	"relay/cluster/fault"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// ClockStatus is what a node knows of its clock and of the state's time.
type ClockStatus = clock.Status

// ClockWords says in a sentence that a node's clock is wrong; empty: it is not.
func ClockWords(node string, offset time.Duration) string { return clock.Words(node, offset) }

func (c *Cluster) voters() (ids []string) {
	for _, s := range c.book.Servers() {
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
	median, ok := clock.Agreed(clock.Offsets(sessions, voters, ts.JumpedIndex), len(voters))
	c.agree.Store(ok && median.Abs() <= clock.TooFar)
	c.holdUntil.Store(ts.HoldUntilMs)
}

// findTime notes when the state's time is near what a majority of the clocks that were told
// in this term agrees on. Before this process has met a leader, the term and the clocks told in
// it are those of before it was off.
func (c *Cluster) findTime() {
	if c.timeFound.Load() || c.Leader() == "" {
		return
	}
	in, err := c.instant()
	if err != nil {
		return
	}
	fresh, _, _ := c.clocksTold(in, c.raft.CurrentTerm())
	median, ok := clock.Agreed(clock.Offsets(fresh, in.Voters, in.Time.GetJumpedIndex()), len(in.Voters))
	if ok && median.Abs() <= clock.Near {
		c.timeFound.Store(true)
	}
}

// Ageing reports whether the state's time can be relied on for ages: a majority
// of the members agree with it, and it has not jumped lately. While it can not,
// nothing may be deleted or given up for its age. It is cheap.
func (c *Cluster) Ageing() bool {
	return !c.At(2) || c.agree.Load() && c.Now().UnixMilli() >= c.holdUntil.Load()
}

// early says whether a term's steering is that of a first one, and may find the time late. A
// leader that lost its term before it found the time begins anew when it leads again.
func early(led, found bool) (first, late bool) { return !led || !found, !found }

// newSteering makes the steering of a term.
func (c *Cluster) newSteering(barrier uint64) *clock.Steering {
	time := c.batcher.TermTime()
	first, late := early(c.steered.Swap(true), c.timeFound.Load())
	return &clock.Steering{
		Barrier: barrier, First: first, Late: late, Tuning: c.t,
		Now: time.Now, Boot: c.clocks.Boot, Slew: time.Slew, Base: time.Rebase, Jump: c.jumpClock,
		Clock: func() int64 { return c.Now().UnixMilli() },
	}
}

// instant reads what a round goes by.
func (c *Cluster) instant() (in clock.Instant, err error) {
	err = c.store.View(func(v spool.View) (err error) {
		if in.State, err = v.Clock(); err != nil {
			return err
		}
		if in.Time, err = v.TimeState(); err != nil {
			return err
		}
		in.Sessions, err = v.Sessions()
		return err
	})
	in.Voters, in.Second = c.voters(), c.At(2)
	in.Wall = c.clocks.Wall().UnixMilli()
	return in, err
}

// jumpClock has the clock set.
func (c *Cluster) jumpClock(ctx context.Context, h *pb.Clock) uint64 {
	res := c.command(ctx, spool.KindClock, h)
	if res == nil || res.Code != pb.Code_OK {
		return 0
	}
	c.log.Warn("cluster: the state's time has jumped", zap.Duration("by", time.Duration(h.ToMs-h.FromMs)*time.Millisecond))
	return res.Index
}

// Clock is what this node knows of its clock. It may be called at any time.
func (c *Cluster) Clock() ClockStatus {
	return ClockStatus{Offset: c.clocks.Wall().Sub(c.Now()), Agreement: c.agree.Load(), Jumps: c.jumps.Load()}
}

// sayClock tells the log that this node's clock is wrong. While nobody can know, it says
// nothing, and does not take back what it said.
func (c *Cluster) sayClock(w *clock.Warnings) {
	offset, known := c.compareClock()
	if !known {
		return
	}
	words := clock.Words(c.id.Node, offset)
	switch {
	case !w.Due(words != "", c.clocks.Quick()):
	case words != "":
		c.log.Warn("cluster: "+words+": set it, and look at what sets it (NTP)", zap.Duration("offset", offset))
	default:
		c.log.Info("cluster: this node's clock agrees with the cluster's again", zap.Duration("offset", offset))
	}
}

// compareClock is how far this node's clock is from the state's time, or from what a majority
// agrees on that is ahead of it, which the state's time follows. False: a majority has not told
// the present leader its clocks yet, the state's time jumps just now, or this node has no
// session. Without a leader the state's time has stood
// still for as long as this node, or the whole cluster, was off; without a session this
// node's copy of it may have, as after a pause of the machine or a removal.
func (c *Cluster) compareClock() (offset time.Duration, known bool) {
	term := c.raft.CurrentTerm()
	in, err := c.instant()
	if err != nil || c.Leader() == "" || c.Epoch() == 0 {
		return 0, false
	}
	offset = c.Clock().Offset
	if lag := time.Duration(in.Wall-in.State)*time.Millisecond - offset; lag.Abs() > clock.TooFar {
		return 0, false // the state's time has jumped between the two looks
	}
	if !in.Second { // nobody tells
		return offset, true
	}
	_, median, known := c.clocksTold(in, term)
	return offset - max(median, 0), known
}

// clocksTold are the sessions that were renewed in the present term and after the last jump of
// the state's time, and what a majority of their clocks agrees on; 0 where none does.
// False: they are no majority of the voters yet. Offsets in older renewals are of another
// time: after a start of the whole cluster of when it was stopped.
func (c *Cluster) clocksTold(in clock.Instant, term uint64) (fresh []*pb.Session, median time.Duration, known bool) {
	jumped := in.Time.GetJumpedIndex()
	fresh = slices.DeleteFunc(in.Sessions, func(s *pb.Session) bool {
		var l raft.Log
		return s.Renewed <= jumped || c.rlog.GetLog(s.Renewed, &l) != nil || l.Term != term
	})
	offs := clock.Offsets(fresh, in.Voters, jumped)
	if at, ok := clock.Agreed(offs, len(in.Voters)); ok {
		median = at
	}
	return fresh, median, len(offs) > len(in.Voters)/2
}

// tellOffsets fills in how far the members' clocks are from the state's time, as far as
// anybody knows. If that is about to jump ahead to the time a majority agrees on, the
// offsets are from the time after the jump. A majority that is behind is not believed for ten
// minutes, in which its clocks are the wrong ones.
func (c *Cluster) tellOffsets(members []MemberStatus) error {
	term := c.raft.CurrentTerm()
	in, err := c.instant()
	if err != nil {
		return err
	}
	fresh, ahead, known := c.clocksTold(in, term)
	if ahead <= clock.TooFar {
		ahead = 0
	}
	for i := range members {
		for _, s := range fresh {
			if off, said := clock.OffsetOf(s); known && said && s.Node == members[i].ID {
				members[i].ClockOffset = off - ahead
			}
		}
	}
	return nil
}

// newAbdication makes the abdication of a leader.
func (c *Cluster) newAbdication() *clock.Abdication {
	return &clock.Abdication{Node: c.id.Node, Ready: c.caughtUp, Move: func(heir string) error {
		c.log.Warn("cluster: this node's clock is far off: it hands the leadership over", zap.String("to", heir))
		return c.handOver(heir)
	}}
}

// mayLead refuses a successor whose clock is far off, or that is being drained.
func (c *Cluster) mayLead(node string) error {
	sessions, err := c.sessions()
	if err != nil {
		return err
	}
	for _, s := range sessions {
		if s.Node == node && s.Draining {
			return fmt.Errorf("%w: node %s is being drained: undrain it before it leads", fault.ErrStays, node)
		}
		if off, known := clock.OffsetOf(s); s.Node == node && known && off.Abs() > clock.TooFar {
			return fmt.Errorf("%w: %s: set it before that node leads", fault.ErrStays, clock.Words(node, off))
		}
	}
	return nil
}
