package cluster

import (
	"context"
	"time"

	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

// steering is the leader's part in keeping the state's time right. The time runs
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
type steering struct {
	barrier uint64 // index of the barrier
	first   bool   // the first term since this process began: after a cold start the time is late for long enough
	// late: since this process began, it has not found the time near what a majority agrees
	// on, under whichever leader. After the whole cluster was off, the time is late for as
	// long as that, and the first leader may not have led for long enough to make it jump.
	late  bool
	t     tuning.Tuning
	now   func() int64 // the stamper's
	boot  func() time.Duration
	slew  func(ppm int64)
	base  func(to int64)
	clock func() int64 // Cluster.Now
	// jump proposes a Clock. It returns the index at which it was applied, or 0.
	jump func(context.Context, *pb.Clock) uint64

	second bool          // the cluster version is 2 at least, as of the last round
	jumped uint64        // index of the last jump that the stamper goes on from
	away   time.Duration // since when the time is far from what a majority agrees on, on boot's clock; 0: it is not
	behind bool          // and that majority is behind it
}

// instant is what one round goes by.
type instant struct {
	state    int64 // the clock of the state as applied here, in milliseconds
	sessions []*pb.Session
	ts       *pb.TimeState
	voters   []string
	second   bool  // the cluster version is 2 at least
	wall     int64 // of this machine
}

// resume makes sure that stamps move the clock: each that is more than a minute
// ahead of it does nothing. So it is after a suspend, or minutes without a quorum,
// when the boot clock has run on. False: look again.
func (s *steering) resume(ctx context.Context, in instant) bool {
	switch jumped := in.ts.GetJumpedIndex(); {
	case jumped != s.jumped || in.second != s.second:
		s.goOn(jumped)
		s.second = in.second
	case in.second && in.state != 0 && s.now()-in.state > freeRun:
		s.leap(ctx, &pb.Clock{FromMs: in.state, ToMs: s.now()})
		return false
	}
	return true
}

// freeRun is how far the stamper may be ahead of the clock.
const freeRun = 30_000

// goOn makes the stamper go on from a jump, whoever has made it.
func (s *steering) goOn(jumped uint64) {
	s.base(s.clock())
	s.jumped, s.away = jumped, 0
}

func (s *steering) leap(ctx context.Context, h *pb.Clock) {
	if index := s.jump(ctx, h); index != 0 {
		s.goOn(index)
	}
}

// round steers once.
func (s *steering) round(ctx context.Context, in instant) {
	if !s.resume(ctx, in) {
		return
	}
	if !in.second {
		s.follow(time.Duration(in.wall-s.now()) * time.Millisecond)
		return
	}
	median, ok := agreed(offsets(in.sessions, in.voters, max(s.barrier, in.ts.GetJumpedIndex())), len(in.voters))
	switch {
	case !ok:
		s.slew(0)
		s.away = 0
	case median.Abs() <= tooFar && !(s.late && s.first && median > near):
		s.late = s.late && median.Abs() > near
		s.follow(median)
		s.away = 0
	default:
		s.slew(0)
		s.consider(ctx, in, median)
	}
}

// follow slews towards a clock that is so far ahead.
func (s *steering) follow(ahead time.Duration) {
	switch ppm := min(maxSlew, 20_000+2*ahead.Abs().Milliseconds()); {
	case ahead.Abs() <= 250*time.Millisecond:
		s.slew(0)
	case ahead > 0:
		s.slew(ppm)
	default:
		s.slew(-ppm)
	}
}

// consider jumps to what a majority has agreed on for long enough. One that is behind
// is followed late: ages count for what is ahead, so that to go on there is safe.
func (s *steering) consider(ctx context.Context, in instant, median time.Duration) {
	now, behind := s.boot(), median < 0
	if s.away == 0 || behind != s.behind {
		s.away, s.behind = now, behind
	}
	need := s.t.ClockAhead
	switch {
	case behind:
		need = s.t.ClockBehind
	case s.first:
		need = s.t.ClockFirst
	}
	if now-s.away < need {
		return
	}
	s.away, s.first, s.late = 0, false, false
	from := max(s.barrier, s.jumped)
	s.leap(ctx, &pb.Clock{FromMs: in.state, ToMs: s.now() + median.Milliseconds(), FromIndex: from + 1})
}

// lookAgain is how long a new leader waits until its stamps move the clock.
const lookAgain = 25 * time.Millisecond

// begin makes a term's stamps begin: they go on from where the time stands here,
// and nothing but a Clock is stamped until they move it.
func (s *steering) begin(ctx context.Context, look func() (instant, error), let func(stamping)) bool {
	for first := true; ctx.Err() == nil; first = false {
		in, err := look()
		if err != nil {
			return false
		}
		if first {
			s.goOn(in.ts.GetJumpedIndex())
			if s.second = in.second; !in.second {
				s.base(max(in.wall, s.clock())) // as version 1 does
			}
			let(stampClock)
		}
		if s.resume(ctx, in) {
			let(stampAll)
			return true
		}
		sleep(ctx, lookAgain)
	}
	return false
}
