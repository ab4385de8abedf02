package cluster

import (
	"slices"
	"time"
)

// peak remembers the largest value of a span of time, in six slots.
type peak struct {
	slot  time.Duration
	first int64 // number of slots[0], counted in slots from the clock's zero
	slots [6]time.Duration
}

func newPeak(span time.Duration) peak { return peak{slot: span / 6} }

func (p *peak) note(now, v time.Duration) {
	p.turn(now)
	p.slots[0] = max(p.slots[0], v)
}

// top is the largest value of the span that ends now.
func (p *peak) top(now time.Duration) time.Duration {
	p.turn(now)
	return slices.Max(p.slots[:])
}

// turn moves the slots on.
func (p *peak) turn(now time.Duration) {
	n := int64(now / p.slot)
	steps := int(min(max(n-p.first, 0), int64(len(p.slots))))
	copy(p.slots[steps:], p.slots[:len(p.slots)-steps])
	clear(p.slots[:steps])
	p.first = max(p.first, n)
}
