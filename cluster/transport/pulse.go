package transport

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"relay/cluster/tuning"
)

// pulse keeps a leader's heartbeats back until the next beat, so that those to all
// followers go out together, and while this node is awake for its other loops: raft's own
// come at random moments, and an idle processor had to wake for each of them, here and at
// the follower.
//
// A heartbeat goes out at once where somebody waits for its answer (hurry), where the last
// one to that follower failed, and at the latest one beat after the last one. So the time
// between two of them is no longer than a beat, or than raft's own timer makes it. None is
// answered here, and none goes out when this node does not lead any more.
type pulse struct {
	done  <-chan struct{} // closed when the transport is
	every time.Duration
	leads func(term uint64) bool

	mu     sync.Mutex
	urgent int                  // callers of hurry
	sent   map[string]time.Time // when the last one went out that did not fail
	wake   chan struct{}        // closed when those that wait go out
}

func newPulse(done <-chan struct{}) *pulse {
	return &pulse{
		done: done, leads: func(uint64) bool { return true },
		sent: map[string]time.Time{}, wake: make(chan struct{}),
	}
}

// keep returns when a heartbeat shall go out, and tuning.ErrPastTerm where it has lost its
// sense.
func (p *pulse) keep(node string, req *raft.AppendEntriesRequest) error {
	wait, wake := p.due(node, time.Now())
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-wake:
		case <-p.done:
			return tuning.ErrPastTerm
		}
		if !p.leads(req.Term) {
			return tuning.ErrPastTerm
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent[node] = time.Now()
	return nil
}

// due is how long a heartbeat to a node is kept back, unless it is woken.
func (p *pulse) due(node string, now time.Time) (time.Duration, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, ok := p.sent[node]
	if !ok || p.every <= 0 || p.urgent > 0 {
		return 0, nil
	}
	return min(tuning.UntilBeat(now, p.every), last.Add(p.every).Sub(now)), p.wake
}

// hurry has all heartbeats go out at once until done is called.
func (p *pulse) hurry() (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.urgent++
	p.wakeAll()
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.urgent--
	}
}

// look wakes all that wait: this node's leadership has ended.
func (p *pulse) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakeAll()
}

func (p *pulse) wakeAll() {
	close(p.wake)
	p.wake = make(chan struct{})
}

// forget has the next heartbeat to a node go out at once.
func (p *pulse) forget(node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sent, node)
}
