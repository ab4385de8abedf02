package tuning

import "time"

// Beat is a ticker whose ticks are at multiples of its period, so that all loops of a
// node wake at the same moments: an idle processor that has to wake costs more than
// the looks of several loops. It is used by one goroutine.
type Beat struct {
	every time.Duration
	timer *time.Timer
}

// NewBeat makes one. Its owner calls Stop.
func NewBeat(every time.Duration) *Beat {
	return &Beat{every: every, timer: time.NewTimer(untilBeat(time.Now(), every))}
}

// Next returns a channel that gets the next tick. A tick that was not awaited is lost.
func (b *Beat) Next() <-chan time.Time {
	b.timer.Reset(untilBeat(time.Now(), b.every))
	return b.timer.C
}

// Stop ends it.
func (b *Beat) Stop() { b.timer.Stop() }

// untilBeat is the time from now to the next multiple of every.
func untilBeat(now time.Time, every time.Duration) time.Duration {
	return every - time.Duration(now.UnixNano()%int64(every))
}
