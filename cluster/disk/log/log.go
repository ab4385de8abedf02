package log

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
)

// Rebuild is the cure of a data directory whose log or store is damaged, in words
// for the operator.
const Rebuild = "move the data directory away and join this node anew"

// ErrClosed is returned by every call after Close.
var ErrClosed = errors.New("disk: the log is closed")

// Options sets up a Log. The zero value is usable.
type Options struct {
	Log *zap.Logger // nil: no logging

	// Fatal is called once, when the log has failed or hangs. The process is
	// expected to end: a node that can not write its log must neither vote nor
	// lead. Fatal may be called on any goroutine and must not call the Log. The
	// default panics.
	Fatal func(error)

	GrowTo int64 // a new log is given so much disk at once; default 128 MiB, negative: none
	// a write that takes longer, pauses of the machine aside, is fatal while it still hangs; default 10 s
	StallAfter time.Duration
	CacheBytes int64         // newest entries kept in memory, default 32 MiB
	CacheFor   time.Duration // and for how long, about; 0: until there are newer ones
	MmapBytes  int64         // address space set aside for raft.db, default 8 GiB

	// Slow is called in place of each write to the disk, and must call it; nil
	// calls it at once. Tests of slow disks set it.
	Slow func(write func() error) error

	segmentBytes int64 // of a file of entries; default 16 MiB
	tailEntries  int   // bbolt gets that many at a time; default 256
	packed       bool  // a new log is packed from its beginning
	openSegment  func(path string) (segmentFile, error)
	syncDir      func(dir string) error
	writeFile    func(path string, b []byte, mode os.FileMode) error
	wrap         func(backend) backend // stands between the log and bbolt
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) { panic(fmt.Sprintf("disk: this node can not go on: %v", err)) }
	}
	o.GrowTo = cmp.Or(o.GrowTo, 128<<20)
	o.StallAfter = cmp.Or(o.StallAfter, 10*time.Second)
	o.CacheBytes = cmp.Or(o.CacheBytes, 32<<20)
	o.MmapBytes = cmp.Or(o.MmapBytes, 8<<30)
	o.segmentBytes = cmp.Or(o.segmentBytes, segmentSize)
	o.tailEntries = cmp.Or(o.tailEntries, tailEntries)
	if o.openSegment == nil {
		o.openSegment = openSegment
	}
	if o.syncDir == nil {
		o.syncDir = syncPath
	}
	if o.writeFile == nil {
		o.writeFile = os.WriteFile
	}
	if o.wrap == nil {
		o.wrap = func(b backend) backend { return b }
	}
	return o
}

// Log is raft's log and stable store. An entry is promised when it is in a
// segment. Before the raise to version 2 bbolt gets it by way of raft-boltdb a little
// later, many at a time; from then on the log is packed, and the segments are all of it.
// And Log adds what neither does: it stops the node at the first
// error, checks entries when it reads them, keeps the newest in memory,
// deletes in small steps, writes a vote as one value, and lets a member go on
// after a snapshot that its log contradicts. Raft calls it from several
// goroutines; all methods are safe for that.
//
// Guards of raft, what they are against, and the tests that fail without them:
//
//   - the log stops at its first error, or when a write hangs: raft#503, #614.
//     TestFirstErrorStopsTheLog, TestRealWriteErrorIsFatal,
//     TestHangingWriteIsFatal, TestPanicsOfBoltAreFatal.
//   - damaged entries and files are refused: bit rot. TestDamagedEntryIsFatal,
//     TestDamagedFileIsRefused, TestFlippedOctetsOfAPackedLog, TestEveryFlippedOctetIsRefused.
//   - prefixes of the log go in small steps: a long write blocks heartbeats.
//     TestOldEntriesGoInSteps.
//   - cached entries are bounded in octets: memory. TestCacheIsBoundedInOctets.
//   - term and vote are one value: raft#661, two votes in a term.
//     TestVoteIsOneValue, TestVoteCostsOneSync.
//   - the suffix behind an installed snapshot is checked: raft#697, logs diverge.
//     TestDivergentLogAfterInstall, TestGuardIsRepeatedAtStart.
//   - no freelist sync, a file grown once: latency. TestBoltIsSetUpWell,
//     TestLogIsGrownOnce.
type Log struct {
	o    Options
	db   backend
	data segments // of a log that is not packed

	// packed is set when the log is packed: then data and tail are empty, and bbolt has no
	// entries.
	packed atomic.Pointer[packed]
	noRoom atomic.Bool // to pack the log

	// deleting is held for writing while the log is converted, for reading by what deletes
	// entries of one that is not packed.
	deleting sync.RWMutex
	storing  sync.Mutex // what writes entries; guards the scratch
	scratch  []raft.Log
	ptrs     []*raft.Log
	sums     []byte

	mu     sync.RWMutex // guards all below
	ledger ledger
	cache  entryCache
	guard  struct{ index, term uint64 }
	tail   tail // written with storing held too

	stable stable
	floor  atomic.Pointer[func() uint64]

	path     string
	failOnce sync.Once
	failure  atomic.Pointer[error]
	failed   chan struct{} // closed when there is a failure
	closed   atomic.Bool
	count    counters
}

// backend is what Log needs of raft-boltdb.
type backend interface {
	raft.LogStore
	raft.StableStore
	Close() error
}

var (
	_ raft.LogStore    = (*Log)(nil)
	_ raft.StableStore = (*Log)(nil)
)

// FirstIndex implements raft.LogStore.
func (l *Log) FirstIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.ledger.first(), l.usable()
}

// LastIndex implements raft.LogStore.
func (l *Log) LastIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.ledger.last(), l.usable()
}

// Bytes returns the size of the entries the log holds. The file is larger: it
// never shrinks.
func (l *Log) Bytes() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.ledger.bytes
}

// Average returns the mean size of an entry, at least 1. With it a bound in
// octets becomes one in entries, which is all raft knows.
func (l *Log) Average() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return max(1, l.ledger.bytes/int64(max(1, l.ledger.len())))
}

// GetLog implements raft.LogStore. The entry's data is shared and must not be
// changed.
func (l *Log) GetLog(index uint64, to *raft.Log) error {
	if err := l.usable(); err != nil {
		return err
	}
	l.mu.RLock()
	hit := l.cache.get(index, to)
	g := l.guard
	l.mu.RUnlock()
	var err error
	if hit {
		l.count.hits.Add(1)
	} else {
		l.count.misses.Add(1)
		err = l.read(index, to)
	}
	if index == g.index && g.index > 0 && (errors.Is(err, raft.ErrLogNotFound) || err == nil && to.Term != g.term) {
		*to = raft.Log{Index: g.index, Term: g.term, Type: raft.LogNoop}
		return nil
	}
	return err
}

// TermAt returns the term of an entry; false: the log does not have it.
func (l *Log) TermAt(index uint64) (term uint64, known bool) {
	var e raft.Log
	if l.GetLog(index, &e) != nil {
		return 0, false
	}
	return e.Term, true
}

// read gets an entry from the files and checks it.
func (l *Log) read(index uint64, to *raft.Log) error {
	var err error
	if p := l.packed.Load(); p != nil {
		err = l.readPacked(p, index, to)
	} else if err = l.readFormer(index, to); err != nil {
		if p := l.packed.Load(); p != nil { // since just now
			err = l.readPacked(p, index, to)
		}
	}
	if errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	if err != nil {
		return l.fail(fmt.Errorf("disk: read entry %d of the log: %w", index, err))
	}
	return nil
}

// readFormer gets an entry of a log that is not packed.
func (l *Log) readFormer(index uint64, to *raft.Log) error {
	l.mu.RLock()
	waiting, ok := l.tail.get(index)
	l.mu.RUnlock()
	*to = raft.Log{}
	if ok {
		return l.fetchWaiting(&waiting, to)
	}
	err := guarded(func() error { return l.db.GetLog(index, to) })
	if err == nil {
		err = l.fetchData(to)
	}
	if err == nil {
		err = unseal(to, index)
	}
	return err
}

// fetchData brings the data of an entry that has it in a segment. An entry that
// is deleted meanwhile is not found.
func (l *Log) fetchData(e *raft.Log) error {
	p, spilled, err := placeOf(e)
	if err != nil || !spilled {
		return err
	}
	e.Data, err = l.dataAt(p, e.Index)
	return err
}

func (l *Log) dataAt(p place, index uint64) ([]byte, error) {
	data, err := l.data.read(p)
	if !errors.Is(err, errReused) {
		return data, err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.ledger.has(index) {
		return nil, err
	}
	return nil, raft.ErrLogNotFound
}

// StoreLog implements raft.LogStore.
func (l *Log) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore. When it returns nil the entries are on
// the disk. It fails only when the node is about to end.
func (l *Log) StoreLogs(logs []*raft.Log) error {
	l.storing.Lock()
	defer l.storing.Unlock()
	p := l.packed.Load()
	err := l.write("append to the log", func() error {
		if p != nil {
			return l.storePacked(p, logs)
		}
		return l.store(logs)
	})
	if err != nil {
		return err
	}
	var n int64
	l.mu.Lock()
	l.cache.age(time.Now())
	for _, e := range logs {
		size := entrySize(e)
		if p == nil {
			l.ledger.put(e.Index, size)
		}
		l.cache.add(e, size)
		n += int64(size)
	}
	l.mu.Unlock()
	l.count.appends.Add(1)
	l.count.entries.Add(uint64(len(logs)))
	l.count.bytes.Add(uint64(n))
	if !l.tail.due(l.o.tailEntries) {
		return nil
	}
	return l.write("move entries of the log", l.move)
}

// Close closes the log. Raft must have been shut down before. It does not wait
// for a disk that hangs for longer than a few times StallAfter: it returns an
// error and leaves the files open, which only the end of the process closes.
func (l *Log) Close() error {
	done := make(chan error, 1)
	go func() { done <- l.close() }()
	limit := time.NewTimer(3 * l.o.StallAfter) // for a write, what it waits for, and the files
	defer limit.Stop()
	select {
	case err := <-done:
		return err
	case <-limit.C:
		return errors.New("disk: the log can not be closed: a read of its files hangs; they stay open until the process ends")
	case <-l.failed:
		limit.Reset(l.o.StallAfter)
	}
	select {
	case err := <-done:
		return err
	case <-limit.C:
		return fmt.Errorf("%w; the log's files stay open until the process ends", *l.failure.Load())
	}
}

func (l *Log) close() error {
	l.storing.Lock()
	defer l.storing.Unlock()
	if l.closed.Load() {
		return nil
	}
	var err error
	p := l.packed.Load()
	if l.failure.Load() == nil {
		if p != nil {
			err = l.write("note the end of the log", func() error { return l.noteEnd(p) })
		} else {
			err = l.write("move entries of the log", l.move)
		}
	}
	l.closed.Store(true)
	if p != nil {
		err = errors.Join(err, p.close())
	}
	return errors.Join(err, l.db.Close(), l.data.close())
}

// write runs a write under a watchdog, and counts it.
func (l *Log) write(what string, fn func() error) error {
	if slow, write := l.o.Slow, fn; slow != nil {
		fn = func() error { return slow(write) }
	}
	began := time.Now()
	if err := l.watched(what, fn); err != nil {
		return err
	}
	l.count.writes.Add(1)
	l.count.writeNanos.Add(uint64(time.Since(began)))
	return nil
}

// watched runs what changes files under a watchdog. A write that hangs is not given
// up: it may still land, so there is no answer to it but the end of the process. A
// pause of the machine is no hang.
func (l *Log) watched(what string, fn func() error) error {
	if err := l.usable(); err != nil {
		return err
	}
	if err := l.guarded(what, fn); err != nil {
		return l.fail(fmt.Errorf("disk: %s: %w", what, err))
	}
	return l.usable()
}

// guarded is watched for what may fail.
func (l *Log) guarded(what string, fn func() error) error {
	dog := watch(l.o.StallAfter, func() {
		_ = l.fail(fmt.Errorf("disk: %s hangs for %s", what, l.o.StallAfter))
	})
	defer dog.stop()
	return guarded(fn)
}

// guarded turns a panic into an error: bbolt panics where it finds damage.
func guarded(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the file is damaged: %v", r)
		}
	}()
	return fn()
}

// fail stops the log for good, tells the owner once, and returns the failure.
// An error since the files are closed is no failure.
func (l *Log) fail(err error) error {
	if l.closed.Load() && l.failure.Load() == nil {
		return ErrClosed
	}
	l.failOnce.Do(func() {
		l.failure.Store(&err)
		close(l.failed)
		l.o.Log.Error("the log has failed", zap.String("path", l.path), zap.Error(err))
		l.o.Fatal(err)
	})
	return *l.failure.Load()
}

func (l *Log) usable() error {
	if p := l.failure.Load(); p != nil {
		return *p
	}
	if l.closed.Load() {
		return ErrClosed
	}
	return nil
}
