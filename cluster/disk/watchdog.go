package disk

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// stallTicks is how many ticks a write may take, whatever StallAfter is.
const stallTicks = 40

// watchdog tells of a write that hangs. It counts ticks of this process, not
// time: a machine that was paused for an hour in the middle of a write has had
// one tick, and the write, which hung no longer than the machine, goes on.
type watchdog struct {
	mu    sync.Mutex
	timer *time.Timer
	every time.Duration
	left  int // ticks; 0: it is over
	hangs func()
}

// watch calls hangs once, unless the watchdog is stopped within limit.
func watch(limit time.Duration, hangs func()) *watchdog {
	w := &watchdog{every: limit / stallTicks, left: stallTicks, hangs: hangs}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(w.every, w.tick)
	return w
}

func (w *watchdog) tick() {
	w.mu.Lock()
	over := w.left == 0
	if !over {
		if w.left--; w.left > 0 {
			w.timer.Reset(w.every)
		}
	}
	hangs := !over && w.left == 0
	w.mu.Unlock()
	if hangs {
		w.hangs()
	}
}

// stop ends the watch. It does not wait for a call of hangs that has begun.
func (w *watchdog) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left = 0
	w.timer.Stop()
}

// When Pebble tells of a slow operation: first after slowAfter, then every
// slowEvery, by the time that has passed.
const (
	slowAfter = 5 * time.Second
	slowEvery = 2 * time.Second
)

// slowness counts how often Pebble told of each operation that is under way, for
// the same reason as watchdog counts ticks.
type slowness struct {
	mu   sync.Mutex
	seen map[slowOp]slowCount
}

type slowOp struct{ path, op string }

type slowCount struct {
	began time.Time
	times int
}

// slowOps is how many operations are remembered; more do not hang at once.
const slowOps = 64

// lasted is how long an operation takes by now, without the time that the
// machine was paused.
func (s *slowness) lasted(i pebble.DiskSlowInfo, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	op, began := slowOp{i.Path, i.OpType.String()}, now.Add(-i.Duration)
	one := s.seen[op]
	if began.Sub(one.began).Abs() > slowEvery/2 {
		one = slowCount{began: began}
	}
	one.times++
	if s.seen == nil || len(s.seen) >= slowOps {
		s.seen = map[slowOp]slowCount{}
	}
	s.seen[op] = one
	return min(i.Duration, slowAfter+time.Duration(one.times)*slowEvery)
}
