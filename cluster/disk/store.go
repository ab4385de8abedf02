package disk

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"relay/cluster/spool"
)

// ErrClosed is returned by every call after Close.
var ErrClosed = errors.New("disk: store is closed")

// Store keeps the spool. It is raft's FSM; raft calls ApplyBatch, Snapshot and
// Restore from one goroutine, and a snapshot's Persist beside them. All other
// methods may be called from any goroutine.
type Store struct {
	o     Options
	log   *zap.Logger
	fs    vfs.FS
	cache *pebble.Cache

	applying sync.Mutex // serializes ApplyBatch, Persist's write and Restore
	machine  Machine
	batch    *batch
	meta     meta // of what is committed
	staged   meta // of what is in batch
	scratch  []byte

	sumScratch [17]byte

	mu      sync.RWMutex // guards cur and handles, and dir after Open
	cur     *handle
	handles map[*handle]struct{}
	dir     layout
	lock    interface{ Close() error }

	applied waiters
	index   atomic.Uint64
	config  atomic.Uint64 // index of the configuration that was applied last
	summed  atomic.Bool   // there is a chain of sums

	marks       marks
	anchors     anchors
	checkpoints checkpoints
	installs    installs

	failOnce   sync.Once
	failure    atomic.Pointer[error]
	stop       chan struct{} // closed at failure or Close
	stopOnce   sync.Once
	count      counters
	reclaiming reclaiming
	slow       slowness
	buffers    buffers
}

var (
	_ raft.BatchingFSM        = (*Store)(nil)
	_ raft.ConfigurationStore = (*Store)(nil)
)

// Open opens the store in dir, or makes an empty one there, and removes what
// an interrupted installation left behind. One process may have it open.
func Open(dir string, o Options) (*Store, error) {
	o = o.withDefaults()
	s := &Store{o: o, log: o.Log, fs: o.FS, stop: make(chan struct{}), handles: make(map[*handle]struct{})}
	if s.fs == nil {
		s.fs = vfs.Default
	}
	s.marks.init()
	if err := s.fs.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	s.dir = layout{fs: s.fs, root: dir}
	lock, err := s.fs.Lock(s.dir.path("LOCK"))
	if err != nil {
		return nil, fmt.Errorf("disk: %s is in use: %w", dir, err)
	}
	s.lock = lock
	// Pebble takes memtables out of the cache: the active one, and one that is
	// being flushed or kept for use again. Without room for them nothing is left.
	s.cache = pebble.NewCache(o.CacheSize + 2*o.MemTableSize)
	if err := s.open(); err != nil {
		s.cache.Unref()
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

func (s *Store) open() error {
	name, create, err := s.dir.open()
	if err != nil {
		return err
	}
	h, err := s.openHandle(name, create)
	if err != nil {
		return err
	}
	if create {
		err = errors.Join(s.dir.point(name), syncDir(s.fs, s.fs.PathDir(s.dir.root)))
	}
	if err != nil {
		return errors.Join(err, h.db.Close())
	}
	m, machine, err := s.load(h)
	if err == nil && m.index > 0 {
		// A crash may have come between an installation and this.
		err = s.o.OnInstall(m.index, m.term)
	}
	if err != nil {
		return errors.Join(err, h.db.Close())
	}
	s.use(h, m, machine)
	return nil
}

// load reads what is needed to go on from a database.
func (s *Store) load(h *handle) (m meta, machine Machine, err error) {
	if m, err = readMeta(h.db); err != nil {
		return m, nil, err
	}
	r := h.reader()
	defer r.letGo()
	if machine, err = s.o.Load(r); err != nil {
		return m, nil, fmt.Errorf("disk: load the state machine: %w", err)
	}
	if err := resume(h.db, machine, m.index); err != nil {
		return m, nil, err
	}
	return m, machine, nil
}

// use makes a database the one in use.
func (s *Store) use(h *handle, m meta, machine Machine) {
	if s.batch != nil {
		s.batch.close()
	}
	s.machine, s.batch = machine, newBatch(h, s.checked)
	s.meta, s.staged = m, m
	s.anchors.clear()
	s.mu.Lock()
	s.cur, s.handles[h] = h, struct{}{}
	s.mu.Unlock()
	s.reached(m.index)
}

// reached publishes the applied index and wakes those who wait for it.
func (s *Store) reached(index uint64) {
	s.index.Store(index)
	s.summed.Store(sums(s.machine))
	s.config.Store(s.meta.configIndex)
	s.applied.advance(index)
}

// Applied returns the index of the last command or configuration whose effects
// views can see. Raft shows the store neither no-ops nor barriers, so it may
// stay behind raft's own index for ever: wait for an index that ApplyBatch
// answered or that another member's Applied returned, not for a commit index.
func (s *Store) Applied() uint64 { return s.index.Load() }

// ConfigIndex is the index of the configuration of the cluster that was applied
// last. It is cheap.
func (s *Store) ConfigIndex() uint64 { return s.config.Load() }

// WaitApplied returns when Applied has reached index. It fails when ctx ends,
// the store is closed or has failed.
func (s *Store) WaitApplied(ctx context.Context, index uint64) error {
	return s.applied.wait(ctx, index, s.stop, s.reason)
}

// View calls fn with the latest committed state. Two reads in one View may see
// different commits; Frozen is for those who mind. A value that a read returns is
// valid until the next read or the end of fn. fn must not keep the view, and must not
// take long: it holds memory that was written since.
func (s *Store) View(fn func(spool.View) error) error {
	h, err := s.acquire()
	if err != nil {
		return err
	}
	defer h.release()
	r := h.reader()
	defer r.letGo()
	return fn(spool.View{R: r})
}

// Frozen calls fn with the state at one point in time, and the index of the
// last entry applied to it.
func (s *Store) Frozen(fn func(v spool.View, index uint64) error) error {
	h, err := s.acquire()
	if err != nil {
		return err
	}
	defer h.release()
	snap := h.db.NewSnapshot()
	defer snap.Close()
	m, err := readMeta(snap)
	if err != nil {
		return s.checked(err)
	}
	r := &reader{src: snap, fail: s.checked}
	defer r.letGo()
	return fn(spool.View{R: r}, m.index)
}

// Durable returns the index up to which a power loss now would leave the
// store. The log must keep everything behind it.
func (s *Store) Durable() (uint64, error) {
	m, err := s.durable()
	return m.index, err
}

func (s *Store) durable() (meta, error) {
	h, err := s.acquire()
	if err != nil {
		return meta{}, err
	}
	defer h.release()
	m, err := readDurableMeta(h.db)
	return m, s.checked(err)
}

// Flush puts what was applied so far on the disk.
func (s *Store) Flush() error {
	h, err := s.acquire()
	if err != nil {
		return err
	}
	defer h.release()
	return s.flush(h)
}

// flush waits for Pebble, which retries a failed flush for ever, or for the
// failure.
func (s *Store) flush(h *handle) error {
	have, err := readDurableMeta(h.db)
	if err != nil {
		return s.checked(err)
	}
	if want, err := readMeta(h.db); err != nil || want.same(have) {
		return s.checked(err)
	}
	done, err := h.db.AsyncFlush()
	if err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-s.failed():
		return s.reason()
	}
}

// Close flushes and closes the store. It waits for views and body readers, up
// to Options.CloseWait; after that it returns an error, and the last of them
// closes the database. Raft must have been shut down before.
func (s *Store) Close() error {
	if s.failure.Load() == nil {
		if err := s.Flush(); err != nil && !errors.Is(err, ErrClosed) {
			s.log.Warn("flush at close", zap.Error(err))
		}
	}
	s.stopOnce.Do(func() { close(s.stop) })
	s.applying.Lock()
	defer s.applying.Unlock()
	s.mu.Lock()
	h := s.cur
	s.cur = nil
	waiting := make([]*handle, 0, len(s.handles))
	for one := range s.handles {
		waiting = append(waiting, one)
	}
	s.mu.Unlock()
	if h == nil {
		return nil
	}
	s.marks.close()
	s.installs.close(s)
	s.closeCheckpoints()
	if s.batch != nil {
		s.batch.close()
		s.batch = nil
	}
	h.release()
	return s.awaitClosed(waiting)
}

func (s *Store) awaitClosed(all []*handle) error {
	limit := time.NewTimer(s.o.CloseWait)
	defer limit.Stop()
	var err error
	for _, h := range all {
		select {
		case <-h.gone:
			err = errors.Join(err, h.err)
		case <-limit.C:
			return errLeak
		}
	}
	s.cache.Unref()
	return errors.Join(err, s.lock.Close())
}

// fatal makes the store refuse everything, and tells the owner once.
func (s *Store) fatal(err error) {
	s.failOnce.Do(func() {
		s.failure.Store(&err)
		s.log.Error("the store has failed", zap.Error(err))
		s.o.Fatal(err)
		s.stopOnce.Do(func() { close(s.stop) })
	})
}

// failed is closed when the store has failed or is closed.
func (s *Store) failed() <-chan struct{} { return s.stop }

// reason says why the store does not work any more.
func (s *Store) reason() error {
	if p := s.failure.Load(); p != nil {
		return *p
	}
	return ErrClosed
}

func (s *Store) broke() error {
	if p := s.failure.Load(); p != nil {
		return *p
	}
	return nil
}
