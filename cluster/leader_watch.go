package cluster

import (
	"sync"
	"sync/atomic"
	"time"
)

// leaderWatch tells who leads, and wakes those who wait for that to change.
type leaderWatch struct {
	mu  sync.Mutex // serialises set
	now atomic.Pointer[leaderMark]
}

// leaderMark is one answer to "who leads?". changed is closed when it is no
// longer the answer.
type leaderMark struct {
	leader  string // empty: nobody that we know of
	term    uint64
	since   time.Time // when it became the answer
	changed chan struct{}
}

func newLeaderWatch() *leaderWatch {
	b := &leaderWatch{}
	b.now.Store(&leaderMark{since: time.Now(), changed: make(chan struct{})})
	return b
}

// current returns the present answer; it is cheap.
func (b *leaderWatch) current() *leaderMark { return b.now.Load() }

// set sets the answer. It reports whether it was news.
func (b *leaderWatch) set(leader string, term uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.now.Load()
	if old.leader == leader && old.term == term {
		return false
	}
	b.now.Store(&leaderMark{leader: leader, term: term, since: time.Now(), changed: make(chan struct{})})
	close(old.changed)
	return true
}
