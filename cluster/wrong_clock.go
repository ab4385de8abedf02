package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	pb "relay/cluster/spool/spoolpb"
)

// A node whose clock is wrong serves on: nothing of the state goes by it. It says
// so, and does not lead where a node with a right clock can.

// ClockStatus is what a node knows of its clock and of the state's time.
type ClockStatus struct {
	Offset    time.Duration // of its wall clock to the state's time
	Agreement bool          // a majority of the members agree with the state's time
	Jumps     int64         // of the state's time that this process has applied
}

// Clock is what this node knows of its clock. It may be called at any time.
func (c *Cluster) Clock() ClockStatus {
	return ClockStatus{Offset: c.clocks.wall().Sub(c.Now()), Agreement: c.agree.Load(), Jumps: c.jumps.Load()}
}

// ClockWords says in a sentence that a node's clock is wrong; empty: it is not.
func ClockWords(node string, offset time.Duration) string {
	if offset.Abs() <= near {
		return ""
	}
	way := "ahead of"
	if offset < 0 {
		way = "behind"
	}
	return fmt.Sprintf("node %s's clock is %s %s the cluster's", node, offset.Abs().Round(time.Second), way)
}

// warnings remembers what was said of a clock.
type warnings struct {
	wrong bool
	at    time.Duration
}

// due reports whether to say now that a clock is wrong, or right again: at the
// change, and hourly while it is wrong.
func (w *warnings) due(wrong bool, now time.Duration) bool {
	if wrong == w.wrong && (!wrong || now-w.at < quietFor) {
		return false
	}
	w.wrong, w.at = wrong, now
	return true
}

// sayClock tells the log that this node's clock is wrong. While nobody can know, it says
// nothing, and does not take back what it said.
func (c *Cluster) sayClock(w *warnings) {
	offset, known := c.compareClock()
	if !known {
		return
	}
	words := ClockWords(c.id.Node, offset)
	switch {
	case !w.due(words != "", c.clocks.quick()):
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
	if lag := time.Duration(in.wall-in.state)*time.Millisecond - offset; lag.Abs() > tooFar {
		return 0, false // the state's time has jumped between the two looks
	}
	if !in.second { // nobody tells
		return offset, true
	}
	_, median, known := c.clocksTold(in, term)
	return offset - max(median, 0), known
}

// clocksTold are the sessions that were renewed in the present term and after the last jump of
// the state's time, and what a majority of their clocks agrees on; 0 where none does.
// False: they are no majority of the voters yet. Offsets in older renewals are of another
// time: after a start of the whole cluster of when it was stopped.
func (c *Cluster) clocksTold(in instant, term uint64) (fresh []*pb.Session, median time.Duration, known bool) {
	jumped := in.ts.GetJumpedIndex()
	fresh = slices.DeleteFunc(in.sessions, func(s *pb.Session) bool {
		var l raft.Log
		return s.Renewed <= jumped || c.rlog.GetLog(s.Renewed, &l) != nil || l.Term != term
	})
	offs := offsets(fresh, in.voters, jumped)
	if at, ok := agreed(offs, len(in.voters)); ok {
		median = at
	}
	return fresh, median, len(offs) > len(in.voters)/2
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
	if ahead <= tooFar {
		ahead = 0
	}
	for i := range members {
		for _, s := range fresh {
			if off, said := offsetOf(s); known && said && s.Node == members[i].ID {
				members[i].ClockOffset = off - ahead
			}
		}
	}
	return nil
}

// abdication hands the leadership of a node over whose clock is far off.
type abdication struct {
	node  string
	next  time.Duration // not before, on the boot clock
	pause time.Duration
	// ready reports whether a node is caught up, and move hands over to it.
	ready func(ctx context.Context, node string) bool
	move  func(node string) error
}

const (
	abdicateFirst = time.Minute // how often it is tried, at first
	abdicateMax   = time.Hour
)

// round looks once, and reports whether it has handed over.
func (a *abdication) round(ctx context.Context, in instant, now time.Duration) error {
	if now < a.next {
		return nil
	}
	heirs := a.heirs(in)
	for _, heir := range heirs {
		if !a.ready(ctx, heir) {
			continue
		}
		a.pause = min(max(2*a.pause, abdicateFirst), abdicateMax)
		a.next = now + a.pause
		return a.move(heir)
	}
	return nil
}

// heirs are the voters near the median of a majority that agrees without this
// node, whose own clock is far from it; none where it may go on leading.
func (a *abdication) heirs(in instant) (heirs []string) {
	var own *pb.Session
	var others []*pb.Session
	for _, s := range in.sessions {
		if s.Node == a.node {
			own = s
		} else {
			others = append(others, s)
		}
	}
	median, ok := agreed(offsets(others, in.voters, in.ts.GetJumpedIndex()), len(in.voters))
	mine, known := offsetOf(own)
	if !ok || !known || (mine-median).Abs() <= tooFar {
		return nil
	}
	for _, s := range others {
		if off, known := offsetOf(s); known && (off-median).Abs() <= near && slices.Contains(in.voters, s.Node) {
			heirs = append(heirs, s.Node)
		}
	}
	return heirs
}

// newAbdication makes the abdication of a leader.
func (c *Cluster) newAbdication() *abdication {
	return &abdication{node: c.id.Node, ready: c.caughtUp, move: func(heir string) error {
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
			return fmt.Errorf("%w: node %s is being drained: undrain it before it leads", ErrStays, node)
		}
		if off, known := offsetOf(s); s.Node == node && known && off.Abs() > tooFar {
			return fmt.Errorf("%w: %s: set it before that node leads", ErrStays, ClockWords(node, off))
		}
	}
	return nil
}
