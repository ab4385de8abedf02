package replicatest

import (
	"context"

	"relay/cluster/spool"
	"relay/cluster/spool/memory"
)

// Behind is the reading side of a node that lags: it shows what it has applied of a
// Fake, and applies when it is told to, or when somebody waits for it. A test embeds it
// beside the Fake, whose other methods it leaves alone.
type Behind struct {
	fake *Fake
	told func()
	at   uint64

	Shown *memory.Store
	Waits int // times that somebody waited for an index
	Reads int // of a frozen state
	Fresh int // times it was brought up to date
}

// NewBehind makes a node that has applied all there is. told, if not nil, is called
// whenever it has applied more.
func NewBehind(r *Fake, told func()) *Behind {
	b := &Behind{fake: r, told: told}
	b.CatchUp()
	return b
}

// CatchUp applies all there is, and tells of it.
func (b *Behind) CatchUp() {
	b.Shown, b.at = b.fake.Store.Clone(), b.fake.Index
	if b.told != nil {
		b.told()
	}
}

// View implements replica.Replica.
func (b *Behind) View(fn func(spool.View) error) error { return fn(spool.View{R: b.Shown}) }

// Frozen implements replica.Replica.
func (b *Behind) Frozen(fn func(spool.View, uint64) error) error {
	b.Reads++
	return fn(spool.View{R: b.Shown}, b.at)
}

// WaitApplied implements replica.Replica.
func (b *Behind) WaitApplied(context.Context, uint64) error {
	b.Waits++
	b.CatchUp()
	return nil
}

// Consistent implements replica.Replica; it fails as the Fake was told to.
func (b *Behind) Consistent(context.Context) error {
	b.Fresh++
	if b.fake.Fail != nil {
		return b.fake.Fail
	}
	b.CatchUp()
	return nil
}
