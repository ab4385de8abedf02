package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"relay/cluster/spool"
)

// live is the id of the one snapshot a store always has: itself.
const live = "live"

// Snapshots returns the store as raft's snapshot store. There is one snapshot,
// the store's own flushed state; taking it copies nothing, and opening it
// yields its files.
func (s *Store) Snapshots() raft.SnapshotStore { return snapshots{s} }

type snapshots struct{ s *Store }

// List implements raft.SnapshotStore. It reports the durable index, read from
// what the store has flushed, so raft can never truncate its log or skip an
// entry because of something a power loss would take away.
func (l snapshots) List() ([]*raft.SnapshotMeta, error) {
	m, err := l.s.durable()
	if err != nil || m.index == 0 {
		return nil, err
	}
	sm, err := describe(live, m, 0)
	return []*raft.SnapshotMeta{sm}, err
}

func describe(id string, m meta, size int64) (*raft.SnapshotMeta, error) {
	c, err := m.configuration()
	return &raft.SnapshotMeta{
		Version: 1, ID: id, Index: m.index, Term: m.term,
		Configuration: c, ConfigurationIndex: m.configIndex, Size: size,
	}, err
}

// Open implements raft.SnapshotStore: the live snapshot as a stream, whose
// description is taken from the very files it is made of; or a received one,
// for Restore alone.
func (l snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if id != live {
		return l.s.installs.open(id)
	}
	one, err := l.s.checkpoint()
	if err != nil {
		return nil, nil, err
	}
	sm, err := describe(live, one.meta, one.size)
	if err != nil {
		l.s.putBack(one)
		return nil, nil, err
	}
	p := newPacker(l.s.fs, one.dir, one.meta.encode(nil), one.files)
	return sm, &sender{s: l.s, one: one, pack: p}, nil
}

// Create implements raft.SnapshotStore. The sink serves both of raft's uses:
// Persist records the snapshot in the store itself, and what is written to it
// is a snapshot from the leader.
func (l snapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration,
	configIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if v != 1 {
		return nil, fmt.Errorf("disk: unsupported snapshot version %d", v)
	}
	if err := l.s.broke(); err != nil {
		return nil, err
	}
	return &sink{s: l.s, id: live, meta: meta{
		index: index, term: term, config: raft.EncodeConfiguration(c), configIndex: configIndex,
	}}, nil
}

// A failure before CURRENT leaves the store as it was and is an error to raft; one
// there ends the process. A snapshot that is not newer than the store changes
// nothing, but flushes. The stream's frames carry a running checksum, so lost, repeated
// and moved frames are found like flipped bits. Reading every block in Close costs
// about as long as writing them did; a leader with a bad disk must not spread its
// damage.

// installs are the received snapshots that Restore has not taken yet; raft
// restores each at once, so there is never more than one of use.
type installs struct {
	mu      sync.Mutex
	waiting *received
}

// received is a whole snapshot in a directory of its own.
type received struct {
	id, dir string
	meta    meta
}

// put makes a snapshot the one that waits, and returns what it replaces.
func (i *installs) put(r *received) (old *received) {
	i.mu.Lock()
	defer i.mu.Unlock()
	old, i.waiting = i.waiting, r
	return old
}

func (i *installs) open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.waiting == nil || i.waiting.id != id {
		return nil, nil, fmt.Errorf("disk: there is no snapshot %q", id)
	}
	sm, err := describe(id, i.waiting.meta, 0)
	return sm, &ticket{Reader: bytes.NewReader(nil), of: i.waiting}, err
}

// take claims the snapshot for Restore.
func (i *installs) take(r *received) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.waiting != r {
		return false
	}
	i.waiting = nil
	return true
}

func (i *installs) close(s *Store) {
	if old := i.put(nil); old != nil {
		s.discard(old)
	}
}

func (s *Store) discard(r *received) {
	if err := s.fs.RemoveAll(s.dir.path(r.dir)); err != nil {
		s.log.Warn("remove received snapshot", zap.Error(err))
	}
}

// ticket stands for a received snapshot on its way through raft to Restore,
// which needs the files and not their octets once more.
type ticket struct {
	io.Reader
	of *received
}

// Close implements io.Closer.
func (*ticket) Close() error { return nil }

// sink meets raft.SnapshotSink. One goroutine uses it.
type sink struct {
	s         *Store
	id        string
	meta      meta
	persisted bool

	dir  string // once something was written
	pipe *io.PipeWriter
	done chan struct{} // closed when the unpacker is done
	got  meta
	err  error
}

// ID implements raft.SnapshotSink.
func (k *sink) ID() string { return k.id }

// Write implements io.Writer: the next piece of a leader's snapshot.
func (k *sink) Write(p []byte) (int, error) {
	if k.persisted {
		return 0, errors.New("disk: the snapshot was persisted already")
	}
	if k.pipe == nil {
		if err := k.begin(); err != nil {
			return 0, err
		}
	}
	return k.pipe.Write(p)
}

func (k *sink) begin() error {
	k.s.mu.Lock()
	k.dir = k.s.dir.fresh(prefixIn)
	k.s.mu.Unlock()
	path := k.s.dir.path(k.dir)
	if err := k.s.fs.MkdirAll(path, 0o700); err != nil {
		return err
	}
	r, w := io.Pipe()
	k.pipe, k.done = w, make(chan struct{})
	go func() {
		defer close(k.done)
		k.got, k.err = unpack(r, k.s.fs, path)
		r.CloseWithError(orEOF(k.err))
	}()
	return nil
}

func orEOF(err error) error {
	if err == nil {
		return io.ErrClosedPipe
	}
	return err
}

// Close implements io.Closer. For a received snapshot it returns nil only when
// the files are on the disk, are what the leader announced, and can be read
// from the first key to the last.
func (k *sink) Close() error {
	if k.pipe == nil {
		if !k.persisted {
			return errors.New("disk: an empty snapshot")
		}
		return nil
	}
	k.pipe.Close()
	<-k.done
	err := k.err
	if err == nil {
		k.s.o.step("unpacked")
		err = k.verify()
	}
	if err == nil {
		err = k.s.dir.sync()
	}
	if err != nil {
		return errors.Join(err, k.remove())
	}
	k.id = strings.Replace(k.dir, prefixIn, "received-", 1)
	if old := k.s.installs.put(&received{id: k.id, dir: k.dir, meta: k.got}); old != nil {
		k.s.discard(old)
	}
	k.s.o.step("received")
	return nil
}

func (k *sink) verify() error {
	if k.got.index != k.meta.index || k.got.term != k.meta.term {
		return fmt.Errorf("%w: announced as %d of term %d, is %d of term %d", ErrStream,
			k.meta.index, k.meta.term, k.got.index, k.got.term)
	}
	m, err := k.s.inspect(k.s.dir.path(k.dir), readAll)
	if err == nil && !m.same(k.got) {
		err = fmt.Errorf("%w: the files hold another index", ErrStream)
	}
	return err
}

// readAll reads every block that is in use, which checks their checksums: a
// leader with a bad disk must not spread its damage.
func readAll(db *pebble.DB) error {
	it, err := db.NewIter(nil)
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		if _, err := it.ValueAndErr(); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return it.Close()
}

func (k *sink) remove() error { return k.s.fs.RemoveAll(k.s.dir.path(k.dir)) }

// Cancel implements raft.SnapshotSink.
func (k *sink) Cancel() error {
	if k.pipe == nil {
		return nil
	}
	k.pipe.CloseWithError(errors.New("disk: the snapshot was cancelled"))
	<-k.done
	return k.remove()
}

// Restore implements raft.FSM: it switches to a received snapshot. The switch
// is one rename on the disk, and one assignment for readers; where it fails,
// the store goes on as it was. The live snapshot is where the store is already.
func (s *Store) Restore(from io.ReadCloser) error {
	for {
		w, ok := from.(raft.ReadCloserWrapper)
		if !ok {
			break
		}
		from = w.WrappedReadCloser()
	}
	switch f := from.(type) {
	case *sender:
		if f.s == s {
			return nil
		}
	case *ticket:
		if s.installs.take(f.of) {
			return s.install(f.of)
		}
	}
	return fmt.Errorf("disk: can not restore from a %T", from)
}

func (s *Store) install(r *received) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	if r.meta.index <= s.meta.index {
		if err := s.contradicts(r); err != nil {
			s.fatal(err)
			return err
		}
		// The snapshot's contents are here already. Raft will truncate its log up to there,
		// so it must be on the disk.
		s.discard(r)
		return s.Flush()
	}
	h, err := s.adopt(r)
	if err != nil {
		return err
	}
	old := s.cur
	if err := s.switchTo(h); err != nil {
		return err
	}
	old.retired.Store(true)
	old.release()
	s.forget()
	s.count.installs.Add(1)
	s.log.Info("switched to a received snapshot", zap.Uint64("index", r.meta.index),
		zap.Uint64("term", r.meta.term), zap.String("database", h.name))
	if err := s.o.OnInstall(r.meta.index, r.meta.term); err != nil {
		s.fatal(err)
		return err
	}
	c := s.machine.Changes()
	c.Sessions, c.Directory, c.Restored = true, true, true
	s.o.OnChanges(c)
	return nil
}

// adopt gives the received files a database's name and opens them.
func (s *Store) adopt(r *received) (*handle, error) {
	s.mu.Lock()
	name := s.dir.fresh(prefixDB)
	s.mu.Unlock()
	if err := s.fs.Rename(s.dir.path(r.dir), s.dir.path(name)); err != nil {
		return nil, err
	}
	if err := s.dir.sync(); err != nil {
		return nil, err
	}
	s.o.step("renamed")
	h, err := s.openHandle(name, false)
	if err != nil {
		return nil, errors.Join(err, s.fs.RemoveAll(s.dir.path(name)))
	}
	s.o.step("opened")
	return h, nil
}

// switchTo makes a database the one in use, on the disk first. A state of a
// newer cluster version ends the process. Another failure before CURRENT is
// written leaves everything as it was; one after that ends the process, because it
// is not known what the next start would find.
func (s *Store) switchTo(h *handle) error {
	m, machine, err := s.load(h)
	if err != nil {
		h.retired.Store(true)
		h.release()
		err = fmt.Errorf("disk: received state: %w", err)
		if errors.Is(err, spool.ErrVersion) {
			// The leader would send it again for ever.
			s.fatal(err)
		}
		return err
	}
	if err := s.dir.point(h.name); err != nil {
		err = fmt.Errorf("disk: switch to %s: %w", h.name, err)
		s.fatal(err)
		h.release()
		return err
	}
	s.o.step("pointed")
	s.use(h, m, machine)
	s.o.step("taken")
	return nil
}

var _ spool.Batch = (*batch)(nil)
