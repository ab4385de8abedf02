package clock

import (
	"context"
	"fmt"
	"slices"
	"time"

	pb "relay/cluster/spool/spoolpb"
)

// A node whose clock is wrong serves on: nothing of the state goes by it. It says
// so, and does not lead where a node with a right clock can.

// Status is what a node knows of its clock and of the state's time.
type Status struct {
	Offset    time.Duration // of its wall clock to the state's time
	Agreement bool          // a majority of the members agree with the state's time
	Jumps     int64         // of the state's time that this process has applied
}

// Words says in a sentence that a node's clock is wrong; empty: it is not.
func Words(node string, offset time.Duration) string {
	if offset.Abs() <= Near {
		return ""
	}
	way := "ahead of"
	if offset < 0 {
		way = "behind"
	}
	return fmt.Sprintf("node %s's clock is %s %s the cluster's", node, offset.Abs().Round(time.Second), way)
}

// Warnings remembers what was said of a clock.
type Warnings struct {
	wrong bool
	at    time.Duration
}

// Due reports whether to say now that a clock is wrong, or right again: at the
// change, and hourly while it is wrong.
func (w *Warnings) Due(wrong bool, now time.Duration) bool {
	if wrong == w.wrong && (!wrong || now-w.at < quietFor) {
		return false
	}
	w.wrong, w.at = wrong, now
	return true
}

// Abdication hands the leadership of a node over whose clock is far off.
type Abdication struct {
	Node  string
	next  time.Duration // not before, on the boot clock
	pause time.Duration
	// ready reports whether a node is caught up, and move hands over to it.
	Ready func(ctx context.Context, node string) bool
	Move  func(node string) error
}

const (
	abdicateFirst = time.Minute // how often it is tried, at first
	abdicateMax   = time.Hour
)

// Round looks once, and reports whether it has handed over.
func (a *Abdication) Round(ctx context.Context, in Instant, now time.Duration) error {
	if now < a.next {
		return nil
	}
	heirs := a.heirs(in)
	for _, heir := range heirs {
		if !a.Ready(ctx, heir) {
			continue
		}
		a.pause = min(max(2*a.pause, abdicateFirst), abdicateMax)
		a.next = now + a.pause
		return a.Move(heir)
	}
	return nil
}

// heirs are the voters near the median of a majority that agrees without this
// node, whose own clock is far from it; none where it may go on leading.
func (a *Abdication) heirs(in Instant) (heirs []string) {
	var own *pb.Session
	var others []*pb.Session
	for _, s := range in.Sessions {
		if s.Node == a.Node {
			own = s
		} else {
			others = append(others, s)
		}
	}
	median, ok := Agreed(Offsets(others, in.Voters, in.Time.GetJumpedIndex()), len(in.Voters))
	mine, known := OffsetOf(own)
	if !ok || !known || (mine-median).Abs() <= TooFar {
		return nil
	}
	for _, s := range others {
		if off, known := OffsetOf(s); known && (off-median).Abs() <= Near && slices.Contains(in.Voters, s.Node) {
			heirs = append(heirs, s.Node)
		}
	}
	return heirs
}
