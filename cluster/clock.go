package cluster

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// clocks is where the cluster reads time: no other file asks the machine for
// the wall clock or the boot clock, and tests put others in their place.
//
// Three things need a clock. Leases are counted on boot, which never jumps and
// counts suspends. The cluster's idea of the time is a vote of its members' wall
// clocks. State time serves for every comparison with a replicated time: see
// stateClock.
type clocks struct {
	wall func() time.Time
	boot func() time.Duration
	// quick is boot without the system call: Go's monotonic clock, plus the
	// suspends that the last resync has found.
	quick func() time.Duration
	// recent is quick with a resync each freshness: it tells whether a lease has
	// ended as boot does, but within freshness of a suspend. A caller that is
	// suspended between its question and its act is no better off with boot.
	recent func() time.Duration

	start time.Time
	slept atomic.Int64
	asked atomic.Int64 // when recent resynced last, since start
}

// newClocks makes the clocks of a node; nil: the machine's.
func newClocks(wall func() time.Time, boot func() time.Duration) *clocks {
	k := &clocks{wall: wall, boot: boot, start: time.Now()}
	if k.wall == nil {
		k.wall = time.Now
	}
	if k.boot != nil {
		k.quick, k.recent = k.boot, k.boot
		return k
	}
	k.boot = bootNow
	k.quick = func() time.Duration { return time.Since(k.start) + time.Duration(k.slept.Load()) }
	k.recent = func() time.Duration {
		since := time.Since(k.start)
		if asked := k.asked.Load(); int64(since)-asked > int64(freshness) && k.asked.CompareAndSwap(asked, int64(since)) {
			k.resync()
		}
		return since + time.Duration(k.slept.Load())
	}
	k.resync()
	return k
}

// freshness bounds how long recent goes without the system call.
const freshness = 5 * time.Millisecond

// resync makes quick agree with boot again after a suspend.
func (k *clocks) resync() {
	if k.start.IsZero() {
		return
	}
	slept := int64(k.boot() - time.Since(k.start))
	if old := k.slept.Load(); slept-old > int64(time.Millisecond) || old == 0 {
		k.slept.Store(slept)
	}
}

// bucket is how long stateClock looks back, once or twice.
const bucket = 5 * time.Second

// stateClock tells state time between the entries that bring it: the greatest
// difference to this machine's clock that entries of the last five to ten
// seconds have shown. The greatest, because an entry that was delayed on its way
// shows a smaller one; and so Now is never before a stamp that is applied here.
type stateClock struct {
	quick func() time.Duration
	wall  func() time.Time // until the first entry of a new cluster
	ahead atomic.Int64     // state time less quick, in nanoseconds; 0: not known yet

	mu          sync.Mutex
	turned      time.Duration // when the present bucket began
	now, before int64         // what this bucket and the last one have shown
}

// Now is the state time.
func (s *stateClock) Now() time.Time {
	ahead := s.ahead.Load()
	if ahead == 0 {
		return s.wall().Round(0)
	}
	return time.Unix(0, int64(s.quick())+ahead)
}

// applied hears of the clock of the state after entries were applied here. jumped:
// one of them moved it by a jump, and what was seen before says nothing any more.
func (s *stateClock) applied(clockMs int64, jumped bool) {
	if clockMs == 0 {
		return
	}
	at := s.quick()
	ahead := clockMs*int64(time.Millisecond) - int64(at)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case jumped || s.turned == 0:
		s.turned, s.now, s.before = at, ahead, ahead
	case at-s.turned >= bucket:
		s.turned, s.before, s.now = at, s.now, ahead
	default:
		s.now = max(s.now, ahead)
	}
	s.ahead.Store(max(s.now, s.before))
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
