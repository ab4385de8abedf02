package log

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"pgregory.net/rapid"

	"relay/cluster/disk/disktest"
)

func openLog(t testing.TB, dir string, change ...func(*Options)) *Log {
	o := Options{
		GrowTo: -1, MmapBytes: 64 << 20, packed: true,
		Fatal: func(err error) { t.Errorf("fatal: %v", err) },
	}
	for _, c := range change {
		c(&o)
	}
	l, err := Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// former opens a log as it is before the raise to version 2.
func former(o *Options) { o.packed = false }

// mode is a kind of log that a test is for.
type mode struct {
	prefix string // of the names of its segments
	set    func(*Options)
}

func modes() map[string]mode {
	return map[string]mode{"packed": {packedPrefix, func(o *Options) { o.packed = true }}, "former": {livePrefix, former}}
}

func (m mode) segment(id uint64) string { return m.prefix + segmentNumber(id) }

// entries are entries lo..hi of a term.
func entries(term, lo, hi uint64) []*raft.Log {
	var all []*raft.Log
	for i := lo; i <= hi; i++ {
		all = append(all, &raft.Log{
			Index: i, Term: term, Type: raft.LogCommand, Data: fmt.Appendf(nil, "data %d/%d", i, term),
			AppendedAt: time.Unix(int64(i), 0).UTC(),
		})
	}
	return all
}

func span(t testing.TB, l *Log) [2]uint64 {
	first, err := l.FirstIndex()
	require.NoError(t, err)
	last, err := l.LastIndex()
	require.NoError(t, err)
	return [2]uint64{first, last}
}

func requireEntry(t testing.TB, l *Log, want *raft.Log) {
	var got raft.Log
	require.NoError(t, l.GetLog(want.Index, &got))
	got.AppendedAt = got.AppendedAt.UTC()
	if !reflect.DeepEqual(*want, got) { // which takes a tenth of cmp's time
		require.Empty(t, cmp.Diff(*want, got))
	}
}

func TestLogStoresAndReopens(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir)
	require.Equal(t, [2]uint64{0, 0}, span(t, l))
	require.ErrorIs(t, l.GetLog(1, &raft.Log{}), raft.ErrLogNotFound)
	all := entries(3, 1, 20)
	all[4].Extensions = []byte("ext")
	all[5].Data = nil
	all[5].Type = raft.LogNoop
	require.NoError(t, l.StoreLogs(all[:10]))
	require.NoError(t, l.StoreLog(all[10]))
	require.NoError(t, l.StoreLogs(all[11:]))
	require.Equal(t, []byte("ext"), all[4].Extensions, "the caller's entries are left alone")
	for _, e := range all {
		requireEntry(t, l, e)
	}
	bytes, average := l.Bytes(), l.Average()
	require.Positive(t, bytes)
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	require.ErrorIs(t, l.GetLog(1, &raft.Log{}), ErrClosed)
	require.ErrorIs(t, l.StoreLog(all[0]), ErrClosed)

	l = openLog(t, dir)
	require.Equal(t, [2]uint64{1, 20}, span(t, l))
	for _, e := range all {
		requireEntry(t, l, e)
	}
	require.InEpsilon(t, bytes, l.Bytes(), 0.3, "the estimate is close to what is in the file")
	require.InEpsilon(t, average, l.Average(), 0.3)
	m := l.Metrics()
	require.EqualValues(t, 20, m.Entries)
	require.EqualValues(t, 20, m.CacheMisses)
	require.Positive(t, m.FileBytes)
}

func TestLogIsForOneProcess(t *testing.T) {
	dir := t.TempDir()
	openLog(t, dir)
	_, err := Open(dir, Options{GrowTo: -1})
	require.ErrorIs(t, err, berrors.ErrTimeout)
	require.ErrorContains(t, err, "another relayd")
}

func TestLogIsGrownOnce(t *testing.T) {
	dir := t.TempDir()
	open := func(grow int64) *Log {
		return openLog(t, dir, func(o *Options) { o.GrowTo, o.segmentBytes = grow, 512<<10 })
	}
	l := open(8 << 20)
	require.EqualValues(t, 8<<20, l.Metrics().FileBytes)
	for i := range uint64(100) {
		require.NoError(t, l.StoreLogs([]*raft.Log{{Index: i + 1, Term: 1, Data: make([]byte, 50000)}}))
	}
	require.EqualValues(t, 8<<20, l.Metrics().FileBytes, "appends do not grow the files")
	require.NoError(t, l.Close())
	l = open(16 << 20)
	require.EqualValues(t, 8<<20, l.Metrics().FileBytes)
	require.Equal(t, [2]uint64{1, 100}, span(t, l))
}

func TestCutOffCreationIsRepeated(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "raft.db.new"), []byte("half"), 0o600))
	l := openLog(t, dir)
	require.NoError(t, l.StoreLogs(entries(1, 1, 3)))
}

func TestBoltIsSetUpWell(t *testing.T) {
	o := boltOptions("x", Options{}.withDefaults())
	require.False(t, o.NoSync)
	require.True(t, o.BoltOptions.NoFreelistSync)
	require.Equal(t, bbolt.FreelistMapType, o.BoltOptions.FreelistType)
	require.EqualValues(t, 8<<30, o.BoltOptions.InitialMmapSize)
}

func TestOldEntriesGoInSteps(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, former)
	for i := uint64(1); i <= 3000; i += 500 {
		require.NoError(t, l.StoreLogs(entries(1, i, i+499)))
	}
	spy := &spyBackend{backend: l.db}
	l.db = spy
	require.NoError(t, l.DeleteRange(1, 2100))
	require.Equal(t, [][2]uint64{{1, 512}, {513, 1024}, {1025, 1536}, {1537, 2048}, {2049, 2100}}, spy.deleted)
	require.Equal(t, [2]uint64{2101, 3000}, span(t, l))
	require.ErrorIs(t, l.GetLog(2100, &raft.Log{}), raft.ErrLogNotFound)
	requireEntry(t, l, entries(1, 2101, 2101)[0])

	spy.deleted = nil
	require.NoError(t, l.DeleteRange(2200, 3000))
	require.Equal(t, [][2]uint64{{2200, 3000}}, spy.deleted, "a suffix goes at once")
	require.Equal(t, [2]uint64{2101, 2199}, span(t, l))

	spy.deleted = nil
	require.NoError(t, l.DeleteRange(0, 50))
	require.NoError(t, l.DeleteRange(2200, 2300))
	require.Empty(t, spy.deleted)
	require.NoError(t, l.DeleteRange(0, 9999))
	require.Equal(t, [2]uint64{0, 0}, span(t, l))
	require.Zero(t, l.Bytes())
	require.NoError(t, l.Close())
	require.Equal(t, [2]uint64{0, 0}, span(t, openLog(t, dir, former)))
}

// spyBackend sees and bends what reaches bbolt.
type spyBackend struct {
	backend
	deleted [][2]uint64
	store   func() error
	sets    []string
}

func (s *spyBackend) DeleteRange(lo, hi uint64) error {
	s.deleted = append(s.deleted, [2]uint64{lo, hi})
	return s.backend.DeleteRange(lo, hi)
}

func (s *spyBackend) StoreLogs(logs []*raft.Log) error {
	if s.store != nil {
		if err := s.store(); err != nil {
			return err
		}
	}
	return s.backend.StoreLogs(logs)
}

func (s *spyBackend) Set(k, v []byte) error {
	s.sets = append(s.sets, string(k))
	return s.backend.Set(k, v)
}

// The log against a map, with restarts.
func TestLogModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		require.NoError(t, err)
		cacheSize := rapid.Int64Range(1, 3000).Draw(r, "cache")
		disk := &forgetful{}
		packed := rapid.Bool().Draw(r, "packed")
		open := func() *Log {
			l, err := Open(dir, Options{
				GrowTo: -1, MmapBytes: 1 << 20, CacheBytes: cacheSize, segmentBytes: 16 << 10, openSegment: disk.open,
				packed: packed,
			})
			require.NoError(t, err)
			return l
		}
		l := open()
		defer func() { require.NoError(t, l.Close()) }()
		have := map[uint64]*raft.Log{}
		var first, last, term uint64
		for range rapid.IntRange(1, 12).Draw(r, "steps") {
			switch rapid.IntRange(0, 7).Draw(r, "step") {
			case 0, 1, 2:
				term++
				from := last + 1
				if rapid.IntRange(0, 9).Draw(r, "gap") == 0 {
					from += 100
				}
				all := entries(term, from, from+uint64(rapid.IntRange(0, 30).Draw(r, "n")))
				large := rapid.IntRange(0, 5000).Draw(r, "large")
				for i, e := range all {
					if i%3 == 0 {
						e.Data = append(e.Data, bytes.Repeat([]byte{byte(e.Index)}, large)...)
					}
				}
				require.NoError(t, l.StoreLogs(all))
				for _, e := range all {
					have[e.Index] = e
					last = e.Index
				}
				if first == 0 {
					first = from
				}
			case 3: // the oldest
				if first == 0 {
					continue
				}
				hi := rapid.Uint64Range(first, last).Draw(r, "hi")
				require.NoError(t, l.DeleteRange(first, hi))
				drop(have, 0, hi)
			case 4: // the newest
				if first == 0 {
					continue
				}
				lo := rapid.Uint64Range(first, last).Draw(r, "lo")
				require.NoError(t, l.DeleteRange(lo, last))
				drop(have, lo, last)
			case 5:
				require.NoError(t, l.Close())
				l = open()
			case 7:
				require.NoError(t, l.SealPromises())
				require.NotNil(t, l.packed.Load())
			case 6: // power loss: data that was not synced is gone
				disk.forget()
				require.NoError(t, l.Close())
				l = open()
			}
			next := last
			first, last = extent(have)
			require.Equal(t, [2]uint64{first, last}, span(t, l))
			require.Equal(t, len(have), l.Metrics().Entries)
			require.LessOrEqual(t, l.cache.bytes, cacheSize)
			for i := uint64(0); i <= next+2; i++ {
				var e raft.Log
				err := l.GetLog(i, &e)
				if want := have[i]; want != nil {
					require.NoError(t, err)
					require.Equal(t, want.Term, e.Term)
					require.Equal(t, want.Data, e.Data)
				} else {
					require.ErrorIs(t, err, raft.ErrLogNotFound)
				}
			}
			last = max(last, 0)
		}
	})
}

func drop(m map[uint64]*raft.Log, lo, hi uint64) {
	for i := range m {
		if lo <= i && i <= hi {
			delete(m, i)
		}
	}
}

func extent(m map[uint64]*raft.Log) (first, last uint64) {
	for i := range m {
		if first == 0 || i < first {
			first = i
		}
		last = max(last, i)
	}
	return first, last
}

func TestCacheIsBoundedInOctets(t *testing.T) {
	l := openLog(t, t.TempDir(), func(o *Options) { o.CacheBytes = 100000 })
	for i := range uint64(50) {
		require.NoError(t, l.StoreLog(&raft.Log{Index: i + 1, Term: 1, Data: make([]byte, 10000)}))
		require.LessOrEqual(t, l.cache.bytes, int64(100000))
	}
	require.EqualValues(t, 9, l.cache.next-l.cache.first)
	requireEntry(t, l, &raft.Log{Index: 50, Term: 1, Data: make([]byte, 10000)})
	require.EqualValues(t, 1, l.Metrics().CacheHits)
	requireEntry(t, l, &raft.Log{Index: 1, Term: 1, Data: make([]byte, 10000)})
	require.EqualValues(t, 1, l.Metrics().CacheMisses)
	require.NoError(t, l.DeleteRange(1, 45))
	require.EqualValues(t, 5, l.cache.next-l.cache.first, "deleting the oldest keeps the newest")
}

func TestFirstErrorStopsTheLog(t *testing.T) {
	var f disktest.Failures
	disk := &forgetful{}
	l := openLog(t, t.TempDir(), func(o *Options) { o.Fatal, o.openSegment = f.Fatal, disk.open })
	require.NoError(t, l.StoreLogs(entries(1, 1, 3)))
	require.NoError(t, l.SetUint64([]byte("CurrentTerm"), 4))
	broken := errors.New("input/output error")
	disk.fail = broken
	require.ErrorIs(t, l.StoreLogs(entries(1, 4, 5)), broken)
	disk.fail = nil
	require.ErrorIs(t, l.StoreLogs(entries(1, 4, 5)), broken, "even if it would work again")
	require.ErrorIs(t, l.GetLog(1, &raft.Log{}), broken)
	require.ErrorIs(t, l.DeleteRange(1, 2), broken)
	require.ErrorIs(t, l.Set([]byte("LastVoteCand"), []byte("b")), broken, "it must not vote")
	require.ErrorIs(t, l.SetUint64([]byte("LastVoteTerm"), 9), broken)
	require.ErrorIs(t, l.SetUint64([]byte("CurrentTerm"), 4), broken)
	_, err := l.GetUint64([]byte("CurrentTerm"))
	require.ErrorIs(t, err, broken)
	_, err = l.LastIndex()
	require.ErrorIs(t, err, broken)
	require.Len(t, f.Get(), 1)
}

// A leader that replaces entries which were committed here is of another history.
// Entries that go at the log's beginning are in the store, and may go.
func TestCommittedEntriesAreNotReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		lo, hi uint64
		bad    bool
	}{
		"a suffix behind the floor":   {7, 9, false},
		"a suffix from the floor on":  {6, 9, true},
		"a suffix far below":          {3, 9, true},
		"all of it":                   {2, 9, true},
		"the beginning":               {1, 5, false},
		"the beginning and the floor": {2, 8, false},
	} {
		t.Run(name, func(t *testing.T) {
			var f disktest.Failures
			l := openLog(t, t.TempDir(), func(o *Options) { o.Fatal = f.Fatal })
			require.NoError(t, l.StoreLogs(entries(5, 2, 9)))
			l.Floor(func() uint64 { return 6 })
			err := l.DeleteRange(c.lo, c.hi)
			if !c.bad {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, "all up to 6 is committed here")
			require.Len(t, f.Get(), 1)
			require.ErrorContains(t, l.StoreLogs(entries(7, 10, 10)), "committed here", "the log has stopped")
		})
	}
}

// An error of bbolt itself: it may only read the file.
func TestRealWriteErrorIsFatal(t *testing.T) {
	var f disktest.Failures
	l := openLog(t, t.TempDir(), func(o *Options) { o.Fatal, o.packed = f.Fatal, false })
	require.NoError(t, l.StoreLogs(entries(1, 1, 3)))
	require.NoError(t, l.db.Close())
	ro := boltOptions(l.path, l.o)
	ro.BoltOptions.ReadOnly = true
	db, err := raftboltdb.New(ro)
	require.NoError(t, err)
	l.db = db
	requireEntry(t, l, entries(1, 2, 2)[0])
	require.ErrorIs(t, l.StoreLogs(entries(1, 4, tailEntries)), berrors.ErrDatabaseReadOnly)
	require.Len(t, f.Get(), 1)
}

// A write that hangs ends the process while it still hangs (raft#503, #614).
func TestHangingWriteIsFatal(t *testing.T) {
	dir := t.TempDir()
	var f disktest.Failures
	disk := &forgetful{}
	l := openLog(t, dir, func(o *Options) { o.Fatal, o.openSegment = f.Fatal, disk.open })
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		disk.hang = func() { <-release }
		done := make(chan error, 1)
		go func() { done <- l.StoreLogs(entries(1, 1, 3)) }()
		time.Sleep(10*time.Second - time.Nanosecond) // of the bubble's clock
		synctest.Wait()
		require.Empty(t, f.Get())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Len(t, f.Get(), 1)
		require.ErrorContains(t, f.Get()[0], "hangs for 10s")
		require.Empty(t, done, "the write is not given up")
		close(release)
		require.Error(t, <-done)
	})
}

func TestPanicsOfBoltAreFatal(t *testing.T) {
	var f disktest.Failures
	l := openLog(t, t.TempDir(), func(o *Options) { o.Fatal, o.packed = f.Fatal, false })
	l.db = &spyBackend{backend: l.db, store: func() error { panic("page 7: invalid type") }}
	require.ErrorContains(t, l.StoreLogs(entries(1, 1, tailEntries)), "page 7")
	require.Len(t, f.Get(), 1)
}

func TestDefaultLogFatalPanics(t *testing.T) {
	l := openLog(t, t.TempDir(), func(o *Options) { o.Fatal, o.packed = nil, false })
	l.db = &spyBackend{backend: l.db, store: func() error { return errors.New("no") }}
	require.Panics(t, func() { _ = l.StoreLogs(entries(1, 1, tailEntries)) })
}

// bbolt has no checksums for its data: each entry carries its own.
func TestDamagedEntryIsFatal(t *testing.T) {
	for name, c := range map[string]struct {
		file   string
		repeat int
		packed bool
	}{
		"in raft.db": {"raft.db", 100, false}, "in a segment": {"data-0000000000000001", 1000, false},
		"in a packed log": {"log-0000000000000001", 1000, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			change := func(o *Options) { o.packed, o.segmentBytes = c.packed, 16<<10 }
			l := openLog(t, dir, change)
			require.NoError(t, l.StoreLogs([]*raft.Log{{Index: 1, Term: 1, Data: bytes.Repeat([]byte("precious"), c.repeat)}}))
			require.NoError(t, l.StoreLogs(entries(1, 2, 3)))
			require.NoError(t, l.StoreLog(large(4, 5000))) // in another file of a packed log: a start reads the newest
			require.NoError(t, l.Close())
			flipAll(t, filepath.Join(dir, c.file), []byte("preciousprecious"))
			var f disktest.Failures
			l = openLog(t, dir, change, func(o *Options) { o.Fatal = f.Fatal })
			require.ErrorIs(t, l.GetLog(1, &raft.Log{}), errSeal)
			require.Len(t, f.Get(), 1)
		})
	}
}

// flipAll flips a bit in each place where a text stands, in old pages too.
func flipAll(t *testing.T, path string, text []byte) {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Positive(t, bytes.Count(b, text))
	for at := 0; ; {
		i := bytes.Index(b[at:], text)
		if i < 0 {
			break
		}
		b[at+i] ^= 1
		at += i + 1
	}
	require.NoError(t, os.WriteFile(path, b, 0o600))
}

func TestDamagedFileIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openLog(t, dir)
	for i := range uint64(40) {
		require.NoError(t, l.StoreLogs([]*raft.Log{{Index: i + 1, Term: 1, Data: make([]byte, 5000)}}))
	}
	require.NoError(t, l.Close())
	whole, err := os.ReadFile(filepath.Join(dir, "raft.db"))
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(1, 1))
	for range 30 {
		bad := bytes.Clone(whole)
		page := 4096 * r.IntN(len(bad)/4096)
		for i := range 64 {
			bad[page+i] = byte(r.Uint32())
		}
		// A directory of its own: bbolt keeps its lock on a file in which it panicked.
		dir := crash(t, dir)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "raft.db"), bad, 0o600))
		var f disktest.Failures
		l, err := Open(dir, Options{GrowTo: -1, MmapBytes: 1 << 20, Fatal: f.Fatal})
		if err != nil {
			require.NotErrorIs(t, err, berrors.ErrTimeout)
			continue
		}
		for i := range uint64(40) { // what is read is right, or the node stops
			var e raft.Log
			if err := l.GetLog(i+1, &e); err == nil {
				require.Equal(t, i+1, e.Index)
				require.Len(t, e.Data, 5000)
			}
		}
		_ = l.Close()
	}
}

func TestStableValues(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir)
	_, err := l.GetUint64([]byte("CurrentTerm"))
	require.EqualError(t, err, "not found", "raft compares the text")
	_, err = l.Get([]byte("LastVoteCand"))
	require.EqualError(t, err, "not found")
	_, err = l.GetUint64([]byte("LastVoteTerm"))
	require.EqualError(t, err, "not found")
	spy := &spyBackend{backend: l.db}
	l.db = spy
	require.NoError(t, l.SetUint64([]byte("CurrentTerm"), 7))
	require.NoError(t, l.SetUint64([]byte("CurrentTerm"), 7))
	require.Len(t, spy.sets, 1, "the same value is not synced again")
	require.NoError(t, l.Set([]byte("other"), []byte("x")))
	require.NoError(t, l.Close())
	l = openLog(t, dir)
	v, err := l.GetUint64([]byte("CurrentTerm"))
	require.NoError(t, err)
	require.EqualValues(t, 7, v)
	b, err := l.Get([]byte("other"))
	require.NoError(t, err)
	require.Equal(t, "x", string(b))
}

// raft#661: the node dies between the two writes of a vote. The store that is left
// must hold one vote or the other, never the new term with the old candidate.
func TestVoteIsOneValue(t *testing.T) {
	for _, c := range []struct {
		name string
		open func(dir string) raft.StableStore
		mix  bool
	}{
		{"this log", func(dir string) raft.StableStore { return openLog(t, dir) }, false},
		{"raft-boltdb alone", func(dir string) raft.StableStore {
			s, err := raftboltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
			require.NoError(t, err)
			return s
		}, true}, // the reason for all this
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s := c.open(dir)
			shut := func() { require.NoError(t, s.(interface{ Close() error }).Close()) }
			require.NoError(t, s.SetUint64([]byte("LastVoteTerm"), 5))
			require.NoError(t, s.Set([]byte("LastVoteCand"), []byte("a")))
			require.NoError(t, s.SetUint64([]byte("LastVoteTerm"), 6))
			shut() // before the candidate is written
			s = c.open(dir)
			term, err := s.GetUint64([]byte("LastVoteTerm"))
			require.NoError(t, err)
			candidate, err := s.Get([]byte("LastVoteCand"))
			require.NoError(t, err)
			require.Equal(t, c.mix, term == 6 && string(candidate) == "a")
			require.NoError(t, s.SetUint64([]byte("LastVoteTerm"), 8))
			require.NoError(t, s.Set([]byte("LastVoteCand"), []byte("b")))
			shut()
			s = c.open(dir)
			term, err = s.GetUint64([]byte("LastVoteTerm"))
			require.NoError(t, err)
			candidate, err = s.Get([]byte("LastVoteCand"))
			require.NoError(t, err)
			require.EqualValues(t, 8, term)
			require.Equal(t, "b", string(candidate))
			shut()
		})
	}
}

func TestVoteCostsOneSync(t *testing.T) {
	l := openLog(t, t.TempDir())
	spy := &spyBackend{backend: l.db}
	l.db = spy
	require.NoError(t, l.SetUint64([]byte("LastVoteTerm"), 5))
	_, err := l.GetUint64([]byte("LastVoteTerm"))
	require.EqualError(t, err, "not found", "half a vote is none")
	require.NoError(t, l.Set([]byte("LastVoteCand"), []byte("a")))
	require.Equal(t, []string{voteKey}, spy.sets)
}

func TestGuard(t *testing.T) {
	for _, c := range []struct {
		name  string
		logs  [][]*raft.Log
		guard [2]uint64 // index, term
		left  [2]uint64
		fake  bool
	}{
		{"empty log", nil, [2]uint64{9, 3}, [2]uint64{0, 0}, true},
		{"the log agrees", [][]*raft.Log{entries(3, 1, 12)}, [2]uint64{9, 3}, [2]uint64{1, 12}, false},
		{"the log ends before", [][]*raft.Log{entries(1, 1, 6)}, [2]uint64{9, 3}, [2]uint64{0, 0}, true},
		{"another history", [][]*raft.Log{entries(1, 1, 4), entries(2, 5, 9)}, [2]uint64{9, 3}, [2]uint64{0, 0}, true},
		{"another history, and more of it", [][]*raft.Log{entries(1, 1, 4), entries(2, 5, 12)}, [2]uint64{9, 3},
			[2]uint64{10, 12}, true},
		{"the log begins behind", [][]*raft.Log{entries(4, 10, 12)}, [2]uint64{9, 3}, [2]uint64{10, 12}, true},
	} {
		for _, reopen := range []bool{false, true} {
			t.Run(fmt.Sprint(c.name, reopen), func(t *testing.T) {
				dir := t.TempDir()
				l := openLog(t, dir)
				for _, all := range c.logs {
					require.NoError(t, l.StoreLogs(all))
				}
				if reopen { // nothing in the cache
					require.NoError(t, l.Close())
					l = openLog(t, dir)
				}
				require.NoError(t, l.Guard(c.guard[0], c.guard[1]))
				require.Equal(t, c.left, span(t, l))
				var e raft.Log
				require.NoError(t, l.GetLog(c.guard[0], &e))
				require.Equal(t, c.guard, [2]uint64{e.Index, e.Term})
				require.Equal(t, c.fake, e.Type == raft.LogNoop)
				if c.fake {
					require.ErrorIs(t, l.GetLog(c.guard[0]-1, &e), raft.ErrLogNotFound,
						"nothing that contradicts the snapshot may be sent to anybody")
				}
			})
		}
	}
}

func FuzzUnseal(f *testing.F) {
	f.Add([]byte("data"), []byte("12345678"), uint64(1))
	f.Fuzz(func(t *testing.T, data, ext []byte, index uint64) {
		e := raft.Log{Index: index, Data: data, Extensions: ext}
		_ = unseal(&e, index)
		l := &Log{}
		e = raft.Log{Index: index, Data: data, Extensions: ext}
		l.seal(&e, place{}, checksum(&e))
		sealed := *l.sealed()[0]
		require.NoError(t, unseal(&sealed, index))
		require.Equal(t, len(ext), len(sealed.Extensions))
	})
}
