package cluster

import (
	"sync"
	"sync/atomic"
	"time"
)

// beacon shows who leads, and wakes those who wait for that to change.
type beacon struct {
	mu  sync.Mutex // serialises show
	now atomic.Pointer[reignMark]
}

// reignMark is one answer to "who leads?". changed is closed when it is no
// longer the answer.
type reignMark struct {
	leader  string // empty: nobody that we know of
	term    uint64
	since   time.Time // when it became the answer
	changed chan struct{}
}

func newBeacon() *beacon {
	b := &beacon{}
	b.now.Store(&reignMark{since: time.Now(), changed: make(chan struct{})})
	return b
}

// look returns the present answer; it is cheap.
func (b *beacon) look() *reignMark { return b.now.Load() }

// show sets the answer. It reports whether it was news.
func (b *beacon) show(leader string, term uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.now.Load()
	if old.leader == leader && old.term == term {
		return false
	}
	b.now.Store(&reignMark{leader: leader, term: term, since: time.Now(), changed: make(chan struct{})})
	close(old.changed)
	return true
}
