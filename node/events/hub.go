// Package events shows what happens to messages while it happens: the lines of the histories
// and of the audit log, in the order of the log, to those who watch.
//
// Every node applies every command, so any node can be watched. Nothing is kept for a watcher
// that is not there: without one a command looks at a flag and does nothing more.
package events

import (
	"sync"
	"sync/atomic"

	"relay/cluster/spool"
)

const (
	// ringSize is how far a watcher may stay behind before it misses events.
	ringSize = 4096
	// watchersMost bounds the watchers of one node.
	watchersMost = 32
)

// Hub hands what happens to the watchers of one node. Its methods may be called concurrently.
type Hub struct {
	on atomic.Bool // somebody watches

	mu       sync.Mutex
	ring     []spool.Happening // nil while nobody watches
	next     uint64            // number of the next happening
	restored uint64            // snapshots that replaced the state
	wake     chan struct{}     // closed when there is more
	watchers int
	closed   bool
}

// NewHub returns a hub that nobody watches.
func NewHub() *Hub { return &Hub{wake: make(chan struct{})} }

// Watched is set while somebody watches, for spool.Machine.Watch.
func (h *Hub) Watched() *atomic.Bool { return &h.on }

// Feed hears of each commit, on the apply goroutine, and never waits.
func (h *Hub) Feed(c spool.Changes) {
	if len(c.Happened) == 0 && !c.Restored || !h.on.Load() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ring == nil {
		return
	}
	for _, one := range c.Happened {
		h.ring[h.next%ringSize] = one
		h.next++
	}
	if c.Restored {
		h.restored++
	}
	h.stir()
}

// stir wakes all watchers; the caller holds mu.
func (h *Hub) stir() {
	close(h.wake)
	h.wake = make(chan struct{})
}

// Close ends all watching: the node stops.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed = true
		h.stir()
	}
}

// join counts one more watcher and says from where it sees events. ok is false where there
// are too many, or the node stops.
func (h *Hub) join() (from, restored uint64, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.watchers >= watchersMost {
		return 0, 0, false
	}
	h.watchers++
	if h.ring == nil {
		h.ring = make([]spool.Happening, ringSize)
		h.on.Store(true)
	}
	return h.next, h.restored, true
}

func (h *Hub) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.watchers--; h.watchers == 0 {
		h.on.Store(false)
		h.ring = nil
	}
}

// view is what one look at the ring gave.
type view struct {
	list     []spool.Happening
	missed   uint64
	next     uint64
	restored uint64
	more     <-chan struct{} // closed when a further look is worth it
	closed   bool
}

// look returns at most so many happenings from a number on.
func (h *Hub) look(from uint64, most int) view {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := view{next: from, restored: h.restored, more: h.wake, closed: h.closed}
	if h.next-from > ringSize {
		v.missed = h.next - from - ringSize
		v.next = h.next - ringSize
	}
	for ; v.next < h.next && len(v.list) < most; v.next++ {
		v.list = append(v.list, h.ring[v.next%ringSize])
	}
	return v
}
