package propose

import (
	"sync"
	"sync/atomic"
	"time"
)

// LeaderWatch tells who leads, and wakes those who wait for that to change.
type LeaderWatch struct {
	mu  sync.Mutex // serialises set
	now atomic.Pointer[LeaderMark]
}

// LeaderMark is one answer to "who leads?". changed is closed when it is no
// longer the answer.
type LeaderMark struct {
	Leader  string // empty: nobody that we know of
	term    uint64
	Since   time.Time // when it became the answer
	Changed chan struct{}
}

// NewLeaderWatch makes a watch that knows no leader.
func NewLeaderWatch() *LeaderWatch {
	b := &LeaderWatch{}
	b.now.Store(&LeaderMark{Since: time.Now(), Changed: make(chan struct{})})
	return b
}

// Current returns the present answer; it is cheap.
func (b *LeaderWatch) Current() *LeaderMark { return b.now.Load() }

// Set sets the answer. It reports whether it was news.
func (b *LeaderWatch) Set(leader string, term uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.now.Load()
	if old.Leader == leader && old.term == term {
		return false
	}
	b.now.Store(&LeaderMark{Leader: leader, term: term, Since: time.Now(), Changed: make(chan struct{})})
	close(old.Changed)
	return true
}
