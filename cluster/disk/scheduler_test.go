package disk

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/stretchr/testify/require"
)

// fakeEngine is a database that has compactions to run.
type fakeEngine struct {
	mu      sync.Mutex
	s       *scheduler
	allowed atomic.Int64
	todo    int
	waiting bool
	running []pebble.CompactionGrantHandle
	asked   int // calls of GetWaitingCompaction
}

func (e *fakeEngine) GetAllowedWithoutPermission() int { return int(e.allowed.Load()) }

func (e *fakeEngine) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked++
	e.waiting = e.waiting && e.todo > 0
	return e.waiting, pebble.WaitingCompaction{}
}

func (e *fakeEngine) Schedule(h pebble.CompactionGrantHandle) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.waiting || e.todo == 0 {
		return false
	}
	e.todo--
	e.running = append(e.running, h)
	return true
}

// want has the database try to run what it has to do.
func (e *fakeEngine) want(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.todo += n; e.todo > 0 && !e.waiting; {
		ok, h := e.s.TrySchedule()
		if !ok {
			e.waiting = true
			return
		}
		e.todo--
		e.running = append(e.running, h)
	}
}

// count is how many compactions run.
func (e *fakeEngine) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.running)
}

// finish ends one compaction.
func (e *fakeEngine) finish() {
	e.mu.Lock()
	h := e.running[0]
	e.running = e.running[1:]
	e.mu.Unlock()
	h.Done()
}

func inScheduler(t *testing.T, fn func(s *scheduler, e *fakeEngine)) {
	synctest.Test(t, func(*testing.T) {
		s := newScheduler()
		e := &fakeEngine{s: s}
		e.allowed.Store(1)
		s.Register(2, e)
		fn(s, e)
		s.Unregister()
	})
}

// TestCompactionsThatWaitAreBegun: when one ends, when more are allowed and the scheduler is
// told, and when more are allowed and it is not.
func TestCompactionsThatWaitAreBegun(t *testing.T) {
	inScheduler(t, func(s *scheduler, e *fakeEngine) {
		e.want(4)
		require.Equal(t, 1, e.count())
		e.finish()
		require.Equal(t, 1, e.count(), "the next one")
		e.allowed.Store(2)
		s.UpdateGetAllowedWithoutPermission()
		synctest.Wait()
		require.Equal(t, 2, e.count())
		e.allowed.Store(3)
		synctest.Wait()
		require.Equal(t, 2, e.count(), "nobody has told")
		time.Sleep(schedulerLook)
		synctest.Wait()
		require.Equal(t, 3, e.count())
		require.Zero(t, e.todo)
		for range 3 {
			e.finish()
		}
		require.Zero(t, s.running)
	})
}

// TestNothingLooksWhileNothingWaits: neither before a compaction was refused nor after the
// last one has begun.
func TestNothingLooksWhileNothingWaits(t *testing.T) {
	inScheduler(t, func(s *scheduler, e *fakeEngine) {
		e.want(1)
		e.finish()
		s.UpdateGetAllowedWithoutPermission()
		time.Sleep(time.Hour)
		require.Zero(t, e.asked)
		e.want(2)
		e.finish()
		e.finish()
		time.Sleep(time.Second)
		asked := e.asked
		time.Sleep(time.Hour)
		require.Equal(t, asked, e.asked)
		require.False(t, s.waits)
		require.Zero(t, s.running)
	})
}

// TestNoCallAfterUnregister reaches the database.
func TestNoCallAfterUnregister(t *testing.T) {
	inScheduler(t, func(s *scheduler, e *fakeEngine) {
		e.want(2)
		s.Unregister()
		e.finish()
		time.Sleep(time.Second)
		require.Zero(t, e.asked)
		ok, _ := s.TrySchedule()
		require.False(t, ok)
	})
}
