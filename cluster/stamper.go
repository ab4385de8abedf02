package cluster

import (
	"time"

	"relay/cluster/spool"
)

// stamper makes the stamps of a leader's term: the state's time, running on the
// clock of this machine that never jumps, and slewed by steer. It is guarded by
// batcher.mu.
type stamper struct {
	quick func() time.Duration
	state stamping
	base  int64         // the state's time in milliseconds, at
	at    time.Duration // on quick's clock
	ppm   int64         // runs so much faster
	last  int64         // stamp given: stamps never run backwards
}

// stamping says which commands of this node's batcher may be stamped.
type stamping uint8

const (
	stampNone  stamping = iota // the time of this term is not known yet
	stampClock                 // only the Clock with which it begins
	stampAll
)

// may reports whether a frame may go into the log by this leader.
func (s *stamper) may(f spool.Frame) bool {
	return s.state == stampAll || s.state == stampClock && f.Kind() == spool.KindClock
}

// maxSlew bounds how much faster or slower than real time the state's time runs.
const maxSlew = 100_000 // parts per million

func (s *stamper) now() int64 {
	el := (s.quick() - s.at).Milliseconds()
	return s.base + el + el*s.ppm/1e6
}

// stamp is taken once a group.
func (s *stamper) stamp() int64 {
	s.last = max(s.last, s.now())
	return s.last
}

// rebase goes on from a time: at the start of a term, and when a jump is made.
func (s *stamper) rebase(to int64) { s.base, s.at, s.last, s.ppm = to, s.quick(), to, 0 }

func (s *stamper) slew(ppm int64) {
	if ppm != s.ppm {
		s.base, s.at, s.ppm = s.now(), s.quick(), ppm
	}
}
