package clock

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Clocks is where the cluster reads time: no other file asks the machine for
// the wall clock or the boot clock, and tests put others in their place.
//
// Three things need a clock. Leases are counted on boot, which never jumps and
// counts suspends. The cluster's idea of the time is a vote of its members' wall
// clocks. State time serves for every comparison with a replicated time: see
// StateClock.
type Clocks struct {
	Wall func() time.Time
	Boot func() time.Duration
	// quick is boot without the system call: Go's monotonic clock, plus the
	// suspends that the last resync has found.
	Quick func() time.Duration
	// recent is quick with a resync each freshness: it tells whether a lease has
	// ended as boot does, but within freshness of a suspend. A caller that is
	// suspended between its question and its act is no better off with boot.
	Recent func() time.Duration

	start time.Time
	slept atomic.Int64
	asked atomic.Int64 // when recent resynced last, since start
}

// NewClocks makes the clocks of a node; nil: the machine's.
func NewClocks(wall func() time.Time, boot func() time.Duration) *Clocks {
	k := &Clocks{Wall: wall, Boot: boot, start: time.Now()}
	if k.Wall == nil {
		k.Wall = time.Now
	}
	if k.Boot != nil {
		k.Quick, k.Recent = k.Boot, k.Boot
		return k
	}
	k.Boot = BootNow
	k.Quick = func() time.Duration { return time.Since(k.start) + time.Duration(k.slept.Load()) }
	k.Recent = func() time.Duration {
		since := time.Since(k.start)
		if asked := k.asked.Load(); int64(since)-asked > int64(freshness) && k.asked.CompareAndSwap(asked, int64(since)) {
			k.Resync()
		}
		return since + time.Duration(k.slept.Load())
	}
	k.Resync()
	return k
}

// freshness bounds how long recent goes without the system call.
const freshness = 5 * time.Millisecond

// Resync makes quick agree with boot again after a suspend.
func (k *Clocks) Resync() {
	if k.start.IsZero() {
		return
	}
	slept := int64(k.Boot() - time.Since(k.start))
	if old := k.slept.Load(); slept-old > int64(time.Millisecond) || old == 0 {
		k.slept.Store(slept)
	}
}

// bucket is how long StateClock looks back, once or twice.
const bucket = 5 * time.Second

// StateClock tells state time between the entries that bring it: the greatest
// difference to this machine's clock that entries of the last five to ten
// seconds have shown. The greatest, because an entry that was delayed on its way
// shows a smaller one; and so Now is never before a stamp that is applied here.
type StateClock struct {
	quick func() time.Duration
	wall  func() time.Time // until the first entry of a new cluster
	ahead atomic.Int64     // state time less quick, in nanoseconds; 0: not known yet

	mu          sync.Mutex
	turned      time.Duration // when the present bucket began
	now, before int64         // what this bucket and the last one have shown
}

// NewStateClock makes a clock that goes by the machine's until the state has one.
func NewStateClock(k *Clocks) *StateClock { return &StateClock{quick: k.Quick, wall: k.Wall} }

// Now is the state time.
func (s *StateClock) Now() time.Time {
	ahead := s.ahead.Load()
	if ahead == 0 {
		return s.wall().Round(0)
	}
	return time.Unix(0, int64(s.quick())+ahead)
}

// Applied hears of the clock of the state after entries were applied here. jumped:
// one of them moved it by a jump, and what was seen before says nothing any more.
func (s *StateClock) Applied(clockMs int64, jumped bool) {
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

// Sleep waits for d or the end of ctx.
func Sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
