package log

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"relay/cluster/disk/disktest"
	"relay/cluster/timetest"
)

// cached makes segment files as a system with a page cache does: data that was written
// is read again at once, also by the next process, and data that was not synced is
// gone when the power fails. After a failed sync the system takes pages for written
// that are not.
type cached struct {
	mu    sync.Mutex
	pages map[uint64]map[int64]*cachedPage // of each file, by inode, those that are not on the disk
	write func() error                     // before each write
	sync  func() error                     // before each sync
	read  func()                           // before each read
}

type cachedPage struct {
	disk  []byte // what the disk has
	dirty bool   // a sync writes it
}

type cachedFile struct {
	*os.File
	d     *cached
	inode uint64
}

var errKilled = errors.New("killed")

func (d *cached) open(path string) (segmentFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return &cachedFile{f, d, inode(st)}, nil
}

func inode(st os.FileInfo) uint64 { return st.Sys().(*syscall.Stat_t).Ino }

func (f *cachedFile) WriteAt(b []byte, at int64) (int, error) {
	if f.d.write != nil {
		if err := f.d.write(); err != nil {
			n, _ := f.writeAt(b[:len(b)/2], at)
			return n, err
		}
	}
	return f.writeAt(b, at)
}

func (f *cachedFile) ReadAt(b []byte, at int64) (int, error) {
	if f.d.read != nil {
		f.d.read()
	}
	return f.File.ReadAt(b, at)
}

func (f *cachedFile) writeAt(b []byte, at int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.pages == nil {
		f.d.pages = map[uint64]map[int64]*cachedPage{}
	}
	if f.d.pages[f.inode] == nil {
		f.d.pages[f.inode] = map[int64]*cachedPage{}
	}
	all := f.d.pages[f.inode]
	for p := at / segmentAlign; p*segmentAlign < at+int64(len(b)); p++ {
		if all[p] == nil {
			old := make([]byte, segmentAlign)
			_, _ = f.File.ReadAt(old, p*segmentAlign)
			all[p] = &cachedPage{disk: old}
		}
		all[p].dirty = true
	}
	return f.File.WriteAt(b, at)
}

func (f *cachedFile) Sync() error {
	var err error
	if f.d.sync != nil {
		err = f.d.sync()
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if errors.Is(err, errKilled) {
		return err
	}
	all := f.d.pages[f.inode]
	for p, one := range all {
		if err == nil && one.dirty {
			delete(all, p)
		}
		one.dirty = false
	}
	return err
}

// powerFails returns what the disk has of a directory, and of each page that was
// not synced, what keep says.
func (d *cached) powerFails(t *testing.T, dir string, keep func() bool) string {
	to := crash(t, dir)
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, one := range files {
		st, err := one.Info()
		require.NoError(t, err)
		all := d.pages[inode(st)]
		if len(all) == 0 {
			continue
		}
		f, err := os.OpenFile(filepath.Join(to, one.Name()), os.O_WRONLY, 0)
		require.NoError(t, err)
		for p, page := range all {
			if !keep() {
				_, err = f.WriteAt(page.disk, p*segmentAlign)
				require.NoError(t, err)
			}
		}
		require.NoError(t, f.Close())
	}
	return to
}

// A log that was opened has on the disk what it says it has, though its last
// write was cut off, or its sync has failed: raft counts it as stored.
func TestWhatIsFoundAtTheStartStays(t *testing.T) {
	for name, end := range map[string]error{"killed before the sync": errKilled, "the sync failed": syscall.EIO} {
		t.Run(name, func(t *testing.T) {
			disk := &cached{}
			dir := t.TempDir()
			var f disktest.Failures
			change := func(o *Options) { o.segmentBytes, o.openSegment, o.Fatal = 64<<10, disk.open, f.Fatal }
			l := openLog(t, dir, change)
			for i := range uint64(3) {
				require.NoError(t, l.StoreLog(large(i+1, 3000)))
			}
			disk.sync = func() error { return end }
			require.ErrorIs(t, l.StoreLogs([]*raft.Log{large(4, 3000), large(5, 6000), large(6, 10)}), end)
			require.NoError(t, l.Close())
			disk.sync = nil
			l = openLog(t, dir, change)
			require.Equal(t, [2]uint64{1, 6}, span(t, l))
			lost := disk.powerFails(t, dir, func() bool { return false })
			l = openLog(t, lost, func(o *Options) { o.segmentBytes = 64 << 10 })
			require.Equal(t, [2]uint64{1, 6}, span(t, l))
			requireEntry(t, l, large(5, 6000))
		})
	}
}

// Reads of old files, on a disk that is slow, keep nobody from writing.
func TestWritesDoNotWaitForReads(t *testing.T) {
	disk := &cached{}
	l := openLog(t, t.TempDir(), func(o *Options) {
		o.openSegment, o.CacheBytes, o.segmentBytes, o.StallAfter = disk.open, 1, 64<<10, 5*time.Second
	})
	for i := range uint64(20) {
		require.NoError(t, l.StoreLog(large(i+1, 10000)))
	}
	reads, release, done := make(chan struct{}, 1), make(chan struct{}), make(chan error)
	disk.read = func() { reads <- struct{}{}; <-release }
	go func() { done <- l.GetLog(1, &raft.Log{}) }()
	<-reads
	for i := uint64(20); i < 40; i++ {
		require.NoError(t, l.StoreLog(large(i+1, 10000)))
	}
	_ = l.Metrics()
	close(release)
	require.NoError(t, <-done)
}

// A node can stop though its disk does not answer.
func TestCloseDoesNotWaitForADiskThatHangs(t *testing.T) {
	t.Parallel()
	const stall = 800 * time.Millisecond // less is no time for the watchdog's ticks on a busy machine
	for what, says := range map[string]string{
		"a write": "hangs for 800ms", "close itself": "hangs for 800ms", "a read": "a read of its files hangs",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			var f disktest.Failures
			disk := &cached{}
			l := openLog(t, t.TempDir(), func(o *Options) {
				o.Fatal, o.openSegment, o.StallAfter, o.packed = f.Fatal, disk.open, stall, false
			})
			require.NoError(t, l.StoreLog(large(1, 10)))
			release, hangs := make(chan struct{}), make(chan struct{})
			done := make(chan error, 1)
			switch what {
			case "a write":
				disk.sync = func() error { close(hangs); <-release; return nil }
				go func() { done <- l.StoreLog(large(2, 10)) }()
				<-hangs
			case "a read":
				require.NoError(t, l.StoreLog(large(2, 10000)))
				l.cache.remove(0, 2)
				disk.read = func() { close(hangs); <-release }
				go func() { done <- l.GetLog(2, &raft.Log{}) }()
				<-hangs
			default:
				l.db = &spyBackend{backend: l.db, store: func() error { <-release; return nil }}
				done <- nil
			}
			machine := timetest.Watch(t)
			err := l.Close()
			if machine.Lost() > stall/4 { // the watchdog does not count the time in which it was held up
				says = "hangs"
			}
			require.ErrorContains(t, err, says)
			close(release)
			<-done
		})
	}
}

// Errors because the files are closed already are none of the disk.
func TestCallsWhileTheLogCloses(t *testing.T) {
	t.Parallel()
	for range 5 {
		l := openLog(t, t.TempDir(), func(o *Options) { o.segmentBytes, o.CacheBytes = 64<<10, 1 })
		for i := range uint64(200) {
			require.NoError(t, l.StoreLog(large(i+1, 2000)))
		}
		var others sync.WaitGroup
		begun := make(chan struct{}, 4)
		for _, fn := range []func(i uint64) error{
			func(i uint64) error { return l.GetLog(i, &raft.Log{}) },
			func(i uint64) error { return l.DeleteRange(1, i/4) },
			func(i uint64) error { return l.SetUint64([]byte("CurrentTerm"), i) },
			func(uint64) error { _ = l.Metrics(); _, err := l.FirstIndex(); return err },
		} {
			others.Go(func() {
				for i := uint64(1); ; i++ {
					err := fn(i%200 + 1)
					if i == 5 {
						begun <- struct{}{}
					}
					if errors.Is(err, ErrClosed) {
						return
					}
					if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
						t.Error(err)
						return
					}
				}
			})
		}
		for range 4 {
			<-begun
		}
		require.NoError(t, l.Close())
		others.Wait()
	}
}

// A disk that is full is not a damaged log.
func TestFullDiskIsNoDamage(t *testing.T) {
	from := t.TempDir()
	l := openLog(t, from)
	require.NoError(t, l.StoreLog(large(1, 2000)))
	dir := crash(t, from)
	disk := &cached{sync: func() error { return syscall.ENOSPC }}
	_, err := Open(dir, Options{GrowTo: -1, openSegment: disk.open})
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NotContains(t, err.Error(), "damaged")
	require.Equal(t, [2]uint64{1, 1}, span(t, openLog(t, dir)))
}

func TestNothingToStore(t *testing.T) {
	l := openLog(t, t.TempDir())
	require.NoError(t, l.StoreLogs(nil))
	require.Equal(t, [2]uint64{0, 0}, span(t, l))
}
