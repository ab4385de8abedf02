package disk

import (
	"bytes"
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2"
)

// reader meets spool.Reader on a database or one of its snapshots. One
// goroutine uses it, and closes it.
type reader struct {
	src   pebble.Reader
	cache *recordCache // nil: none, the source is not the latest state
	held  io.Closer    // keeps the memory of the last Get
	fail  func(error) error
}

// Get implements spool.Reader.
func (r *reader) Get(key []byte) ([]byte, error) {
	if r.cache == nil || !r.cache.is(key) {
		return r.get(key)
	}
	v, known, gen := r.cache.get(key)
	if known {
		return v, nil
	}
	v, err := r.get(key)
	if err == nil {
		r.cache.put(key, v, gen)
	}
	return v, err
}

func (r *reader) get(key []byte) ([]byte, error) {
	r.letGo()
	v, c, err := r.src.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, r.fail(err)
	}
	r.held = c
	return present(v), nil
}

// Scan implements spool.Reader.
func (r *reader) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	lo, ok := bounds(lo, hi)
	if !ok {
		return nil
	}
	it, err := r.src.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return r.fail(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			it.Close()
			return r.fail(err)
		}
		if !fn(it.Key(), present(v)) {
			break
		}
	}
	return r.fail(it.Close())
}

func (r *reader) letGo() {
	if r.held != nil {
		r.held.Close()
		r.held = nil
	}
}

// bounds keeps a scan out of the store's own keys, and reports whether there
// can be anything between lo and hi.
func bounds(lo, hi []byte) ([]byte, bool) {
	if bytes.Compare(lo, firstKey) < 0 {
		lo = firstKey
	}
	return lo, hi == nil || bytes.Compare(lo, hi) < 0
}

// present makes an empty value differ from an absent one.
func present(v []byte) []byte {
	if v == nil {
		return []byte{}
	}
	return v
}
