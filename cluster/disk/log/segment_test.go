package log

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"relay/cluster/disk/disktest"
)

// forgetful makes segment files that lose, when forget is called, what was
// written and not synced.
type forgetful struct {
	mu    sync.Mutex
	files []*forgetfulFile
	syncs int
	fail  error  // of the next syncs
	hang  func() // before each sync
}

type forgetfulFile struct {
	d       *forgetful
	f       *os.File
	pending []pendingWrite
}

type pendingWrite struct {
	data []byte
	at   int64
}

func (d *forgetful) open(path string) (segmentFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	one := &forgetfulFile{d: d, f: f}
	d.files = append(d.files, one)
	return one, nil
}

func (d *forgetful) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.files {
		f.pending = nil
	}
}

func (f *forgetfulFile) WriteAt(b []byte, at int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	f.pending = append(f.pending, pendingWrite{bytes.Clone(b), at})
	return len(b), nil
}

// ReadAt sees what was synced only: the log must not need more.
func (f *forgetfulFile) ReadAt(b []byte, at int64) (int, error) { return f.f.ReadAt(b, at) }

func (f *forgetfulFile) Sync() error {
	if f.d.hang != nil {
		f.d.hang()
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.fail != nil {
		return f.d.fail
	}
	f.d.syncs++
	for _, w := range f.pending {
		if _, err := f.f.WriteAt(w.data, w.at); err != nil {
			return err
		}
	}
	f.pending = nil
	return nil
}

func (f *forgetfulFile) Close() error { return f.f.Close() }

func large(index uint64, size int) *raft.Log {
	return &raft.Log{Index: index, Term: 1, Data: bytes.Repeat([]byte{byte(index)}, size)}
}

func names(t *testing.T, dir, pattern string) []string {
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	require.NoError(t, err)
	for i := range found {
		found[i] = filepath.Base(found[i])
	}
	slices.Sort(found)
	return found
}

// A write costs one sync, whatever its entries are, and a new file one more. Nothing
// goes to bbolt.
func TestWriteCostsOneSync(t *testing.T) {
	disk := &forgetful{}
	l := openLog(t, t.TempDir(), func(o *Options) { o.openSegment = disk.open })
	spy := &spyBackend{backend: l.db, store: func() error { return errors.New("an entry goes to bbolt") }}
	l.db = spy
	require.NoError(t, l.StoreLogs([]*raft.Log{large(1, 2000), large(2, 100), large(3, 2000)}))
	require.Equal(t, 2, disk.syncs)
	for i := uint64(4); i < 600; i++ {
		require.NoError(t, l.StoreLogs([]*raft.Log{large(i, 100)}))
	}
	require.Equal(t, 598, disk.syncs)
	require.Empty(t, spy.sets)
	require.NoError(t, l.DeleteRange(500, 599))
	require.NoError(t, l.DeleteRange(1, 400))
	require.Equal(t, 600, disk.syncs)
	require.Empty(t, spy.sets)
	require.Empty(t, spy.deleted)
}

// A write costs one sync, whatever its entries are, and a new file one more;
// bbolt gets them later, all at once.
func TestWriteToAFormerLogCostsOneSync(t *testing.T) {
	disk := &forgetful{}
	l := openLog(t, t.TempDir(), func(o *Options) { o.openSegment, o.packed = disk.open, false })
	moves := 0
	l.db = &spyBackend{backend: l.db, store: func() error { moves++; return nil }}
	require.NoError(t, l.StoreLogs([]*raft.Log{large(1, 2000), large(2, 100), large(3, 2000)}))
	require.Equal(t, 2, disk.syncs)
	for i := uint64(4); i < tailEntries; i++ {
		require.NoError(t, l.StoreLogs([]*raft.Log{large(i, 100)}))
	}
	require.Equal(t, tailEntries-2, disk.syncs)
	require.Zero(t, moves)
	require.NoError(t, l.StoreLogs([]*raft.Log{large(tailEntries, 100)}))
	require.Equal(t, 1, moves)
	for i := range uint64(8) {
		require.NoError(t, l.StoreLogs([]*raft.Log{large(tailEntries+1+i, 1<<20)}))
	}
	require.Equal(t, 2, moves, "what waits is bounded in octets")
}

func TestFailedSyncOfDataIsFatal(t *testing.T) {
	disk := &forgetful{}
	var f disktest.Failures
	dir := t.TempDir()
	l := openLog(t, dir, func(o *Options) { o.openSegment, o.Fatal = disk.open, f.Fatal })
	require.NoError(t, l.StoreLogs([]*raft.Log{large(1, 2000)}))
	disk.fail = errors.New("EIO")
	require.Error(t, l.StoreLogs([]*raft.Log{large(2, 2000)}))
	require.Len(t, f.Get(), 1)
	require.Error(t, l.StoreLogs([]*raft.Log{large(2, 10)}))
	require.NoError(t, l.Close())
	disk.forget()
	require.Equal(t, [2]uint64{1, 1}, span(t, openLog(t, dir)), "what was not promised is not there")
}

func TestSegmentsAreReused(t *testing.T) {
	for name, m := range modes() {
		t.Run(name, func(t *testing.T) { reuseSegments(t, m) })
	}
}

func reuseSegments(t *testing.T, m mode) {
	dir := t.TempDir()
	change := func(o *Options) { m.set(o); o.segmentBytes = 64 << 10 }
	l := openLog(t, dir, change)
	for i := range uint64(100) {
		require.NoError(t, l.StoreLogs([]*raft.Log{large(i+1, 10000)}))
		if i >= 20 {
			require.NoError(t, l.DeleteRange(1, i-19))
		}
	}
	require.LessOrEqual(t, len(names(t, dir, m.prefix+"*"))+len(names(t, dir, "spare-*")), 9)
	require.NoError(t, l.DeleteRange(1, 100))
	require.Len(t, names(t, dir, m.prefix+"*"), 1, "the current one stays")
	require.NoError(t, l.Close())
	l = openLog(t, dir, change)
	require.Len(t, names(t, dir, m.prefix+"*"), 1)
	for i := range uint64(100) {
		require.NoError(t, l.StoreLogs([]*raft.Log{large(200+i, 10000)}))
	}
	require.Greater(t, len(names(t, dir, m.prefix+"*")), spareSegments)
	require.NoError(t, l.DeleteRange(1, 290))
	require.Len(t, names(t, dir, "spare-*"), spareSegments)
	l.SetShort(true)
	require.Len(t, names(t, dir, "spare-*"), shortSegments, "what a short disk has for other use")
	require.NoError(t, l.Close())
	l = openLog(t, dir, change)
	for i := range uint64(9) {
		requireEntry(t, l, large(291+i, 10000))
	}
}

// A segment whose entries bbolt has not got yet stays, whatever is deleted.
func TestSegmentsOfTheTailStay(t *testing.T) {
	dir := t.TempDir()
	change := func(o *Options) { o.segmentBytes, o.tailEntries, o.packed = 16<<10, 20, false }
	l := openLog(t, dir, change)
	for i := range uint64(32) { // each takes a page
		require.NoError(t, l.StoreLog(large(i+1, 100)))
	}
	require.NoError(t, l.DeleteRange(1, 15))
	l = openLog(t, crash(t, dir), change)
	require.Equal(t, [2]uint64{16, 32}, span(t, l))
	require.Less(t, len(names(t, dir, "data-*")), 32/3, "those before are given back")
}

// A suffix that is replaced leaves garbage behind, never what is read for the
// new entries, and never keeps older entries from their data.
func TestReplacedSuffix(t *testing.T) {
	dir := t.TempDir()
	change := func(o *Options) { o.segmentBytes, o.CacheBytes = 64<<10, 1 }
	l := openLog(t, dir, change)
	for i := range uint64(10) {
		require.NoError(t, l.StoreLogs([]*raft.Log{large(i+1, 20000)}))
	}
	require.NoError(t, l.DeleteRange(4, 10))
	other := large(4, 20000)
	other.Term, other.Data[0] = 2, 'x'
	require.NoError(t, l.StoreLogs([]*raft.Log{other}))
	check := func() {
		requireEntry(t, l, large(1, 20000))
		requireEntry(t, l, large(3, 20000))
		requireEntry(t, l, other)
	}
	check()
	require.NoError(t, l.Close())
	l = openLog(t, dir, change)
	check()
}

func TestLostSegmentIsRefused(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, former)
	require.NoError(t, l.StoreLogs([]*raft.Log{large(1, 2000)}))
	require.NoError(t, l.Close())
	path := filepath.Join(dir, "data-0000000000000001")

	require.NoError(t, os.Truncate(path, 5000))
	var f disktest.Failures
	l = openLog(t, dir, func(o *Options) { o.Fatal, o.packed = f.Fatal, false })
	require.Error(t, l.GetLog(1, &raft.Log{}))
	require.Len(t, f.Get(), 1)
	require.NoError(t, l.Close())

	require.NoError(t, os.Truncate(path, 1000))
	_, err := Open(dir, Options{GrowTo: -1})
	require.ErrorIs(t, err, errSeal)

	require.NoError(t, os.Remove(path))
	_, err = Open(dir, Options{GrowTo: -1})
	require.ErrorIs(t, err, errSeal)
	require.ErrorContains(t, err, "entry 1")
}

// Raft deletes on another goroutine than it reads on.
func TestReadsWhileSegmentsGo(t *testing.T) {
	l := openLog(t, t.TempDir(), func(o *Options) { o.segmentBytes, o.CacheBytes = 64<<10, 1 })
	const n = 300
	var wg sync.WaitGroup
	for i := range uint64(n) {
		require.NoError(t, l.StoreLogs([]*raft.Log{large(i+1, 5000)}))
		if i%10 == 9 {
			wg.Go(func() { _ = l.DeleteRange(1, i-5) })
			wg.Go(func() {
				for k := i - 8; k <= i; k++ {
					var e raft.Log
					if err := l.GetLog(k, &e); err == nil {
						if !bytes.Equal(e.Data, large(k, 5000).Data) {
							t.Errorf("entry %d has another's data", k)
						}
					} else if !errors.Is(err, raft.ErrLogNotFound) {
						t.Errorf("entry %d: %v", k, err)
					}
				}
			})
		}
	}
	wg.Wait()
	requireEntry(t, l, large(n, 5000))
}

// labelled tells of the first page of each segment before it is written.
type labelled struct {
	segmentFile
	path  string
	label func(path string)
}

func (f labelled) WriteAt(b []byte, at int64) (int, error) {
	if at == 0 {
		f.label(f.path)
	}
	return f.segmentFile.WriteAt(b, at)
}

// A file that is used again has lost its name of a segment on the disk, too, before its
// first page is written. Otherwise a power failure between the two leaves a segment
// with a first page that is not its own, which is refused as damage: one that was made
// before a crash and not written to stands behind the position.
func TestReusedFileHasLostItsName(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, former, func(o *Options) { o.segmentBytes = 64 << 10 })
	require.NoError(t, l.StoreLog(large(1, 10)))
	page := firstPage{key: newFrameKey(), first: 2}.page(2)
	dir = crash(t, dir)
	path := filepath.Join(dir, "data-0000000000000002")
	require.NoError(t, os.WriteFile(path, page, 0o600))
	synced := map[uint64]string{} // names on the disk, by inode
	sync := func(dir string) error {
		clear(synced)
		files, err := os.ReadDir(dir)
		for _, f := range files {
			if st, err := f.Info(); err == nil {
				synced[inode(st)] = f.Name()
			}
		}
		return err
	}
	require.NoError(t, sync(dir))
	labels := 0
	label := func(path string) {
		st, err := os.Stat(path)
		require.NoError(t, err)
		require.NotContains(t, synced[inode(st)], livePrefix)
		labels++
	}
	l = openLog(t, dir, func(o *Options) {
		o.segmentBytes, o.syncDir, o.packed = 64<<10, sync, false
		o.openSegment = func(path string) (segmentFile, error) {
			f, err := openSegment(path)
			return labelled{f, path, label}, err
		}
	})
	require.Len(t, names(t, dir, "spare-*"), 1)
	for i := range uint64(20) {
		require.NoError(t, l.StoreLog(large(2+i, 20000)))
		require.NoError(t, l.DeleteRange(1, 1+i))
	}
	require.Greater(t, labels, 5)
}
