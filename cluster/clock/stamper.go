package clock

import (
	"time"

	"relay/cluster/spool"
)

// Stamper makes the stamps of a leader's term: the state's time, running on the
// clock of this machine that never jumps, and slewed by Steering. It is guarded by
// its owner's mutex.
type Stamper struct {
	quick func() time.Duration
	State Stamping
	base  int64         // the state's time in milliseconds, at
	at    time.Duration // on quick's clock
	ppm   int64         // runs so much faster
	last  int64         // stamp given: stamps never run backwards
}

// NewStamper makes a stamper that stamps nothing yet.
func NewStamper(quick func() time.Duration) Stamper { return Stamper{quick: quick} }

// Stamping says which commands of this node's batcher may be stamped.
type Stamping uint8

const (
	StampNone  Stamping = iota // the time of this term is not known yet
	stampClock                 // only the Clock with which it begins
	StampAll
)

// May reports whether a frame may go into the log by this leader.
func (s *Stamper) May(f spool.Frame) bool {
	return s.State == StampAll || s.State == stampClock && f.Kind() == spool.KindClock
}

// maxSlew bounds how much faster or slower than real time the state's time runs.
const maxSlew = 100_000 // parts per million

// Now is the state's time in this term, in milliseconds.
func (s *Stamper) Now() int64 {
	el := (s.quick() - s.at).Milliseconds()
	return s.base + el + el*s.ppm/1e6
}

// Stamp is taken once a group.
func (s *Stamper) Stamp() int64 {
	s.last = max(s.last, s.Now())
	return s.last
}

// Rebase goes on from a time: at the start of a term, and when a jump is made.
func (s *Stamper) Rebase(to int64) { s.base, s.at, s.last, s.ppm = to, s.quick(), to, 0 }

// Slew makes the time run so much faster, in parts per million.
func (s *Stamper) Slew(ppm int64) {
	if ppm != s.ppm {
		s.base, s.at, s.ppm = s.Now(), s.quick(), ppm
	}
}
