package memory

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sort"
	"sync"

	"relay/cluster/spool"
)

// Store is an ordered set of keys. All methods may be called from any
// goroutine; a Batch and the functions handed to View and Scan belong to one.
type Store struct {
	mu   sync.RWMutex
	keys []string // sorted
	data map[string][]byte
}

// New makes an empty store.
func New() *Store { return &Store{data: make(map[string][]byte)} }

// Get implements spool.Reader. The value stays valid for ever: a value is
// never changed in place, only replaced.
func (s *Store) Get(key []byte) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.data[string(key)], nil
}

// Scan implements spool.Reader. It shows the keys as they were when it began;
// fn may read and commit to the store.
func (s *Store) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	for _, p := range s.between(lo, hi) {
		if !fn([]byte(p.key), p.value) {
			return nil
		}
	}
	return nil
}

type pair struct {
	key   string
	value []byte // nil: deleted
}

func (s *Store) between(lo, hi []byte) []pair {
	s.mu.RLock()
	defer s.mu.RUnlock()
	from := sort.SearchStrings(s.keys, string(lo))
	to := len(s.keys)
	if hi != nil {
		to = sort.SearchStrings(s.keys, string(hi))
	}
	if from >= to {
		return nil
	}
	all := make([]pair, 0, to-from)
	for _, k := range s.keys[from:to] {
		all = append(all, pair{k, s.data[k]})
	}
	return all
}

// View calls fn with the latest committed state.
func (s *Store) View(fn func(spool.Reader) error) error { return fn(s) }

// Update calls fn with a new batch and commits it where fn returns nil.
func (s *Store) Update(fn func(spool.Batch) error) error {
	b := s.Batch()
	if err := fn(b); err != nil {
		return err
	}
	b.Commit()
	return nil
}

// Len returns how many keys there are.
func (s *Store) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.keys)
}

// Clone returns an independent copy.
func (s *Store) Clone() *Store {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := &Store{keys: slices.Clone(s.keys), data: make(map[string][]byte, len(s.data))}
	for k, v := range s.data {
		c.data[k] = v
	}
	return c
}

// Sum hashes all keys and values: the length of the key (4 octets, big
// endian), the length of the value (4), the key, the value, in order of keys,
// by SHA-256. The store on disk hashes in the same way.
func (s *Store) Sum() []byte {
	h := sha256.New()
	var n [8]byte
	for _, p := range s.between(nil, nil) {
		binary.BigEndian.PutUint32(n[:4], uint32(len(p.key)))
		binary.BigEndian.PutUint32(n[4:], uint32(len(p.value)))
		h.Write(n[:])
		h.Write([]byte(p.key))
		h.Write(p.value)
	}
	return h.Sum(nil)
}

func (s *Store) put(key string, value []byte) {
	if _, ok := s.data[key]; !ok {
		s.keys = slices.Insert(s.keys, sort.SearchStrings(s.keys, key), key)
	}
	s.data[key] = value
}

func (s *Store) drop(key string) {
	if _, ok := s.data[key]; ok {
		i := sort.SearchStrings(s.keys, key)
		s.keys = slices.Delete(s.keys, i, i+1)
		delete(s.data, key)
	}
}

// Batch collects writes over a Store. Commit makes them visible at once; a
// batch that is not committed has no effect.
type Batch struct {
	s       *Store
	changed map[string][]byte // nil: deleted
}

var (
	_ spool.Reader = (*Store)(nil)
	_ spool.Batch  = (*Batch)(nil)
)

// Batch begins a batch.
func (s *Store) Batch() *Batch { return &Batch{s: s, changed: make(map[string][]byte)} }

// Get implements spool.Reader.
func (b *Batch) Get(key []byte) ([]byte, error) {
	if v, ok := b.changed[string(key)]; ok {
		return v, nil
	}
	return b.s.Get(key)
}

// Scan implements spool.Reader.
func (b *Batch) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	all := slices.DeleteFunc(b.s.between(lo, hi), func(p pair) bool {
		_, ok := b.changed[p.key]
		return ok
	})
	for k, v := range b.changed {
		inside := k >= string(lo) && (hi == nil || bytes.Compare([]byte(k), hi) < 0)
		if inside && v != nil {
			all = append(all, pair{k, v})
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].key < all[j].key })
	for _, p := range all {
		if !fn([]byte(p.key), p.value) {
			return nil
		}
	}
	return nil
}

// Set implements spool.Batch.
func (b *Batch) Set(key, value []byte) error { return b.SetParts(key, value) }

// SetParts implements spool.Batch.
func (b *Batch) SetParts(key []byte, parts ...[]byte) error {
	v := []byte{}
	for _, p := range parts {
		v = append(v, p...)
	}
	b.changed[string(key)] = v
	return nil
}

// Delete implements spool.Batch.
func (b *Batch) Delete(key []byte) error {
	b.changed[string(key)] = nil
	return nil
}

// DeleteSized implements spool.Batch.
func (b *Batch) DeleteSized(key []byte, _ int) error { return b.Delete(key) }

// DeleteRange implements spool.Batch.
func (b *Batch) DeleteRange(lo, hi []byte) error {
	for _, p := range b.s.between(lo, hi) {
		b.changed[p.key] = nil
	}
	for k := range b.changed {
		if k >= string(lo) && k < string(hi) {
			b.changed[k] = nil
		}
	}
	return nil
}

// Commit makes the writes visible and empties the batch.
func (b *Batch) Commit() {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	for k, v := range b.changed {
		if v == nil {
			b.s.drop(k)
		} else {
			b.s.put(k, v)
		}
	}
	clear(b.changed)
}
