package propose

import "relay/cluster/clock"

// termTime gives the leader's chores the stamper of the batcher.
type termTime struct{ b *Batcher }

// TermTime is the time of the term that this batcher stamps.
func (g *Batcher) TermTime() termTime { return termTime{g} }

func (r termTime) Now() int64 {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	return r.b.stamper.Now()
}

func (r termTime) Rebase(to int64) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	r.b.stamper.Rebase(to)
}

func (r termTime) Let(s clock.Stamping) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	r.b.stamper.State = s
}

func (r termTime) Slew(ppm int64) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	r.b.stamper.Slew(ppm)
}
