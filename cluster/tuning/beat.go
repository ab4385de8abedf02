package tuning

import (
	"context"
	"time"
)

// Beat is a ticker whose ticks are at multiples of its period, so that all loops of a
// node wake at the same moments: an idle processor that has to wake costs more than
// the looks of several loops. It is used by one goroutine.
type Beat struct {
	every time.Duration
	rare  func() bool // nil: never
	timer *time.Timer
}

// NewBeat makes one. Its owner calls Stop.
func NewBeat(every time.Duration) *Beat {
	return &Beat{every: every, timer: time.NewTimer(UntilBeat(time.Now(), every))}
}

// Next returns a channel that gets the next tick. A tick that was not awaited is lost.
func (b *Beat) Next() <-chan time.Time {
	every := b.every
	if b.rare != nil && b.rare() {
		every *= 4
	}
	b.timer.Reset(UntilBeat(time.Now(), every))
	return b.timer.C
}

// Wait waits for the next tick; false: ctx has ended.
func (b *Beat) Wait(ctx context.Context) bool {
	select {
	case <-b.Next():
		return true
	case <-ctx.Done():
		return false
	}
}

// RareWhile has only each fourth tick come while fn returns true. It returns b.
func (b *Beat) RareWhile(fn func() bool) *Beat {
	b.rare = fn
	return b
}

// Stop ends it.
func (b *Beat) Stop() { b.timer.Stop() }

// UntilBeat is the time from now to the next multiple of every.
func UntilBeat(now time.Time, every time.Duration) time.Duration {
	return every - time.Duration(now.UnixNano()%int64(every))
}

// NextBeat is UntilBeat for work that is done about once each period: it is the multiple after
// the next one where that is nearly there, so that the work is not done twice where a timer
// fires a little early. It is between an eighth and nine eighths of every.
func NextBeat(now time.Time, every time.Duration) time.Duration {
	d := UntilBeat(now, every)
	if d < every/8 {
		d += every
	}
	return d
}
