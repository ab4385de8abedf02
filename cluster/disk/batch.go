package disk

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// batch meets spool.Batch: a write batch of Pebble, and an overlay to read it
// through. Only the apply goroutine uses it.
type batch struct {
	reader
	db    *pebble.DB
	w     *pebble.Batch
	over  *overlay
	it    *pebble.Iterator // kept for the next Scan; nothing else writes meanwhile
	busy  bool             // a Scan is using it
	cache *recordCache     // of the database
	hits  []string         // keys written that the cache may remember

	ranges  []keyRange    // deleted; the overlay has what was written in them since
	freed   int64         // octets that DeleteSized has deleted
	deleted *atomic.Int64 // gets them at commit
}

// keepBatch is how much of a batch's buffer is kept for the next batch.
const keepBatch = 8 << 20

func newBatch(h *handle, fail func(error) error) *batch {
	db := h.db
	return &batch{
		deleted: &h.s.reclaiming.deleted,
		reader:  reader{src: db, fail: fail},
		db:      db,
		cache:   h.cache,
		w:       db.NewBatch(pebble.WithInitialSizeBytes(64<<10), pebble.WithMaxRetainedSizeBytes(keepBatch)),
		over:    newOverlay(),
	}
}

// keyRange is the keys from lo to before hi.
type keyRange struct{ lo, hi []byte }

// ranged returns the range that was deleted with a key in it, nil where none was.
func (b *batch) ranged(key []byte) *keyRange {
	for i := range b.ranges {
		if r := &b.ranges[i]; bytes.Compare(key, r.lo) >= 0 && bytes.Compare(key, r.hi) < 0 {
			return r
		}
	}
	return nil
}

// Get implements spool.Reader.
func (b *batch) Get(key []byte) ([]byte, error) {
	if e := b.over.find(key); e != nil {
		return e.value, nil
	}
	if b.ranged(key) != nil {
		return nil, nil
	}
	return b.reader.Get(key)
}

// Set implements spool.Batch.
func (b *batch) Set(key, value []byte) error {
	if err := b.mayWrite(key); err != nil {
		return err
	}
	op := b.w.SetDeferred(len(key), len(value))
	copy(op.Key, key)
	copy(op.Value, value)
	b.over.put(op.Key, op.Value)
	return op.Finish()
}

// SetParts implements spool.Batch: the parts are copied once, straight to
// their place in the batch.
func (b *batch) SetParts(key []byte, parts ...[]byte) error {
	if err := b.mayWrite(key); err != nil {
		return err
	}
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	op := b.w.SetDeferred(len(key), size)
	copy(op.Key, key)
	at := op.Value
	for _, p := range parts {
		at = at[copy(at, p):]
	}
	b.over.put(op.Key, op.Value)
	return op.Finish()
}

// Delete implements spool.Batch.
func (b *batch) Delete(key []byte) error {
	if err := b.mayWrite(key); err != nil {
		return err
	}
	op := b.w.DeleteDeferred(len(key))
	copy(op.Key, key)
	b.over.put(op.Key, nil)
	return op.Finish()
}

// DeleteSized implements spool.Batch. It is never SingleDelete, which is
// undefined for a key that was written twice, as a retried chunk is.
func (b *batch) DeleteSized(key []byte, size int) error {
	if err := b.mayWrite(key); err != nil {
		return err
	}
	op := b.w.DeleteSizedDeferred(len(key), uint32(max(size, 0)))
	copy(op.Key, key)
	b.over.put(op.Key, nil)
	b.freed += int64(max(size, 0))
	return op.Finish()
}

// DeleteRange implements spool.Batch.
func (b *batch) DeleteRange(lo, hi []byte) error {
	if err := b.mayWrite(lo); err != nil {
		return err
	}
	if b.cache.is(lo) || len(hi) == 0 || hi[0] != lo[0] && !(len(hi) == 1 && hi[0] == lo[0]+1) {
		return fmt.Errorf("disk: no range from %x to %x can be deleted", lo, hi)
	}
	if bytes.Compare(lo, hi) >= 0 {
		return nil
	}
	for _, e := range b.over.between(lo, hi) {
		e.value = nil
	}
	b.ranges = append(b.ranges, keyRange{bytes.Clone(lo), bytes.Clone(hi)})
	return b.w.DeleteRange(lo, hi, nil)
}

func (b *batch) mayWrite(key []byte) error {
	if len(key) == 0 || key[0] == 0 {
		return fmt.Errorf("disk: key %x is reserved", key)
	}
	if b.cache.is(key) {
		b.hits = append(b.hits, string(key))
	}
	return nil
}

// Scan implements spool.Reader.
func (b *batch) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	lo, ok := bounds(lo, hi)
	if !ok {
		return nil
	}
	mine := b.over.between(lo, hi)
	it, done, err := b.iterator(lo, hi)
	if err != nil {
		return b.fail(err)
	}
	err = merge(it, b.ranged, mine, fn)
	return b.fail(errors.Join(err, done()))
}

// iterator lends the batch's iterator, or makes one where a Scan is inside
// another.
func (b *batch) iterator(lo, hi []byte) (*pebble.Iterator, func() error, error) {
	if b.busy {
		it, err := b.db.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
		if err != nil {
			return nil, nil, err
		}
		return it, it.Close, nil
	}
	if b.it == nil {
		it, err := b.db.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
		if err != nil {
			return nil, nil, err
		}
		b.it = it
	} else {
		b.it.SetBounds(lo, hi)
	}
	b.busy = true
	return b.it, func() error { b.busy = false; return b.it.Error() }, nil
}

// merge walks the store and the batch's own entries, which win. The store's keys in
// deleted ranges are passed over.
func merge(it *pebble.Iterator, deleted func(key []byte) *keyRange, mine []*entry,
	fn func(key, value []byte) bool) error {
	ok := it.First()
	for ok || len(mine) > 0 {
		if ok {
			if r := deleted(it.Key()); r != nil {
				ok = it.SeekGE(r.hi)
				continue
			}
		}
		order := -1
		if !ok {
			order = 1
		} else if len(mine) > 0 {
			order = bytes.Compare(it.Key(), mine[0].key)
		}
		if order < 0 {
			v, err := it.ValueAndErr()
			if err != nil {
				return err
			}
			if !fn(it.Key(), present(v)) {
				return nil
			}
			ok = it.Next()
			continue
		}
		if order == 0 {
			ok = it.Next()
		}
		e := mine[0]
		mine = mine[1:]
		if e.value != nil && !fn(e.key, e.value) {
			return nil
		}
	}
	return it.Error()
}

// commit writes the batch with its meta and its sum, without syncing: the raft log
// has it.
func (b *batch) commit(m, sum []byte) error {
	b.letGoAll()
	if len(sum) > 0 {
		if err := b.w.Set(sumKey, sum, nil); err != nil {
			return err
		}
	}
	op := b.w.SetDeferred(len(metaKey), len(m))
	copy(op.Key, metaKey)
	copy(op.Value, m)
	if err := op.Finish(); err != nil {
		return err
	}
	b.cache.begin(b.hits)
	if err := b.w.Commit(pebble.NoSync); err != nil {
		return err
	}
	b.cache.end(b.hits)
	b.deleted.Add(b.freed)
	b.reset()
	return nil
}

func (b *batch) size() int { return b.w.Len() }

// reset forgets what was written.
func (b *batch) reset() {
	b.letGoAll()
	b.over.reset()
	b.w.Reset()
	b.hits = b.hits[:0]
	b.ranges = b.ranges[:0]
	b.freed = 0
}

func (b *batch) letGoAll() {
	b.letGo()
	if b.it != nil {
		b.it.Close()
		b.it = nil
	}
}

func (b *batch) close() {
	b.letGoAll()
	b.over.reset()
	b.w.Close()
}
