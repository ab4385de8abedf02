package cluster

// termTime gives the leader's chores the stamper of the batcher.
type termTime struct{ b *batcher }

func (r termTime) now() int64 {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	return r.b.stamper.now()
}

func (r termTime) rebase(to int64) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	r.b.stamper.rebase(to)
}

func (r termTime) let(s stamping) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	r.b.stamper.state = s
}

func (r termTime) slew(ppm int64) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	r.b.stamper.slew(ppm)
}
