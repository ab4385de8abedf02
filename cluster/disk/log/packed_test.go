package log

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"relay/cluster/disk/disktest"
)

// small are entries of 200 octets.
func small(lo, hi uint64) []*raft.Log {
	var all []*raft.Log
	for i := lo; i <= hi; i++ {
		all = append(all, large(i, 200))
	}
	return all
}

// Small entries that come one by one share pages.
func TestSmallEntriesSharePages(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, func(o *Options) { o.CacheBytes = 1 })
	for _, e := range small(1, 1000) {
		require.NoError(t, l.StoreLog(e))
	}
	pages := l.packed.Load().cur.end / segmentAlign
	require.Less(t, pages, int64(1000/7), "a page each before")
	for _, e := range small(1, 1000) {
		requireEntry(t, l, e)
	}
	l = openLog(t, crash(t, dir))
	for _, e := range small(1, 1000) {
		requireEntry(t, l, e)
	}
}

// pageWrites sees where a segment is written.
type pageWrites struct {
	segmentFile
	write func(b []byte, at int64)
	read  func(n int)
}

func (f pageWrites) WriteAt(b []byte, at int64) (int, error) {
	if f.write != nil {
		f.write(b, at)
	}
	return f.segmentFile.WriteAt(b, at)
}

func (f pageWrites) ReadAt(b []byte, at int64) (int, error) {
	if f.read != nil {
		f.read(len(b))
	}
	return f.segmentFile.ReadAt(b, at)
}

// A write never touches the page with the newest frame, nor another that is needed: one
// that spoils all its pages costs nothing but itself.
func TestWritesSpareWhatIsPromised(t *testing.T) {
	dir := t.TempDir()
	var l *Log
	last := uint64(0)
	spoiled := func(path string, b []byte, at int64) {
		if l == nil || at == 0 {
			return
		}
		torn := crash(t, dir)
		f, err := os.OpenFile(filepath.Join(torn, filepath.Base(path)), os.O_RDWR, 0)
		require.NoError(t, err)
		junk := make([]byte, len(b))
		for i := range junk {
			junk[i] = byte(i*7 + 1)
		}
		_, err = f.WriteAt(junk, at)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		again := openLog(t, torn)
		require.Equal(t, [2]uint64{min(1, last), last}, span(t, again))
		for i := uint64(1); i <= last; i++ {
			requireEntry(t, again, large(i, 200+int(i%7)*500))
		}
		require.NoError(t, again.Close())
	}
	l = openLog(t, dir, func(o *Options) {
		o.segmentBytes = 32 << 10
		o.openSegment = func(path string) (segmentFile, error) {
			f, err := openSegment(path)
			return pageWrites{segmentFile: f, write: func(b []byte, at int64) { spoiled(path, b, at) }}, err
		}
	})
	for i := uint64(1); i <= 60; i++ {
		require.NoError(t, l.StoreLog(large(i, 200+int(i%7)*500)))
		last = i
	}
}

// Entries of an open frame are written again elsewhere, and their former page gets
// others, while they are read.
func TestReadsWhileSmallEntriesMove(t *testing.T) {
	l := openLog(t, t.TempDir(), func(o *Options) { o.segmentBytes, o.CacheBytes = 64<<10, 1 })
	require.NoError(t, l.StoreLog(large(1, 300)))
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				_, err := l.FirstIndex()
				last, _ := l.LastIndex()
				for i := max(1, last-min(last, 12)); i <= last && err == nil; i++ {
					var e raft.Log
					if err = l.GetLog(i, &e); err == nil && e.Data[0] != byte(i) {
						err = fmt.Errorf("entry %d has other data", i)
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := uint64(2); i < 600; i++ {
		require.NoError(t, l.StoreLog(large(i, 300+int(i%40)*50)))
	}
	close(done)
	readers.Wait()
}

// A suffix goes with one sync, and a prefix, too, however long it is.
func TestLongSuffixGoesAtOnce(t *testing.T) {
	dir := t.TempDir()
	disk := &forgetful{}
	change := func(o *Options) { o.segmentBytes, o.openSegment = 1<<20, disk.open }
	l := openLog(t, dir, change)
	for i := uint64(1); i <= 64000; i += 1000 {
		require.NoError(t, l.StoreLogs(entries(1, i, i+999)))
	}
	syncs := disk.syncs
	require.NoError(t, l.DeleteRange(1001, 64000))
	require.Equal(t, syncs+1, disk.syncs)
	require.Equal(t, [2]uint64{1, 1000}, span(t, l))
	require.NoError(t, l.StoreLogs(entries(2, 1001, 1500)))
	require.NoError(t, l.DeleteRange(1, 700))
	for range 2 {
		require.Equal(t, [2]uint64{701, 1500}, span(t, l))
		requireEntry(t, l, entries(1, 1000, 1000)[0])
		requireEntry(t, l, entries(2, 1001, 1001)[0])
		l = openLog(t, crash(t, dir), change)
	}
}

// A start reads the newest segment, and of others their index.
func TestStartReadsIndexes(t *testing.T) {
	from := t.TempDir()
	l := openLog(t, from, func(o *Options) { o.segmentBytes = 1 << 20 })
	for i := uint64(1); i <= 640; i += 10 {
		var all []*raft.Log
		for j := range uint64(10) {
			all = append(all, large(i+j, 10000))
		}
		require.NoError(t, l.StoreLogs(all))
	}
	require.NoError(t, l.DeleteRange(1, 150)) // one segment goes
	require.NoError(t, l.DeleteRange(631, 640))
	indexes := names(t, from, indexPrefix+"*")
	require.Len(t, indexes, len(names(t, from, packedPrefix+"*"))-1)
	for name, c := range map[string]struct {
		change func(t *testing.T, path string)
		all    bool
	}{
		"as they are": {func(*testing.T, string) {}, false},
		"gone":        {func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) }, true},
		"damaged":     {func(t *testing.T, path string) { spoil(t, path, 100) }, true},
		"empty":       {func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 0)) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := crash(t, from)
			for _, one := range indexes {
				c.change(t, filepath.Join(dir, one))
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, indexPrefix+segmentNumber(77)), nil, 0o600))
			for _, all := range []bool{c.all, false} { // they are made again
				read := 0
				l := openLog(t, dir, func(o *Options) {
					o.segmentBytes, o.CacheBytes = 1<<20, 1
					o.openSegment = func(path string) (segmentFile, error) {
						f, err := openSegment(path)
						return pageWrites{segmentFile: f, read: func(n int) { read += n }}, err
					}
				})
				require.Equal(t, all, read > 4<<20, "%d octets", read)
				require.Equal(t, [2]uint64{151, 630}, span(t, l))
				for i := uint64(151); i <= 630; i++ {
					requireEntry(t, l, large(i, 10000))
				}
				require.NoError(t, l.Close())
				require.Equal(t, indexes, names(t, dir, indexPrefix+"*"))
			}
		})
	}
}

// A full disk costs an index, and not the node.
func TestNoRoomForAnIndex(t *testing.T) {
	dir := t.TempDir()
	change := func(o *Options) { o.segmentBytes = 32 << 10 }
	l := openLog(t, dir, change)
	for id := range uint64(4) {
		require.NoError(t, os.Symlink("/dev/full", filepath.Join(dir, indexPrefix+segmentNumber(id+1)+newSuffix)))
	}
	for i := uint64(1); i <= 14; i++ {
		require.NoError(t, l.StoreLog(large(i, 5000)))
	}
	require.Empty(t, names(t, dir, indexPrefix+"*"))
	dir = crash(t, dir)
	require.NoError(t, os.Symlink("/dev/full", filepath.Join(dir, indexPrefix+segmentNumber(1)+newSuffix)))
	require.Equal(t, [2]uint64{1, 14}, span(t, openLog(t, dir, change)))
}

// A full disk that has no room for the name of an index costs the index, too.
func TestNoRoomForTheNameOfAnIndex(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, func(o *Options) {
		o.segmentBytes = 32 << 10
		o.writeFile = func(string, []byte, os.FileMode) error { return syscall.ENOSPC }
	})
	for i := uint64(1); i <= 14; i++ {
		require.NoError(t, l.StoreLog(large(i, 5000)))
	}
	require.Empty(t, names(t, dir, indexPrefix+"*"))
	require.Greater(t, len(names(t, dir, packedPrefix+"*")), 1)
}

// A segment that somebody reads is given back when they are done, and writes do not wait
// for that.
func TestWritesWaitForNoReader(t *testing.T) {
	l := openLog(t, t.TempDir(), func(o *Options) { o.segmentBytes = 32 << 10 })
	for i := uint64(1); i <= 14; i++ {
		require.NoError(t, l.StoreLog(large(i, 5000)))
	}
	p := l.packed.Load()
	p.mu.RLock()
	read := p.files[p.low]
	p.mu.RUnlock()
	read.reads.RLock()
	deleted, stored := make(chan error, 1), make(chan error, 1)
	go func() { deleted <- l.DeleteRange(1, 13) }()
	require.Eventually(t, func() bool {
		first, err := l.FirstIndex()
		return err == nil && first == 14
	}, time.Minute, time.Millisecond)
	go func() { stored <- l.StoreLog(large(15, 5000)) }()
	select {
	case err := <-stored:
		require.NoError(t, err)
	case <-time.After(time.Minute):
		t.Error("a write waits for a reader")
	}
	require.Empty(t, deleted)
	read.reads.RUnlock()
	require.NoError(t, <-deleted)
	require.NoFileExists(t, read.path)
}

// Entries are read, written, replaced and deleted at both ends at once, while the log is
// converted.
func TestAllAtOnceInAPackedLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	change := func(o *Options) { o.packed, o.segmentBytes, o.CacheBytes = false, 64<<10, 1 }
	l := openLog(t, dir, change)
	require.NoError(t, l.StoreLog(large(1, 300)))
	done := make(chan struct{})
	var others sync.WaitGroup
	busy := func(fn func(first, last uint64) error) {
		others.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				first, err := l.FirstIndex()
				last, err2 := l.LastIndex()
				if err = errors.Join(err, err2, fn(first, last)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	busy(func(first, last uint64) error {
		for i := max(first, last-min(last, 20)); i <= last; i++ {
			var e raft.Log
			err := l.GetLog(i, &e)
			if errors.Is(err, raft.ErrLogNotFound) {
				continue
			}
			if err != nil || e.Index != i || e.Data[0] != byte(i) {
				return fmt.Errorf("entry %d: %w", i, err)
			}
		}
		return nil
	})
	busy(func(first, last uint64) error {
		if last < first+60 {
			return nil
		}
		return l.DeleteRange(first, last-50)
	})
	last := uint64(1)
	for i := range 100 {
		if i == 40 {
			require.NoError(t, l.SealPromises())
			require.NotNil(t, l.packed.Load())
		}
		if i%7 == 6 {
			require.NoError(t, l.DeleteRange(last-2, last))
			last -= 3
		}
		var all []*raft.Log
		for range 1 + i%3 {
			last++
			all = append(all, large(last, 300+i%40*50))
		}
		require.NoError(t, l.StoreLogs(all))
	}
	close(done)
	others.Wait()
	want := span(t, l)
	require.Equal(t, last, want[1])
	l = openLog(t, crash(t, dir), change)
	require.Equal(t, want, span(t, l))
	for i := want[0]; i <= want[1]; i++ {
		var e raft.Log
		require.NoError(t, l.GetLog(i, &e))
		require.Equal(t, byte(i), e.Data[0])
	}
}

// A node was raised to version 2, and gets a snapshot that its log does not lead to.
func TestSnapshotBehindAConversion(t *testing.T) {
	for _, size := range []int{100, 20000} { // in one segment, in several
		dir := t.TempDir()
		change := func(o *Options) { o.packed, o.segmentBytes = false, 64<<10 }
		l := openLog(t, dir, change)
		for i := uint64(1); i <= 12; i++ {
			require.NoError(t, l.StoreLog(large(i, size)))
		}
		require.NoError(t, l.SealPromises())
		require.NotNil(t, l.packed.Load())
		require.NoError(t, l.Guard(40, 3))
		require.Equal(t, [2]uint64{0, 0}, span(t, l))
		empty := openLog(t, crash(t, dir), change)
		require.Equal(t, [2]uint64{0, 0}, span(t, empty))
		require.NoError(t, l.StoreLogs(entries(3, 41, 43)))
		for range 2 {
			require.Equal(t, [2]uint64{41, 43}, span(t, l))
			require.NoError(t, l.Guard(40, 3))
			var e raft.Log
			require.NoError(t, l.GetLog(40, &e))
			require.Equal(t, uint64(3), e.Term)
			require.ErrorIs(t, l.GetLog(12, &e), raft.ErrLogNotFound)
			requireEntry(t, l, entries(3, 43, 43)[0])
			l = openLog(t, crash(t, dir), change)
		}
	}
}

// A packed log of which any octet is damaged is refused, or ends with the write before
// its newest, or stops when the entry is read.
func TestFlippedOctetsOfAPackedLog(t *testing.T) {
	t.Parallel()
	from := t.TempDir()
	change := func(o *Options) { o.segmentBytes, o.CacheBytes = 32<<10, 1 }
	l := openLog(t, from, change)
	for i := uint64(1); i <= 40; i++ {
		require.NoError(t, l.StoreLog(large(i, 100+int(i%5)*700)))
	}
	require.NoError(t, l.DeleteRange(38, 40))
	require.NoError(t, l.DeleteRange(1, 3))
	require.NoError(t, l.StoreLog(large(38, 100)))
	files := names(t, from, "*-*")
	require.Greater(t, len(files), 4)
	step := 997
	if testing.Short() {
		step = 3989
	}
	for _, orderly := range []bool{false, true} {
		if orderly {
			require.NoError(t, l.Close())
		}
		whole := 0
		for _, name := range files {
			st, err := os.Stat(filepath.Join(from, name))
			require.NoError(t, err)
			for at := 0; at < int(st.Size()); at += step {
				if flipped(t, from, name, at, orderly) {
					whole++
				}
			}
		}
		require.Positive(t, whole, "padding, and pages that are not needed any more")
	}
}

// flipped reports whether the log is whole though an octet of it is damaged.
func flipped(t *testing.T, from, name string, at int, orderly bool) bool {
	dir, err := os.MkdirTemp(t.TempDir(), "")
	require.NoError(t, err)
	require.NoError(t, os.CopyFS(dir, os.DirFS(from)))
	defer os.RemoveAll(dir)
	spoil(t, filepath.Join(dir, name), at)
	var f disktest.Failures
	l, err := Open(dir, Options{GrowTo: -1, MmapBytes: 1 << 20, segmentBytes: 32 << 10, CacheBytes: 1, Fatal: f.Fatal})
	if err != nil {
		require.ErrorIs(t, err, errSeal, "%s at %d", name, at)
		require.ErrorContains(t, err, "damaged")
		return false
	}
	defer l.Close()
	found := span(t, l)
	require.EqualValues(t, 4, found[0])
	require.Contains(t, []uint64{37, 38}, found[1], "%s at %d", name, at)
	require.False(t, orderly && found[1] < 38, "the log has noted its end: %s at %d", name, at)
	for i := found[0]; i <= found[1]; i++ {
		var e raft.Log
		if err := l.GetLog(i, &e); err != nil {
			require.ErrorIs(t, err, errSeal)
			return false
		}
		want := 100 + int(i%5)*700
		if i == 38 {
			want = 100
		}
		require.Equal(t, large(i, want).Data, e.Data, "%s at %d", name, at)
	}
	return found[1] == 38
}

// A segment that is gone is missed: the oldest, one in between, and the newest.
func TestLostSegmentOfAPackedLogIsRefused(t *testing.T) {
	from := t.TempDir()
	change := func(o *Options) { o.segmentBytes = 32 << 10 }
	l := openLog(t, from, change)
	for i := uint64(1); i <= 30; i++ {
		require.NoError(t, l.StoreLog(large(i, 5000)))
	}
	require.NoError(t, l.DeleteRange(1, 9))
	files := names(t, from, packedPrefix+"*")
	require.Greater(t, len(files), 3)
	for _, name := range append(files, "raft.db") {
		dir := crash(t, from)
		require.NoError(t, os.Remove(filepath.Join(dir, name)))
		_, err := Open(dir, Options{GrowTo: -1, segmentBytes: 32 << 10})
		require.ErrorIs(t, err, errSeal, name)
	}
	dir := crash(t, from)
	for _, name := range files {
		require.NoError(t, os.Remove(filepath.Join(dir, name)))
	}
	_, err := Open(dir, Options{GrowTo: -1, segmentBytes: 32 << 10})
	require.ErrorIs(t, err, errSeal)
}

// Files that a deletion gave back, and that a power failure brings back, are no part of
// the log.
func TestSegmentsThatComeBack(t *testing.T) {
	dir := t.TempDir()
	change := func(o *Options) { o.segmentBytes = 32 << 10 }
	l := openLog(t, dir, change)
	for i := uint64(1); i <= 30; i++ {
		require.NoError(t, l.StoreLog(large(i, 5000)))
	}
	before := crash(t, dir)
	require.NoError(t, l.DeleteRange(1, 19))
	stay := names(t, dir, packedPrefix+"*")
	all := names(t, before, packedPrefix+"*")
	require.Greater(t, len(all)-len(stay), 2)
	for _, back := range [][]string{all[:1], all[1:2], all[:len(all)-len(stay)]} {
		again := crash(t, dir)
		for _, name := range back {
			b, err := os.ReadFile(filepath.Join(before, name))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(again, name), b, 0o600))
		}
		l := openLog(t, again, change)
		require.Equal(t, [2]uint64{20, 30}, span(t, l))
		require.Equal(t, stay, names(t, again, packedPrefix+"*"))
	}
}

// A segment whose name was not synced, as the process was killed, gets entries when its
// name is on the disk.
func TestNameOfTheNewestSegmentIsSynced(t *testing.T) {
	dir := t.TempDir()
	var synced []string
	kill := true
	change := func(o *Options) {
		o.segmentBytes, o.Fatal = 32<<10, func(error) {}
		o.syncDir = func(dir string) error {
			if kill && len(names(t, dir, packedPrefix+"*")) == 2 {
				return errKilled
			}
			synced = names(t, dir, packedPrefix+"*")
			return nil
		}
	}
	l := openLog(t, dir, change)
	var err error
	for i := uint64(1); err == nil; i++ {
		err = l.StoreLog(large(i, 5000))
	}
	require.ErrorIs(t, err, errKilled)
	require.NoError(t, l.Close())
	require.Len(t, synced, 1)
	kill = false
	l = openLog(t, dir, change)
	last := span(t, l)[1]
	require.NoError(t, l.StoreLog(large(last+1, 10)))
	require.Equal(t, names(t, dir, packedPrefix+"*"), synced)
	require.Len(t, synced, 2)
}

// An entry that is larger than a segment gets one of its size.
func TestEntryLargerThanASegment(t *testing.T) {
	dir := t.TempDir()
	change := func(o *Options) { o.segmentBytes, o.CacheBytes = 32<<10, 1 }
	l := openLog(t, dir, change)
	require.NoError(t, l.StoreLogs([]*raft.Log{large(1, 10), large(2, 3<<20), large(3, 10)}))
	for range 2 {
		for i, size := range []int{10, 3 << 20, 10} {
			requireEntry(t, l, large(uint64(i+1), size))
		}
		l = openLog(t, crash(t, dir), change)
	}
	require.NoError(t, l.DeleteRange(1, 2))
	requireEntry(t, l, large(3, 10))
	for _, name := range names(t, dir, "spare-*") {
		st, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.LessOrEqual(t, st.Size(), int64(32<<10))
	}
}

// formerLog makes a log as it is before the raise: with entries in bbolt alone, with
// such whose data is in segments, a suffix that was replaced, and a tail.
func formerLog(t *testing.T, dir string) map[uint64]*raft.Log {
	l := openLog(t, dir, former, func(o *Options) { o.segmentBytes, o.tailEntries = 64<<10, 16 })
	want := map[uint64]*raft.Log{}
	store := func(all ...*raft.Log) {
		require.NoError(t, l.StoreLogs(all))
		for _, e := range all {
			want[e.Index] = e
		}
	}
	for i := uint64(1); i <= 100; i += 2 {
		store(large(i, 100), large(i+1, 3000))
	}
	require.NoError(t, l.DeleteRange(91, 100))
	drop(want, 91, 100)
	other := entries(2, 91, 99)
	other[3].Extensions, other[4].Type = []byte("ext"), raft.LogConfiguration
	store(other...)
	require.NoError(t, l.DeleteRange(1, 20))
	drop(want, 1, 20)
	require.NoError(t, l.SetUint64([]byte(termKey), 7))
	require.NotEmpty(t, l.tail.all)
	return want
}

func requireLog(t *testing.T, l *Log, want map[uint64]*raft.Log) {
	first, last := extent(want)
	require.Equal(t, [2]uint64{first, last}, span(t, l))
	for _, e := range want {
		requireEntry(t, l, e)
	}
}

// killer ends the process at the step with a number, before or in the middle of it.
type killer struct {
	backend
	left *int
}

func (k killer) step() error {
	if *k.left--; *k.left < 0 {
		return errKilled
	}
	return nil
}

func (k killer) Set(key, v []byte) error {
	if err := k.step(); err != nil {
		return err
	}
	return errors.Join(k.backend.Set(key, v), k.step())
}

func (k killer) DeleteRange(lo, hi uint64) error {
	if err := k.step(); err != nil {
		return err
	}
	return errors.Join(k.backend.DeleteRange(lo, hi), k.step())
}

// A conversion that is killed at any step loses nothing, and a later start goes on.
func TestConversionIsKilledAtAnyStep(t *testing.T) {
	from := t.TempDir()
	want := formerLog(t, from)
	ended := map[bool]int{}
	for step := 0; ; step++ {
		dir := crash(t, from)
		left := step
		disk := &cached{}
		kill := killer{left: &left}
		disk.write, disk.sync = kill.step, kill.step
		l, err := Open(dir, Options{
			GrowTo: -1, MmapBytes: 1 << 20, segmentBytes: 64 << 10, tailEntries: 16, packed: true, openSegment: disk.open,
			syncDir: func(dir string) error { return errors.Join(kill.step(), syncPath(dir), kill.step()) },
			wrap:    func(b backend) backend { return killer{b, &left} },
		})
		if err == nil {
			require.Greater(t, step, 20)
			require.NotNil(t, l.packed.Load())
			require.NoError(t, l.Close())
			break
		}
		require.ErrorIs(t, err, errKilled)
		if step%2 == 0 {
			dir = disk.powerFails(t, dir, func() bool { return step%4 == 0 })
		}
		for _, packed := range []bool{false, true, true} {
			l := openLog(t, dir, func(o *Options) { o.segmentBytes, o.CacheBytes, o.packed = 64<<10, 1, packed })
			if !packed {
				ended[l.packed.Load() != nil]++
			}
			requireLog(t, l, want)
			n, err := l.GetUint64([]byte(termKey))
			require.NoError(t, err)
			require.EqualValues(t, 7, n)
			require.NoError(t, l.Close())
		}
		require.Empty(t, names(t, dir, livePrefix+"*"))
	}
	require.Greater(t, ended[false], 10, "ends before the mark")
	require.Greater(t, ended[true], 2, "ends behind the mark")
}

// The log is converted when the promises are sealed, if it is small, or at the start
// behind that.
func TestLogIsPackedBehindTheRaise(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, former)
	require.NoError(t, l.StoreLogs(entries(1, 1, 300)))
	require.NoError(t, l.SealPromises())
	require.NotNil(t, l.packed.Load())
	require.NoError(t, l.StoreLogs(entries(1, 301, 310)))
	require.NoError(t, l.Close())

	dir = t.TempDir()
	l = openLog(t, dir, former)
	for i := range uint64(10) {
		require.NoError(t, l.StoreLog(large(i+1, 500<<10)))
	}
	require.NoError(t, l.SealPromises())
	require.Nil(t, l.packed.Load(), "raft does not wait for much")
	require.NoError(t, l.Close())
	l = openLog(t, dir, former)
	require.NotNil(t, l.packed.Load())
	require.Equal(t, [2]uint64{1, 10}, span(t, l))
	require.NoError(t, l.SealPromises())
}

// A disk that has no room for a second log keeps the former one, which works.
func TestNoRoomToConvert(t *testing.T) {
	for _, start := range []bool{true, false} {
		dir := t.TempDir()
		want := formerLog(t, dir)
		core, said := observer.New(zap.WarnLevel)
		disk := &cached{}
		l := openLog(t, crash(t, dir), former, func(o *Options) {
			o.segmentBytes, o.openSegment, o.packed, o.Log = 64<<10, disk.open, start, zap.New(core)
			n := 0
			full := func() error {
				if n++; n > 4 {
					return syscall.ENOSPC
				}
				return nil
			}
			if start {
				disk.write = full
				return
			}
			n = -1000
			disk.write = full
		})
		disk.write = nil
		if !start {
			disk.write = func() error { return syscall.ENOSPC }
			require.NoError(t, l.SealPromises())
			require.NoError(t, l.SealPromises(), "and that is not tried again at once")
			disk.write = nil
		}
		require.Equal(t, 1, said.FilterMessageSnippet("no room to convert").Len())
		require.Nil(t, l.packed.Load())
		require.Empty(t, names(t, l.data.dir, packedPrefix+"*"))
		requireLog(t, l, want)
		e := large(100, 5000)
		require.NoError(t, l.StoreLog(e))
		want[100] = e
		require.NoError(t, l.Close())
		l = openLog(t, l.data.dir)
		require.NotNil(t, l.packed.Load())
		requireLog(t, l, want)
	}
}

// A build that knows no packed logs finds its position damaged, and so does this one
// where a bit of the mark or of the end is another.
func TestMarkOfAPackedLog(t *testing.T) {
	_, err := parsePosition(packedMark)
	require.ErrorIs(t, err, errSeal)
	from := t.TempDir()
	l := openLog(t, from)
	require.NoError(t, l.StoreLogs(entries(1, 1, 5)))
	require.NoError(t, l.Close())
	change := func(key string, fn func([]byte) []byte) {
		dir := crash(t, from)
		raw(t, dir, func(db *raftboltdb.BoltStore) {
			v, err := db.Get([]byte(key))
			require.NoError(t, err)
			require.NoError(t, db.Set([]byte(key), fn(append([]byte(nil), v...))))
		})
		_, err := Open(dir, Options{GrowTo: -1})
		require.ErrorIs(t, err, errSeal)
		require.NotEmpty(t, names(t, dir, packedPrefix+"*"), "and it is still there")
	}
	for _, key := range []string{tailKey, endKey} {
		for at := range 32 {
			change(key, func(v []byte) []byte { v[at] ^= 1 << (at % 8); return v })
		}
		change(key, func([]byte) []byte { return nil })
	}
	dir := crash(t, from)
	db, err := bbolt.Open(filepath.Join(dir, "raft.db"), 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("conf")).Delete([]byte(tailKey)) }))
	require.NoError(t, db.Close())
	_, err = Open(dir, Options{GrowTo: -1})
	require.ErrorIs(t, err, errSeal)
}
