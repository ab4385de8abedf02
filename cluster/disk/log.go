package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"go.uber.org/zap"
)

// LogOptions sets up a Log. The zero value is usable.
type LogOptions struct {
	Log *zap.Logger // nil: no logging

	// Fatal is called once, when the log has failed or hangs. The process is
	// expected to end: a node that can not write its log must neither vote nor
	// lead. Fatal may be called on any goroutine and must not call the Log. The
	// default panics.
	Fatal func(error)

	GrowTo     int64         // a new log is given so much disk at once; default 128 MiB, negative: none
	StallAfter time.Duration // a write that takes longer is fatal while it still hangs; default 10 s
	CacheBytes int64         // newest entries kept in memory, default 32 MiB
	MmapBytes  int64         // address space set aside for raft.db, default 8 GiB

	segmentBytes int64 // of a file of entries; default 16 MiB
	tailEntries  int   // bbolt gets that many at a time; default 256
	openSegment  func(path string) (segmentFile, error)
	syncDir      func(dir string) error
}

func (o LogOptions) withDefaults() LogOptions {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) { panic(fmt.Sprintf("disk: this node can not go on: %v", err)) }
	}
	setDefault(&o.GrowTo, 128<<20)
	setDefault(&o.StallAfter, 10*time.Second)
	setDefault(&o.CacheBytes, 32<<20)
	setDefault(&o.MmapBytes, 8<<30)
	setDefault(&o.segmentBytes, segmentSize)
	setDefault(&o.tailEntries, tailEntries)
	if o.openSegment == nil {
		o.openSegment = openSegment
	}
	if o.syncDir == nil {
		o.syncDir = syncPath
	}
	return o
}

// Log is raft's log and stable store. An entry is promised when it is in a
// segment; bbolt gets it by way of raft-boltdb a little later, many at a time.
// And Log adds what neither does: it stops the node at the first
// error, checks entries when it reads them, keeps the newest in memory,
// deletes in small steps, writes a vote as one value, and lets a member go on
// after a snapshot that its log contradicts. Raft calls it from several
// goroutines; all methods are safe for that.
type Log struct {
	o    LogOptions
	db   backend
	data segments

	storing sync.Mutex // what writes entries; guards the scratch
	scratch []raft.Log
	ptrs    []*raft.Log
	sums    []byte

	mu     sync.RWMutex // guards all below
	ledger ledger
	cache  entryCache
	guard  struct{ index, term uint64 }
	tail   tail // written with storing held too

	stable stable

	path     string
	failOnce sync.Once
	failure  atomic.Pointer[error]
	failed   chan struct{} // closed when there is a failure
	closed   atomic.Bool
	count    logCounters
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

// deleteStep is how many entries one transaction deletes: raft's main loop must
// not wait for a long one before it can store.
const deleteStep = 512

// OpenLog opens the log in dir, or makes an empty one there. One process may
// have it open.
func OpenLog(dir string, o LogOptions) (l *Log, err error) {
	o = o.withDefaults()
	defer func() { // bbolt panics where its pages make no sense
		if r := recover(); r != nil {
			l, err = nil, fmt.Errorf("disk: the log in %s is damaged: %v", dir, r)
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "raft.db")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := createLog(path, o); err != nil {
			return nil, fmt.Errorf("disk: make %s: %w", path, err)
		}
	}
	l = &Log{o: o, path: path, failed: make(chan struct{})}
	l.cache.limit = o.CacheBytes
	l.data = segments{dir: dir, size: o.segmentBytes, spares: spareSegments, full: o.GrowTo >= 0, open: o.openSegment, syncDir: o.syncDir}
	if err := l.ledger.read(path); errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("disk: %s is in use: does another relayd run on this data directory? (%w)", path, err)
	} else if err != nil {
		return nil, fmt.Errorf("disk: read %s: %w", path, err)
	}
	db, err := raftboltdb.New(boltOptions(path, o))
	if err != nil {
		return nil, fmt.Errorf("disk: open %s: %w", path, err)
	}
	l.db = db
	err = l.stable.load(db)
	if err == nil {
		err = l.openSegments()
	}
	if err != nil {
		return nil, errors.Join(err, db.Close(), l.data.close())
	}
	return l, nil
}

// spareSegments is how many files are kept for reuse.
const spareSegments = 8

// openSegments opens the files with the entries' data, finds out which entries
// have theirs where, and gives bbolt the entries it has not got yet.
func (l *Log) openSegments() error {
	if err := l.data.load(); err != nil {
		return err
	}
	for i := range l.ledger.lines() {
		one := &l.ledger.lines()[i]
		var e raft.Log
		if err := l.db.GetLog(one.index, &e); err != nil {
			return fmt.Errorf("disk: read entry %d of the log: %w", one.index, err)
		}
		p, spilled, err := placeOf(&e)
		if err == nil && spilled {
			err = l.data.seen(p, one.index)
		}
		if err != nil {
			return fmt.Errorf("disk: the log in %s is damaged: entry %d: %w", l.data.dir, one.index, err)
		}
		one.size += p.size
		l.ledger.bytes += int64(p.size)
	}
	if err := l.replay(); errors.Is(err, errSeal) {
		return fmt.Errorf("disk: the log in %s is damaged: %w", l.data.dir, err)
	} else if err != nil {
		return fmt.Errorf("disk: read the end of the log in %s: %w", l.data.dir, err)
	}
	return l.data.tidy()
}

func boltOptions(path string, o LogOptions) raftboltdb.Options {
	return raftboltdb.Options{
		Path:                    path,
		MsgpackUseNewTimeFormat: true,
		BoltOptions: &bbolt.Options{
			Timeout:         time.Second,
			NoFreelistSync:  true, // or each commit writes the whole list of free pages
			FreelistType:    bbolt.FreelistMapType,
			InitialMmapSize: int(o.MmapBytes), // or appends wait while the file is mapped anew
		},
	}
}

// boltShare is what raft.db gets of LogOptions.GrowTo, the segments the rest.
const boltShare = 8

// createLog makes empty files of their final size. Otherwise the first hundreds
// of megabytes cost an additional sync and the allocation of blocks with every
// few commits.
func createLog(path string, o LogOptions) error {
	tmp := path + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	small := o
	small.MmapBytes = 0 // or bbolt makes the file larger by itself, and leaves a hole
	db, err := raftboltdb.New(boltOptions(tmp, small))
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	err = grow(tmp, o.GrowTo/boltShare)
	if n := o.GrowTo * (boltShare - 1) / boltShare / o.segmentBytes; err == nil && n > 0 {
		ahead := segments{dir: filepath.Dir(path), size: o.segmentBytes, full: true, open: o.openSegment, syncDir: o.syncDir}
		err = ahead.load()
		if err == nil {
			err = ahead.fill(max(0, int(n)-len(ahead.spare)))
		}
		err = errors.Join(err, ahead.close())
	}
	if err != nil {
		// It is only slower without.
		o.Log.Warn("the log's files were not made ahead of time", zap.String("path", path), zap.Error(err))
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return o.syncDir(filepath.Dir(path))
}

// grow writes zeros behind the end; a hole would have to be allocated later.
func grow(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	zeros := make([]byte, 1<<20)
	for at := st.Size(); at < size && err == nil; at += int64(len(zeros)) {
		_, err = f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at)
	}
	if err != nil {
		err = errors.Join(err, f.Truncate(st.Size()))
	}
	return errors.Join(err, f.Sync(), f.Close())
}

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

// read gets an entry from the files and checks it.
func (l *Log) read(index uint64, to *raft.Log) (err error) {
	l.mu.RLock()
	waiting, ok := l.tail.get(index)
	l.mu.RUnlock()
	*to = raft.Log{}
	if ok {
		err = l.fetchWaiting(&waiting, to)
	} else {
		err = guarded(func() error { return l.db.GetLog(index, to) })
		if err == nil {
			err = l.fetchData(to)
		}
		if err == nil {
			err = unseal(to, index)
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
	err := l.write("append to the log", func() error { return l.store(logs) })
	if err != nil {
		return err
	}
	var n int64
	l.mu.Lock()
	for _, e := range logs {
		size := entrySize(e)
		l.ledger.put(e.Index, size)
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

// entrySize is about what an entry takes in the file.
func entrySize(e *raft.Log) uint32 { return uint32(len(e.Data) + len(e.Extensions) + entryRoom) }

// entryRoom is what the encoding adds: names and numbers of the fields.
const entryRoom = 64

const sealSize = 8

// spilledType marks the type of an entry whose data is in a segment, at the
// place that stands between its extensions and its checksum.
const spilledType raft.LogType = 0x80

// seal copies an entry into the scratch, with a checksum behind the extensions:
// bbolt has none for its data, and a flipped bit must neither be applied nor
// spread. Data that has a place is left out.
func (l *Log) seal(e *raft.Log, p place, sum uint64) {
	c := *e
	from := len(l.sums)
	l.sums = append(l.sums, e.Extensions...)
	if p.segment > 0 {
		c.Data = nil
		c.Type |= spilledType
		l.sums = p.append(l.sums)
	}
	l.sums = binary.BigEndian.AppendUint64(l.sums, sum)
	c.Extensions = l.sums[from:len(l.sums):len(l.sums)]
	l.scratch = append(l.scratch, c)
}

// sealed returns what seal has copied.
func (l *Log) sealed() []*raft.Log {
	for i := range l.scratch {
		l.ptrs = append(l.ptrs, &l.scratch[i])
	}
	return l.ptrs
}

func (l *Log) forgetScratch() {
	clear(l.scratch)
	clear(l.ptrs)
	l.scratch, l.ptrs, l.sums = l.scratch[:0], l.ptrs[:0], l.sums[:0]
}

var errSeal = errors.New("damaged entry")

// placeOf says where the data of an entry is that comes from bbolt; unseal
// takes the place off.
func placeOf(e *raft.Log) (p place, spilled bool, err error) {
	if e.Type&spilledType == 0 {
		return p, false, nil
	}
	n := len(e.Extensions) - sealSize - placeSize
	if n < 0 || len(e.Data) > 0 {
		return p, false, errSeal
	}
	return parsePlace(e.Extensions[n:]), true, nil
}

// unseal checks an entry that has its data and takes checksum and place off.
func unseal(e *raft.Log, index uint64) error {
	n := len(e.Extensions) - sealSize
	if n < 0 || e.Index != index {
		return errSeal
	}
	sum := binary.BigEndian.Uint64(e.Extensions[n:])
	if e.Type&spilledType != 0 {
		if n -= placeSize; n < 0 {
			return errSeal
		}
		e.Type &^= spilledType
	}
	if e.Extensions = e.Extensions[:n:n]; n == 0 {
		e.Extensions = nil
	}
	if checksum(e) != sum {
		return errSeal
	}
	return nil
}

func checksum(e *raft.Log) uint64 {
	var head [25]byte
	binary.BigEndian.PutUint64(head[:], e.Index)
	binary.BigEndian.PutUint64(head[8:], e.Term)
	binary.BigEndian.PutUint64(head[16:], uint64(len(e.Extensions)))
	head[24] = byte(e.Type)
	var d xxhash.Digest
	d.Reset()
	_, _ = d.Write(head[:])
	_, _ = d.Write(e.Extensions)
	_, _ = d.Write(e.Data)
	return d.Sum64()
}

// DeleteRange implements raft.LogStore. Old entries go in small transactions,
// from the oldest on; a suffix that a new leader replaces goes in one, because
// a part of it must not stay behind.
func (l *Log) DeleteRange(lo, hi uint64) error {
	l.mu.RLock()
	first, last := l.ledger.first(), l.ledger.last()
	l.mu.RUnlock()
	if first == 0 || hi < first || lo > last || lo > hi {
		return l.usable()
	}
	if lo <= first && hi < last {
		return l.deleteOld(hi)
	}
	return l.deleteOnce(lo, hi)
}

// deleteOld removes all entries up to hi.
func (l *Log) deleteOld(hi uint64) error {
	for {
		l.mu.RLock()
		lo, to := l.ledger.step(deleteStep, hi)
		l.mu.RUnlock()
		if lo == 0 {
			return nil
		}
		if err := l.deleteOnce(lo, to); err != nil {
			return err
		}
	}
}

func (l *Log) deleteOnce(lo, hi uint64) error {
	if l.storing.Lock(); l.tail.overlaps(lo, hi) {
		// Or they would be back at the next start.
		defer l.storing.Unlock()
		if err := l.write("move entries of the log", l.move); err != nil {
			return err
		}
	} else {
		l.storing.Unlock()
	}
	err := l.write("delete from the log", func() error {
		if err := l.db.DeleteRange(lo, hi); err != nil {
			return err
		}
		return l.deleted(lo, hi)
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.ledger.remove(lo, hi)
	l.cache.remove(lo, hi)
	first := l.ledger.first()
	l.mu.Unlock()
	gone := hi
	if first > 0 {
		gone = first - 1
	}
	return l.release(gone)
}

// release gives back the segments that only entries up to an index need.
func (l *Log) release(index uint64) error {
	return l.watched("give back segments of the log", func() error { return l.data.release(index) })
}

// deleted makes sure that the book is right: a suffix that is not gone would
// come back at the next start.
func (l *Log) deleted(lo, hi uint64) error {
	first, err := l.db.FirstIndex()
	if err == nil && first > 0 && lo <= first && first <= hi {
		err = fmt.Errorf("entry %d was not deleted", first)
	}
	last, err2 := l.db.LastIndex()
	if err2 == nil && last > 0 && lo <= last && last <= hi {
		err2 = fmt.Errorf("entry %d was not deleted", last)
	}
	return errors.Join(err, err2)
}

// Guard tells the log that the state now begins behind the snapshot at index,
// whose last entry had that term. Store calls it through Options.OnInstall.
//
// Where the log has another entry there, or none, what it has up to there is
// not the history of that snapshot, and must never be sent to another member:
// it is deleted. And raft asks for the entry at index to check what follows
// it; it gets one with the right term, or it would refuse everything the
// leader sends and ask for snapshots for ever (hashicorp/raft#697). Entries
// behind index are left to raft, which replaces them.
func (l *Log) Guard(index, term uint64) error {
	var have raft.Log
	err := l.usable()
	if err == nil {
		l.mu.RLock()
		hit := l.cache.get(index, &have)
		l.mu.RUnlock()
		if !hit {
			err = l.read(index, &have)
		}
	}
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	l.mu.Lock()
	l.guard.index, l.guard.term = index, term
	first, last := l.ledger.first(), l.ledger.last()
	l.mu.Unlock()
	if err == nil && have.Term == term || first == 0 || first > index {
		return nil
	}
	l.o.Log.Warn("the log does not lead to the snapshot; its beginning is dropped",
		zap.Uint64("snapshot", index), zap.Uint64("first", first), zap.Uint64("last", last))
	return l.deleteOld(index)
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
	if l.failure.Load() == nil {
		err = l.write("move entries of the log", l.move)
	}
	l.closed.Store(true)
	return errors.Join(err, l.db.Close(), l.data.close())
}

// write runs a write under a watchdog, and counts it.
func (l *Log) write(what string, fn func() error) error {
	began := time.Now()
	if err := l.watched(what, fn); err != nil {
		return err
	}
	l.count.writes.Add(1)
	l.count.writeNanos.Add(uint64(time.Since(began)))
	return nil
}

// watched runs what changes files under a watchdog. What hangs is not given up:
// it may still land, so there is no answer to it but the end of the process.
func (l *Log) watched(what string, fn func() error) error {
	if err := l.usable(); err != nil {
		return err
	}
	watch := time.AfterFunc(l.o.StallAfter, func() {
		_ = l.fail(fmt.Errorf("disk: %s hangs for %s", what, l.o.StallAfter))
	})
	defer watch.Stop()
	if err := guarded(fn); err != nil {
		return l.fail(fmt.Errorf("disk: %s: %w", what, err))
	}
	return l.usable()
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
// What fails since the files are closed is no failure.
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

type logCounters struct {
	appends, entries, bytes, moves, writes, writeNanos, hits, misses atomic.Uint64
}

// LogMetrics is what an operator may want to know of a log.
type LogMetrics struct {
	First, Last uint64 // indexes
	Entries     int    // held
	Bytes       int64  // of them
	FileBytes   int64
	CacheBytes  int64

	Appends, Appended, AppendedBytes uint64 // calls, entries, octets
	Moves                            uint64 // of the tail to bbolt
	Writes                           uint64 // transactions, with deletions and votes
	WriteTime                        time.Duration
	CacheHits, CacheMisses           uint64
}

// Metrics returns the log's numbers.
func (l *Log) Metrics() LogMetrics {
	m := LogMetrics{
		Appends: l.count.appends.Load(), Appended: l.count.entries.Load(), AppendedBytes: l.count.bytes.Load(),
		Writes: l.count.writes.Load(), WriteTime: time.Duration(l.count.writeNanos.Load()),
		Moves:     l.count.moves.Load(),
		CacheHits: l.count.hits.Load(), CacheMisses: l.count.misses.Load(),
	}
	if st, err := os.Stat(l.path); err == nil {
		m.FileBytes = st.Size()
	}
	m.FileBytes += l.data.bytes()
	l.mu.RLock()
	defer l.mu.RUnlock()
	m.First, m.Last, m.Entries = l.ledger.first(), l.ledger.last(), l.ledger.len()
	m.Bytes, m.CacheBytes = l.ledger.bytes, l.cache.bytes
	return m
}
