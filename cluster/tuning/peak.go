package tuning

import (
	"slices"
	"time"
)

// Peak remembers the largest value of a span of time, in six slots.
type Peak struct {
	slot  time.Duration
	first int64 // number of slots[0], counted in slots from the clock's zero
	slots [6]time.Duration
}

// NewPeak makes the peak of a span of time.
func NewPeak(span time.Duration) Peak { return Peak{slot: span / 6} }

// Note takes a value.
func (p *Peak) Note(now, v time.Duration) {
	p.turn(now)
	p.slots[0] = max(p.slots[0], v)
}

// Top is the largest value of the span that ends now.
func (p *Peak) Top(now time.Duration) time.Duration {
	p.turn(now)
	return slices.Max(p.slots[:])
}

// turn moves the slots on.
func (p *Peak) turn(now time.Duration) {
	n := int64(now / p.slot)
	steps := int(min(max(n-p.first, 0), int64(len(p.slots))))
	copy(p.slots[steps:], p.slots[:len(p.slots)-steps])
	clear(p.slots[:steps])
	p.first = max(p.first, n)
}
