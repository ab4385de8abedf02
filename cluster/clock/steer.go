package clock

import (
	"context"
	"time"

	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

// Steering is the leader's part in keeping the state's time right. The time runs
// on the leader's boot clock, and is only steered by the wall clocks of the
// members: towards the median of a majority that agree, slowly where it is up to
// a minute away, by a logged jump where it is more and stays so. If no majority
// agrees it runs freely. The leader's own wall clock is one vote among the others.
//
// Each renewal carries its sender's wall clock; its difference to the state's time
// stands in the session, so that all nodes know all offsets. A majority of the voters
// within 5 s of their median agree: up to a minute the time is slewed towards it, by a
// tenth at most; further away it jumps by a Clock, forward after 10 s (2 s in the first
// term of a process), back after 10 min. After all were off the time is late by that;
// where it is by more than 5 s when a process first leads, it jumps, too, or all clocks
// would be named wrong for minutes. After a suspend the stamps are further ahead than
// the state moves for: the leader proposes a Clock first.
type Steering struct {
	Barrier uint64 // index of the barrier
	// First says that this is the process's first term, or that it has not found the time in
	// those before: after a cold start the time is late for long enough.
	First bool
	// late: since this process began, it has not found the time near what a majority agrees
	// on, under whichever leader. After the whole cluster was off, the time is late for as
	// long as that, and the first leader may not have led for long enough to make it jump.
	Late   bool
	Tuning tuning.Tuning
	Now    func() int64 // the stamper's
	Boot   func() time.Duration
	Slew   func(ppm int64)
	Base   func(to int64)
	Clock  func() int64 // Cluster.Now
	// jump proposes a Clock. It returns the index at which it was applied, or 0.
	Jump func(context.Context, *pb.Clock) uint64

	second bool          // the cluster version is 2 at least, as of the last round
	jumped uint64        // index of the last jump that the stamper goes on from
	away   time.Duration // since when the time is far from what a majority agrees on, on boot's clock; 0: it is not
	behind bool          // and that majority is behind it
}

// Instant is what one round goes by.
type Instant struct {
	State    int64 // the clock of the state as applied here, in milliseconds
	Sessions []*pb.Session
	Time     *pb.TimeState
	Voters   []string
	Second   bool  // the cluster version is 2 at least
	Wall     int64 // of this machine
}

// resume makes sure that stamps move the clock: each that is more than a minute
// ahead of it does nothing. So it is after a suspend, or minutes without a quorum,
// when the boot clock has run on. False: look again.
func (s *Steering) resume(ctx context.Context, in Instant) bool {
	switch jumped := in.Time.GetJumpedIndex(); {
	case jumped != s.jumped || in.Second != s.second:
		s.goOn(jumped)
		s.second = in.Second
	case in.Second && in.State != 0 && s.Now()-in.State > freeRun:
		s.leap(ctx, &pb.Clock{FromMs: in.State, ToMs: s.Now()})
		return false
	}
	return true
}

// freeRun is how far the stamper may be ahead of the clock.
const freeRun = 30_000

// goOn makes the stamper go on from a jump, whoever has made it.
func (s *Steering) goOn(jumped uint64) {
	s.Base(s.Clock())
	s.jumped, s.away = jumped, 0
}

func (s *Steering) leap(ctx context.Context, h *pb.Clock) {
	if index := s.Jump(ctx, h); index != 0 {
		s.goOn(index)
	}
}

// Round steers once.
func (s *Steering) Round(ctx context.Context, in Instant) {
	if !s.resume(ctx, in) {
		return
	}
	if !in.Second {
		s.follow(time.Duration(in.Wall-s.Now()) * time.Millisecond)
		return
	}
	median, ok := Agreed(Offsets(in.Sessions, in.Voters, max(s.Barrier, in.Time.GetJumpedIndex())), len(in.Voters))
	switch {
	case !ok:
		s.Slew(0)
		s.away = 0
	case median.Abs() <= TooFar && !(s.Late && s.First && median > Near):
		s.Late = s.Late && median.Abs() > Near
		s.follow(median)
		s.away = 0
	default:
		s.Slew(0)
		s.consider(ctx, in, median)
	}
}

// follow slews towards a clock that is so far ahead.
func (s *Steering) follow(ahead time.Duration) {
	switch ppm := min(maxSlew, 20_000+2*ahead.Abs().Milliseconds()); {
	case ahead.Abs() <= 250*time.Millisecond:
		s.Slew(0)
	case ahead > 0:
		s.Slew(ppm)
	default:
		s.Slew(-ppm)
	}
}

// consider jumps to what a majority has agreed on for long enough. One that is behind
// is followed late: ages count for what is ahead, so that to go on there is safe.
func (s *Steering) consider(ctx context.Context, in Instant, median time.Duration) {
	now, behind := s.Boot(), median < 0
	if s.away == 0 || behind != s.behind {
		s.away, s.behind = now, behind
	}
	need := s.Tuning.ClockAhead
	switch {
	case behind:
		need = s.Tuning.ClockBehind
	case s.First:
		need = s.Tuning.ClockFirst
	}
	if now-s.away < need {
		return
	}
	s.away, s.First, s.Late = 0, false, false
	from := max(s.Barrier, s.jumped)
	s.leap(ctx, &pb.Clock{FromMs: in.State, ToMs: s.Now() + median.Milliseconds(), FromIndex: from + 1})
}

// lookAgain is how long a new leader waits until its stamps move the clock.
const lookAgain = 25 * time.Millisecond

// Begin makes a term's stamps begin: they go on from where the time stands here,
// and nothing but a Clock is stamped until they move it.
func (s *Steering) Begin(ctx context.Context, look func() (Instant, error), let func(Stamping)) bool {
	for first := true; ctx.Err() == nil; first = false {
		in, err := look()
		if err != nil {
			return false
		}
		if first {
			s.goOn(in.Time.GetJumpedIndex())
			if s.second = in.Second; !in.Second {
				s.Base(max(in.Wall, s.Clock())) // as version 1 does
			}
			let(stampClock)
		}
		if s.resume(ctx, in) {
			let(StampAll)
			return true
		}
		Sleep(ctx, lookAgain)
	}
	return false
}
