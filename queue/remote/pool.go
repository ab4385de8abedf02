package remote

import (
	"context"
	"sync"
	"time"
)

// pool keeps connections open for a moment, for the next message to the same
// hop. One timer runs while it holds any.
type pool struct {
	keep time.Duration
	most int

	mu     sync.Mutex
	idle   map[key][]*conn // the last one put is the first one taken
	n      int
	timer  *time.Timer
	closed bool
	quits  sync.WaitGroup
}

func newPool(keep time.Duration, most int) *pool {
	return &pool{keep: keep, most: most, idle: make(map[key][]*conn)}
}

func (p *pool) get(k key) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.idle[k]
	if len(all) == 0 {
		return nil
	}
	c := all[len(all)-1]
	all[len(all)-1] = nil
	if all = all[:len(all)-1]; len(all) == 0 {
		delete(p.idle, k)
	} else {
		p.idle[k] = all
	}
	p.n--
	return c
}

func (p *pool) has(k key) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle[k]) > 0
}

func (p *pool) put(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.n >= p.most || p.keep < 0 {
		p.quitLocked(c)
		return
	}
	c.since = time.Now()
	p.idle[c.key] = append(p.idle[c.key], c)
	p.n++
	if p.timer == nil {
		p.timer = time.AfterFunc(p.keep, p.expire)
	}
}

// expire ends what has been idle for too long.
func (p *pool) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = nil
	if p.closed {
		return
	}
	now := time.Now()
	for k, all := range p.idle {
		n := 0
		for n < len(all) && now.Sub(all[n].since) >= p.keep {
			p.quitLocked(all[n])
			n++
		}
		p.n -= n
		if n == len(all) {
			delete(p.idle, k)
		} else if n > 0 {
			p.idle[k] = append([]*conn(nil), all[n:]...)
		}
	}
	if p.n > 0 {
		p.timer = time.AfterFunc(p.keep/2, p.expire)
	}
}

// quit says goodbye on a connection without making anybody wait for it.
func (p *pool) quit(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quitLocked(c)
}

func (p *pool) quitLocked(c *conn) {
	if p.closed {
		_ = c.client.Close()
		return
	}
	p.quits.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = c.client.Quit(ctx)
	})
}

// flush says goodbye on everything that is idle, and waits for it.
func (p *pool) flush() {
	p.mu.Lock()
	p.drop()
	p.mu.Unlock()
	p.quits.Wait()
}

func (p *pool) drop() {
	for k, all := range p.idle {
		for _, c := range all {
			p.quitLocked(c)
		}
		delete(p.idle, k)
	}
	p.n = 0
}

func (p *pool) close() {
	p.mu.Lock()
	if p.timer != nil {
		p.timer.Stop()
	}
	p.drop()
	p.closed = true
	p.mu.Unlock()
	p.quits.Wait()
}

// recent remembers hops for a while.
type recent struct {
	keep time.Duration
	most int
	mu   sync.Mutex
	all  map[hop]time.Time
}

func newRecent(keep time.Duration, most int) *recent {
	return &recent{keep: keep, most: most, all: make(map[hop]time.Time)}
}

func (r *recent) has(h hop) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.all[h]
	return ok && time.Since(t) < r.keep
}

func (r *recent) add(h hop) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for old := range r.all {
		if len(r.all) < r.most {
			break
		}
		delete(r.all, old)
	}
	r.all[h] = time.Now()
}

func (r *recent) remove(h hop) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, h)
}
