package disk

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// scheduler grants one database its compactions, as many at a time as the database allows
// itself. It does what Pebble's own does, but looks by the clock only while a compaction
// waits, where Pebble's looks ten times a second for ever: an idle processor has to wake
// for each look. A compaction waits only after TrySchedule has refused one.
//
// The database holds locks of its own when it calls TrySchedule and
// UpdateGetAllowedWithoutPermission, and takes them in GetWaitingCompaction and Schedule:
// these two are never called with the mutex held.
type scheduler struct {
	db pebble.DBForCompaction // set once, by Register

	mu       sync.Mutex
	idle     sync.Cond // nobody grants
	running  int       // compactions
	granting bool      // somebody calls the database
	waits    bool      // the database has a compaction that was refused
	ended    bool
	timer    *time.Timer // of the next look
}

// schedulerLook is how often it is looked whether a compaction that waits may run.
const schedulerLook = 100 * time.Millisecond

func newScheduler() *scheduler {
	s := &scheduler{}
	s.idle.L = &s.mu
	return s
}

// Register implements pebble.CompactionScheduler.
func (s *scheduler) Register(_ int, db pebble.DBForCompaction) { s.db = db }

// Unregister implements pebble.CompactionScheduler: after it no call reaches the database.
func (s *scheduler) Unregister() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.timer != nil {
		s.timer.Stop()
	}
	for s.granting {
		s.idle.Wait()
	}
}

// TrySchedule implements pebble.CompactionScheduler.
func (s *scheduler) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false, nil
	}
	if s.db.GetAllowedWithoutPermission() > s.running {
		s.running++
		return true, s
	}
	s.waits = true
	s.lookIn(schedulerLook)
	return false, nil
}

// UpdateGetAllowedWithoutPermission implements pebble.CompactionScheduler.
func (s *scheduler) UpdateGetAllowedWithoutPermission() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waits && s.db.GetAllowedWithoutPermission() > s.running {
		s.lookIn(0)
	}
}

// lookIn has the next look after d. The caller holds the mutex.
func (s *scheduler) lookIn(d time.Duration) {
	switch {
	case s.ended:
	case s.timer == nil:
		s.timer = time.AfterFunc(d, s.grant)
	default:
		s.timer.Reset(d)
	}
}

// Started implements pebble.CompactionGrantHandle.
func (s *scheduler) Started() {}

// MeasureCPU implements pebble.CompactionGrantHandle.
func (s *scheduler) MeasureCPU(pebble.CompactionGoroutineKind) {}

// CumulativeStats implements pebble.CompactionGrantHandle.
func (s *scheduler) CumulativeStats(pebble.CompactionGrantHandleStats) {}

// Done implements pebble.CompactionGrantHandle.
func (s *scheduler) Done() {
	s.mu.Lock()
	s.running--
	s.mu.Unlock()
	s.grant()
}

// grant has the database begin what waits and may run.
func (s *scheduler) grant() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.granting {
		s.idle.Wait()
	}
	if s.ended || !s.waits {
		return
	}
	s.granting = true
	for s.waits && s.db.GetAllowedWithoutPermission() > s.running {
		s.running++
		s.waits = false // TrySchedule may refuse another one from here on
		s.mu.Unlock()
		waiting, _ := s.db.GetWaitingCompaction()
		begun := waiting && s.db.Schedule(s)
		s.mu.Lock()
		if waiting {
			s.waits = true
		}
		if !begun {
			s.running--
		}
		if waiting && !begun {
			break
		}
	}
	s.granting = false
	s.idle.Broadcast()
	if s.waits {
		s.lookIn(schedulerLook)
	}
}
