package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

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
