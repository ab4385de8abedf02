package transport

import (
	"sync"
	"sync/atomic"
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
//
// The beat at which all nodes renew their sessions has no heartbeat: followers get entries
// then, which they answer as well. It is sent where no entry was acknowledged within a
// sixteenth of a beat.
type pulse struct {
	done  <-chan struct{} // closed when the transport is
	every time.Duration
	renew time.Duration // entries go out at its multiples; 0: at no certain times
	leads func(term uint64) bool

	hopes  atomic.Int32 // heartbeats that an acknowledged entry would replace
	mu     sync.Mutex
	urgent int                  // callers of hurry
	sent   map[string]time.Time // when the last sign of life went out that did not fail
	wake   chan struct{}        // closed when those that wait must look again
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
	now := time.Now()
	for wait, hopes, wake := p.due(node, now); wait > 0; wait, hopes, wake = p.due(node, now) {
		woken, err := p.await(wait, hopes, wake)
		if err != nil {
			return err
		}
		if !p.leads(req.Term) {
			return tuning.ErrPastTerm
		}
		if !woken {
			break
		}
		now = time.Now()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent[node] = time.Now()
	return nil
}

// await waits; woken: the caller has to look again.
func (p *pulse) await(wait time.Duration, hopes bool, wake <-chan struct{}) (woken bool, err error) {
	if hopes {
		p.hopes.Add(1)
		defer p.hopes.Add(-1)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false, nil
	case <-wake:
		return true, nil
	case <-p.done:
		return false, tuning.ErrPastTerm
	}
}

// due is how long a heartbeat to a node is kept back, unless it is woken; hopes: for an entry.
func (p *pulse) due(node string, now time.Time) (wait time.Duration, hopes bool, wake <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, ok := p.sent[node]
	if !ok || p.every <= 0 || p.urgent > 0 {
		return 0, false, nil
	}
	wait = min(tuning.UntilBeat(now, p.every), last.Add(p.every).Sub(now))
	if near := p.every / 16; p.renew > 0 && p.renew-tuning.UntilBeat(now.Add(wait+near), p.renew) < 2*near {
		wait, hopes = wait+near, true
	}
	return wait, hopes, p.wake
}

// acknowledged notes that a follower has answered a call with entries that was sent then.
func (p *pulse) acknowledged(node string, sent time.Time) {
	if p.hopes.Load() == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sent[node].Before(sent) {
		p.sent[node] = sent
		p.wakeAll()
	}
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
