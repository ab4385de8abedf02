package disk

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"
)

// keepMarks is how many hashes a member remembers.
const keepMarks = 8

// marks are the hashes of the state at Mark commands. They are computed one at
// a time, each from a snapshot that was taken when the command was applied.
type marks struct {
	mu      sync.Mutex
	all     []*mark // oldest first
	changed chan struct{}
	turn    chan struct{} // held by the one that computes
	ctx     context.Context
	cancel  context.CancelFunc
}

type mark struct {
	id     string
	index  uint64
	sum    []byte
	err    error
	done   bool
	cancel context.CancelFunc
}

func (m *marks) init() {
	m.changed = make(chan struct{})
	m.turn = make(chan struct{}, 1)
	m.ctx, m.cancel = context.WithCancel(context.Background())
}

func (m *marks) close() { m.cancel() }

// add enters a mark in place of one with the same id, and drops the oldest.
func (m *marks) add(id string, index uint64) (*mark, context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ctx, cancel := context.WithCancel(m.ctx)
	one := &mark{id: id, index: index, cancel: cancel}
	kept := m.all[:0]
	for _, old := range m.all {
		if old.id == id {
			old.cancel()
			continue
		}
		kept = append(kept, old)
	}
	m.all = append(kept, one)
	for len(m.all) > keepMarks {
		m.all[0].cancel()
		m.all = m.all[1:]
	}
	return one, ctx
}

func (m *marks) finish(one *mark, sum []byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	one.cancel()
	one.sum, one.err, one.done = sum, err, true
	close(m.changed)
	m.changed = make(chan struct{})
}

// find returns a finished mark, or what to wait for.
func (m *marks) find(id string) (*mark, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, one := range m.all {
		if one.id == id && one.done {
			return one, nil
		}
	}
	return nil, m.changed
}

// startMark freezes the state and hashes it beside what goes on. The caller
// has just committed the mark, and nothing behind it.
func (s *Store) startMark(id string) {
	h, err := s.acquire()
	if err != nil {
		return
	}
	snap := h.db.NewSnapshot()
	one, ctx := s.marks.add(id, s.meta.index)
	go func() {
		defer h.release()
		defer snap.Close()
		select {
		case s.marks.turn <- struct{}{}:
			defer func() { <-s.marks.turn }()
		case <-ctx.Done():
			s.marks.finish(one, nil, ctx.Err())
			return
		}
		sum, err := hash(ctx, snap)
		if s.checked(err) != nil {
			s.log.Warn("hash of the state", zap.String("mark", id), zap.Error(err))
		}
		s.marks.finish(one, sum, err)
	}()
}

// MarkHash returns the hash of the state right behind the Mark command with
// that id, and the command's index. It waits until the command is applied here
// and the hash is there. The last eight marks are remembered; for an older one,
// and for one that came in with a snapshot, it waits until ctx ends.
func (s *Store) MarkHash(ctx context.Context, id string) (index uint64, sum []byte, err error) {
	for {
		one, changed := s.marks.find(id)
		if one != nil {
			return one.index, one.sum, one.err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, nil, ctx.Err()
		case <-s.stop:
			return 0, nil, s.reason()
		}
	}
}

// Hash returns the hash of the latest state and its index. It reads everything.
func (s *Store) Hash(ctx context.Context) (index uint64, sum []byte, err error) {
	h, err := s.acquire()
	if err != nil {
		return 0, nil, err
	}
	defer h.release()
	snap := h.db.NewSnapshot()
	defer snap.Close()
	m, err := readMeta(snap)
	if err == nil {
		sum, err = hash(ctx, snap)
	}
	return m.index, sum, s.checked(err)
}

// hash reads all keys of the spool, in order: length of the key (4 octets, big
// endian), length of the value (4), key, value, by SHA-256. The store's own
// record is not part of it: members may write it at different times.
func hash(ctx context.Context, r pebble.Reader) ([]byte, error) {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: firstKey})
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	var n [8]byte
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			it.Close()
			return nil, err
		}
		binary.BigEndian.PutUint32(n[:4], uint32(len(it.Key())))
		binary.BigEndian.PutUint32(n[4:], uint32(len(v)))
		sum.Write(n[:])
		sum.Write(it.Key())
		sum.Write(v)
	}
	if err := it.Close(); err != nil {
		return nil, err
	}
	return sum.Sum(nil), nil
}
