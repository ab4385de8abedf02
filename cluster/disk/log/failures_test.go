package log

import "sync"

// failures collects what Fatal was told.
type failures struct {
	mu  sync.Mutex
	all []error
}

func (f *failures) fatal(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, err)
}

func (f *failures) get() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all
}
