// Package rounds lets many callers share the runs of one question whose answer must be newer than the call.
package rounds

import (
	"context"
	"sync"
	"time"
)

// Rounds lets any number of callers share the runs of a function: each gets the result of a run that began after it
// came. At most one runs at a time, and one is waited for. Its methods may be called concurrently.
//
// The runs have a goroutine of their own while somebody waits, and none otherwise: a run serves those who came after
// its first caller, too, so it does not end with that caller's context.
type Rounds[T any] struct {
	ctx   context.Context
	wg    *sync.WaitGroup
	apart time.Duration
	fn    func(context.Context) (T, error)

	mu      sync.Mutex
	running bool
	next    *round[T]
	last    time.Time // a run began; of the goroutine's
}

type round[T any] struct {
	done   chan struct{}
	result T
	err    error
}

// New shares the runs of fn, whose beginnings are at least apart from each other. fn gets ctx, and has to bound itself;
// once ctx has ended, no run begins. wg counts the goroutine.
func New[T any](ctx context.Context, wg *sync.WaitGroup, apart time.Duration,
	fn func(context.Context) (T, error)) *Rounds[T] {
	return &Rounds[T]{ctx: ctx, wg: wg, apart: apart, fn: fn}
}

// Do returns the result of the first run that begins after the call, or the error of ctx, or that of the context of
// New where that has ended.
func (k *Rounds[T]) Do(ctx context.Context) (result T, err error) {
	k.mu.Lock()
	if err := k.ctx.Err(); err != nil {
		k.mu.Unlock()
		return result, err
	}
	if k.next == nil {
		k.next = &round[T]{done: make(chan struct{})}
	}
	mine := k.next
	if !k.running {
		k.running = true
		k.wg.Add(1)
		go k.run()
	}
	k.mu.Unlock()
	select {
	case <-mine.done:
		return mine.result, mine.err
	case <-ctx.Done():
		return result, ctx.Err()
	}
}

func (k *Rounds[T]) run() {
	defer k.wg.Done()
	for k.ready() {
		k.pause()
		k.mu.Lock()
		one := k.next
		k.next = nil // who comes from here on waits for the next one
		k.mu.Unlock()
		k.last = time.Now()
		one.result, one.err = k.fn(k.ctx)
		close(one.done)
	}
}

// ready reports whether somebody waits for a run; else the goroutine ends.
func (k *Rounds[T]) ready() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.running = k.next != nil
	return k.running
}

func (k *Rounds[T]) pause() {
	wait := k.apart - time.Since(k.last)
	if k.last.IsZero() || wait <= 0 {
		return
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-k.ctx.Done():
	}
}

// Drain returns once no call can begin a run any more; the context of New has ended before.
func (k *Rounds[T]) Drain() {
	k.mu.Lock()
	defer k.mu.Unlock()
}
