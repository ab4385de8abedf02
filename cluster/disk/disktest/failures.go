// Package disktest has what tests of the store and of its log share.
package disktest

import "sync"

// Failures collects what Options.Fatal was told.
type Failures struct {
	mu  sync.Mutex
	all []error
}

// Fatal is for Options.Fatal.
func (f *Failures) Fatal(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, err)
}

// Get returns them in their order.
func (f *Failures) Get() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all
}
