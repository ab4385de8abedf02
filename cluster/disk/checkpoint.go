package disk

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"
)

// ErrExpired says that a receiver took longer over a snapshot than its files
// may be held.
var ErrExpired = errors.New("disk: the snapshot was held too long")

// checkpoint is a frozen copy of the database's files, made of hard links. It
// holds on to the disk space of files that compactions have replaced since, so
// its life is limited.
type checkpoint struct {
	dir   string
	meta  meta
	files []file
	size  int64
	born  time.Time

	refs    int  // senders
	cached  bool // may be sent again
	expired bool
	removed bool
	timers  []*time.Timer
}

// checkpoints are those that exist. At most one may be sent again: raft opens a
// snapshot before it dials, over and over for a member that is down.
type checkpoints struct {
	making sync.Mutex // one is made at a time
	mu     sync.Mutex // guards all below, and the state of each
	all    map[*checkpoint]struct{}
	closed bool
}

func (c *checkpoints) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all)
}

// reuse returns the cached checkpoint where it is still of use.
func (s *Store) reuse() *checkpoint {
	c := &s.checkpoints
	applied, oldest := s.Applied(), s.o.OldestLog()
	c.mu.Lock()
	defer c.mu.Unlock()
	for one := range c.all {
		fits := one.meta.index+1 >= oldest && applied-min(applied, one.meta.index) <= s.o.CheckpointLag
		if one.cached && fits {
			one.refs++
			return one
		}
	}
	return nil
}

// checkpoint returns one to send, which the caller must put back.
func (s *Store) checkpoint() (*checkpoint, error) {
	s.checkpoints.making.Lock()
	defer s.checkpoints.making.Unlock()
	if one := s.reuse(); one != nil {
		return one, nil
	}
	h, err := s.acquire()
	if err != nil {
		return nil, err
	}
	defer h.release()
	if err := s.flush(h); err != nil {
		return nil, err
	}
	s.mu.Lock()
	dir := s.dir.path(s.dir.fresh(prefixOut))
	s.mu.Unlock()
	if err := h.db.Checkpoint(dir); err != nil {
		return nil, fmt.Errorf("disk: checkpoint: %w", err)
	}
	one := &checkpoint{dir: dir, born: time.Now(), refs: 1, cached: true}
	if err := s.survey(one); err != nil {
		return nil, errors.Join(err, s.fs.RemoveAll(dir))
	}
	return one, s.keep(one)
}

// survey reads what the checkpoint holds. The index comes from the checkpoint
// itself: more may have been flushed since.
func (s *Store) survey(one *checkpoint) error {
	m, err := s.inspect(one.dir, func(*pebble.DB) error { return nil })
	if err != nil {
		return err
	}
	one.meta = m
	names, err := s.fs.List(one.dir)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		if n == "LOCK" {
			continue
		}
		st, err := s.fs.Stat(s.fs.PathJoin(one.dir, n))
		if err != nil {
			return err
		}
		if st.IsDir() || !fileName(n) {
			return fmt.Errorf("disk: checkpoint has the odd file %q", n)
		}
		one.files = append(one.files, file{n, st.Size()})
	}
	one.size = packedSize(m.encode(nil), one.files)
	return nil
}

// inspect opens a database that is not in use, for reading.
func (s *Store) inspect(dir string, fn func(*pebble.DB) error) (m meta, err error) {
	h := &handle{s: s}
	h.retired.Store(true) // its damage is the caller's to judge
	o := s.engine(h)
	o.Cache = nil
	o.CacheSize = 1 << 20
	o.MemTableSize = 64 << 10
	o.ReadOnly = true
	o.ErrorIfNotExists = true
	db, err := pebble.Open(dir, o)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := s.checkBodies(db, dir); err != nil {
		return m, err
	}
	if m, err = readMeta(db); err != nil {
		return m, err
	}
	return m, fn(db)
}

// keep enters a new checkpoint in place of the one that was cached.
func (s *Store) keep(one *checkpoint) error {
	c := &s.checkpoints
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errors.Join(ErrClosed, s.fs.RemoveAll(one.dir))
	}
	for old := range c.all {
		old.cached = false
		s.dispose(old)
	}
	if c.all == nil {
		c.all = make(map[*checkpoint]struct{})
	}
	c.all[one] = struct{}{}
	one.timers = []*time.Timer{
		time.AfterFunc(s.o.CheckpointAge, func() { s.withCheckpoint(func() { one.cached = false; s.dispose(one) }) }),
		time.AfterFunc(s.o.CheckpointLife, func() { s.expire(one) }),
	}
	return nil
}

func (s *Store) withCheckpoint(fn func()) {
	s.checkpoints.mu.Lock()
	defer s.checkpoints.mu.Unlock()
	fn()
}

// expire takes a checkpoint from whoever still reads it.
func (s *Store) expire(one *checkpoint) {
	s.withCheckpoint(func() {
		if !one.removed && one.refs > 0 {
			s.log.Warn("a member takes too long over a snapshot; it is cut off",
				zap.Uint64("index", one.meta.index), zap.Duration("age", time.Since(one.born)))
		}
		one.expired, one.cached, one.refs = true, false, 0
		s.dispose(one)
	})
}

func (s *Store) putBack(one *checkpoint) {
	s.withCheckpoint(func() {
		if !one.expired {
			one.refs--
			s.dispose(one)
		}
	})
}

// dispose removes a checkpoint that nobody needs. The caller holds mu.
func (s *Store) dispose(one *checkpoint) {
	if one.removed || one.cached || one.refs > 0 {
		return
	}
	one.removed = true
	for _, t := range one.timers {
		t.Stop()
	}
	delete(s.checkpoints.all, one)
	if err := s.fs.RemoveAll(one.dir); err != nil {
		s.log.Warn("remove checkpoint", zap.Error(err))
	}
}

// forget keeps the cached checkpoint from being sent again.
func (s *Store) forget() {
	s.withCheckpoint(func() {
		for one := range s.checkpoints.all {
			one.cached = false
			s.dispose(one)
		}
	})
}

// close cuts all receivers off.
func (s *Store) closeCheckpoints() {
	s.withCheckpoint(func() {
		s.checkpoints.closed = true
		for one := range s.checkpoints.all {
			one.expired, one.cached, one.refs = true, false, 0
			s.dispose(one)
		}
	})
}

// sender streams a checkpoint.
type sender struct {
	s    *Store
	one  *checkpoint
	pack *packer
}

// Read implements io.Reader.
func (r *sender) Read(p []byte) (int, error) {
	if r.pack == nil {
		return 0, ErrClosed
	}
	var gone bool
	r.s.withCheckpoint(func() { gone = r.one.expired })
	if gone {
		return 0, ErrExpired
	}
	return r.pack.Read(p)
}

// Close implements io.Closer.
func (r *sender) Close() error {
	if r.pack == nil {
		return nil
	}
	err := r.pack.closeFile()
	r.pack = nil
	r.s.putBack(r.one)
	return err
}
