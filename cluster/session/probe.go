package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"relay/cluster/clock"
	"relay/cluster/tuning"
)

// prober proves again and again that this node's own disk takes writes: a node
// whose disk hangs or fails must lose its session, even where the log is on
// another disk. It runs on a goroutine of its own, so that a slow disk does not
// delay renewals, and a renewal goes out only while ok returns nil.
type prober struct {
	write func() error
	every time.Duration
	now   func() time.Duration

	mu    sync.Mutex
	start time.Duration // of the last probe
	busy  bool          // it is under way
	began time.Duration // the last probe that ended well
	took  time.Duration
	err   error         // of the last probe that ended
	tried chan struct{} // closed when the first has ended
}

var (
	errNoProbe = errors.New("a write to the data directory hangs")
	errStill   = errors.New("this process held still, and tried no write to the data directory")
)

// NewProber makes a prober that calls write so often, on now's clock.
func NewProber(write func() error, every time.Duration, now func() time.Duration) *prober {
	return &prober{write: write, every: every, now: now, tried: make(chan struct{})}
}

// run probes until ctx ends. It returns late where a write hangs.
func (p *prober) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		began := p.begin()
		next := began + tuning.NextBeat(time.Now(), p.every)
		err := p.write()
		p.note(began, err)
		if n == 0 {
			close(p.tried)
		}
		clock.Sleep(ctx, next-p.now())
	}
}

func (p *prober) begin() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.start, p.busy = p.now(), true
	return p.start
}

func (p *prober) note(began time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = false
	if p.err = err; err == nil {
		p.began, p.took = began, p.now()-began
	}
}

// ok returns nil while writes work: the last one ended well, and it began not
// long ago, measured by how long it took. A disk is not to blame for the time in which
// no write was tried, as the machine held still.
func (p *prober) ok() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return fmt.Errorf("the data directory takes no writes: %w", p.err)
	}
	now := p.now()
	age, idle, limit := now-p.began, now-p.began, max(2*p.every, 3*p.took)
	hangs := p.busy && now-p.start > limit
	if p.busy {
		idle = p.start - p.began
	}
	switch {
	case age <= limit:
		return nil
	case idle > limit && !hangs:
		return fmt.Errorf("%w: the last began %v ago", errStill, idle.Round(time.Millisecond))
	default:
		return fmt.Errorf("%w: the last that ended began %v ago", errNoProbe, age.Round(time.Millisecond))
	}
}

// wait returns when the first probe has ended, or ctx.
func (p *prober) wait(ctx context.Context) {
	select {
	case <-p.tried:
	case <-ctx.Done():
	}
}
