package log

import (
	"sync"
	"time"
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
