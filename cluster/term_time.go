package cluster

import "relay/cluster/clock"

// termTime gives the leader's chores the stamper of the batcher.
type termTime struct{ b *batcher }

func (r termTime) now() int64 {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	return r.b.stamper.Now()
}

func (r termTime) rebase(to int64) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	r.b.stamper.Rebase(to)
}

func (r termTime) let(s clock.Stamping) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	r.b.stamper.State = s
}

func (r termTime) slew(ppm int64) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	r.b.stamper.Slew(ppm)
}
