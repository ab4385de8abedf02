package disk

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"relay/cluster/disk/disktest"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/spool/spooltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// direct runs the suite on batch and reader, below raft's log.
type direct struct{ s *Store }

func (d direct) Update(fn func(spool.Batch) error) error {
	d.s.applying.Lock()
	defer d.s.applying.Unlock()
	if err := fn(d.s.batch); err != nil {
		d.s.batch.reset()
		return err
	}
	d.s.staged.index++
	d.s.meta = d.s.staged
	return d.s.batch.commit(d.s.meta.encode(nil), nil)
}

func (d direct) View(fn func(spool.Reader) error) error {
	return d.s.View(func(v spool.View) error { return fn(v.R) })
}

func TestConformance(t *testing.T) {
	spooltest.Run(t, func(t *testing.T) spooltest.Store {
		return direct{openStore(t, vfs.NewMem(), "s")}
	})
}

func TestConformanceFrozen(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s")
	apply(t, s, "set a 1", "set b 2")
	require.NoError(t, s.Frozen(func(v spool.View, index uint64) error {
		require.EqualValues(t, 2, index)
		apply(t, s, "set a 9;del b;set c 3")
		b, err := v.R.Get([]byte("a"))
		require.NoError(t, err)
		require.Equal(t, "1", string(b))
		var keys []string
		require.NoError(t, v.R.Scan(nil, nil, func(k, _ []byte) bool {
			keys = append(keys, string(k))
			return true
		}))
		require.Equal(t, []string{"a", "b", "c/count"}, keys)
		return nil
	}))
	require.Equal(t, "9", value(t, s, "a"))
}

func TestReopenOnRealFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := openStore(t, nil, dir)
	_, err := Open(dir, small(t, nil))
	require.Error(t, err, "one process at a time")
	apply(t, s, "set a 1", "body b/1 100000", "set a 2")
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.View(nil), ErrClosed)
	require.ErrorIs(t, s.WaitApplied(context.Background(), 99), ErrClosed)

	s = openStore(t, nil, dir)
	require.EqualValues(t, 3, s.Applied())
	require.Equal(t, "2", value(t, s, "a"))
	require.Equal(t, string(bodyOf("b/1", 100000)), value(t, s, "b/1"))
	apply(t, s, "set a 3")
	m := s.Metrics()
	require.EqualValues(t, 4, m.Applied)
	require.EqualValues(t, 3, m.Durable)
	require.Positive(t, m.DiskBytes)
	require.Positive(t, m.BodyBytes)
}

func TestWriteAheadLogIsOff(t *testing.T) {
	o := (&Store{o: Options{}.withDefaults()}).engine(&handle{})
	require.True(t, o.DisableWAL, "the raft log is the log")
	lo, hi := o.CompactionConcurrencyRange()
	require.LessOrEqual(t, lo, hi)
	require.LessOrEqual(t, hi, 2)
}

// Applying must not wait for the disk at all.
func TestApplySyncsNothing(t *testing.T) {
	var touched atomic.Int64
	s := openStore(t, errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpFileWrite:
			touched.Add(1)
		}
		return nil
	})), "s")
	before := touched.Load()
	for range 50 {
		apply(t, s, "set a 1", "body b 1000", "del b")
	}
	require.Equal(t, before, touched.Load())
}

func TestEntriesAreAppliedOnce(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s")
	logs := []*raft.Log{configOf(1, "a"), entryOf(2, "set k 1"), entryOf(3, "set k 2")}
	s.ApplyBatch(logs)
	_, sum, err := s.Hash(context.Background())
	require.NoError(t, err)
	answers := s.ApplyBatch(append(logs[:3:3], entryOf(4, "set j 1")))
	require.Nil(t, answers[0])
	require.Equal(t, pb.Code_DUPLICATE, answers[1].(*pb.Result).Code)
	require.EqualValues(t, 3, answers[2].(*pb.Result).Index)
	require.Equal(t, pb.Code_OK, answers[3].(*pb.Result).Code)
	require.Equal(t, "2", value(t, s, "k"))
	require.EqualValues(t, 3, s.machine.(*toy).count)
	_, other, err := s.Hash(context.Background())
	require.NoError(t, err)
	require.NotEqual(t, sum, other)
	require.EqualValues(t, 2, s.Metrics().Replayed-1)
}

func TestResultsDoNotDependOnBatches(t *testing.T) {
	logs := workload(7, 400)
	want := model(t, logs)[logs[len(logs)-1].Index]
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 2))
		s := openStore(t, vfs.NewMem(), "s", func(o *Options) {
			o.BatchSize = 1 + r.IntN(50000)
		})
		for _, b := range ranges(r, logs, 128) {
			s.ApplyBatch(b)
		}
		index, sum, err := s.Hash(context.Background())
		require.NoError(t, err)
		require.Equal(t, logs[len(logs)-1].Index, index)
		require.Equal(t, want, sum)
		m := s.meta
		c, err := m.configuration()
		require.NoError(t, err)
		require.NotEmpty(t, c.Servers)
	}
}

func TestLargeBatchesAreSplit(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s", func(o *Options) { o.BatchSize = 64 << 10 })
	apply(t, s, "body b/1 50000", "body b/2 50000", "body b/3 50000", "body b/4 50000", "set a 1")
	require.EqualValues(t, 3, s.Metrics().Batches)
	require.EqualValues(t, 5, s.Applied())
}

func TestWaitApplied(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s")
	require.NoError(t, s.WaitApplied(context.Background(), 0))
	var wg sync.WaitGroup
	for i := range uint64(20) {
		wg.Go(func() {
			if s.WaitApplied(context.Background(), i) == nil && s.Applied() < i {
				t.Errorf("woken for %d at %d", i, s.Applied())
			}
		})
	}
	for range 20 {
		apply(t, s, "set a 1")
	}
	wg.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, s.WaitApplied(ctx, 21), context.Canceled)
	require.Empty(t, s.applied.heap)
}

func TestChangesAreTold(t *testing.T) {
	var got []spool.Changes
	s := openStore(t, vfs.NewMem(), "s", func(o *Options) {
		o.OnChanges = func(c spool.Changes) { got = append(got, c) }
	})
	apply(t, s, "set a 1", "set b 2")
	apply(t, s, "set c 3")
	require.Equal(t, []spool.Changes{{Boxes: []string{"a", "b"}}, {Boxes: []string{"c"}}}, got)
}

func TestUnknownCommandStopsTheNode(t *testing.T) {
	var f disktest.Failures
	s := openStore(t, vfs.NewMem(), "s", func(o *Options) { o.Fatal = f.Fatal })
	apply(t, s, "set a 1")
	answers := s.ApplyBatch([]*raft.Log{entryOf(2, "set a 2"), entryOf(3, "no such command"), entryOf(4, "set a 3")})
	for _, a := range answers {
		require.ErrorIs(t, a.(error), errToy)
	}
	require.Len(t, f.Get(), 1)
	require.EqualValues(t, 1, s.Applied())
	require.ErrorIs(t, s.Apply(entryOf(2, "set a 2")).(error), errToy, "nothing goes on after it")
	require.ErrorIs(t, s.WaitApplied(context.Background(), 9), errToy)
	require.Len(t, f.Get(), 1, "told once")
	require.Equal(t, "1", value(t, s, "a"))
}

func TestDefaultFatalPanics(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s", func(o *Options) { o.Fatal = nil })
	require.Panics(t, func() { s.Apply(entryOf(1, "?")) })
}

func TestReservedKeys(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s")
	require.Error(t, s.batch.Set(nil, nil))
	require.Error(t, s.batch.Set(metaKey, nil))
	require.Error(t, s.batch.SetParts([]byte{0}, nil))
	require.Error(t, s.batch.Delete(metaKey))
	require.Error(t, s.batch.DeleteSized(metaKey, 1))
	require.Error(t, s.batch.DeleteRange(metaKey, []byte{1}))
	require.Error(t, s.batch.DeleteRange([]byte("a1"), []byte("a2")), "kept in memory")
	require.Error(t, s.batch.DeleteRange([]byte("h"), []byte("m")), "of two kinds")
	require.Error(t, s.batch.DeleteRange([]byte("h"), nil))
}

func TestMarks(t *testing.T) {
	logs := workload(3, 60)
	at := logs[len(logs)-1].Index
	logs = append(logs, markOf(t, at+1, "m1"), entryOf(at+2, "set k/1 behind"), markOf(t, at+3, "m2"))
	want := model(t, logs)
	ctx := context.Background()
	for _, most := range []int{1, 1000} {
		s := openStore(t, vfs.NewMem(), "s")
		early := make(chan error, 1)
		go func() {
			_, _, err := s.MarkHash(ctx, "m2")
			early <- err
		}()
		for _, b := range ranges(rand.New(rand.NewPCG(1, 1)), logs, most) {
			s.ApplyBatch(b)
		}
		require.NoError(t, <-early)
		for id, i := range map[string]uint64{"m1": at + 1, "m2": at + 3} {
			index, sum, err := s.MarkHash(ctx, id)
			require.NoError(t, err)
			require.Equal(t, i, index)
			require.Equal(t, want[i], sum)
		}
	}
}

func TestMarksAreBounded(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s")
	for i := range uint64(20) {
		s.Apply(markOf(t, i+1, string(rune('a'+i))))
	}
	_, _, err := s.MarkHash(context.Background(), "t")
	require.NoError(t, err)
	require.Len(t, s.marks.all, keepMarks)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	_, _, err = s.MarkHash(ctx, "a")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestCloseWaitsForReaders(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s", func(o *Options) { o.CloseWait = time.Millisecond })
	apply(t, s, "set a 1")
	done := make(chan error, 1)
	require.NoError(t, s.View(func(v spool.View) error {
		go func() { done <- s.Close() }()
		require.ErrorIs(t, <-done, errLeak)
		b, err := v.R.Get([]byte("a"))
		require.NoError(t, err)
		require.Equal(t, "1", string(b))
		return nil
	}))
}

// A store whose disk fails must stop the process, not lose a write silently.
func TestDiskErrorsAreFatal(t *testing.T) {
	for name, kinds := range map[string][]errorfs.OpKind{
		"write": {errorfs.OpFileWrite},
		"sync":  {errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo},
		"make":  {errorfs.OpCreate},
	} {
		t.Run(name, func(t *testing.T) {
			var f disktest.Failures
			broken := errors.New("no space left on device")
			var on errorfs.Toggle
			on.Injector = errorfs.InjectorFunc(func(op errorfs.Op) error {
				for _, k := range kinds {
					// At the manifest and at blob files Pebble panics, which ends
					// the process as well, but the test with it.
					if op.Kind == k && filepath.Ext(op.Path) == ".sst" {
						return broken
					}
				}
				return nil
			})
			s := openStore(t, errorfs.Wrap(vfs.NewMem(), &on), "s", func(o *Options) {
				o.Fatal = func(err error) { on.Off(); f.Fatal(err) }
			})
			apply(t, s, "set a 1", "body b 20000")
			on.On()
			require.ErrorIs(t, s.Flush(), broken)
			require.Len(t, f.Get(), 1)
			require.ErrorIs(t, s.Apply(entryOf(3, "set a 2")).(error), broken)
			_, err := s.Snapshot()
			require.ErrorIs(t, err, broken)
		})
	}
}

// Memtables that wait for their flush are bounded in octets.
func TestMemtablesAreBounded(t *testing.T) {
	for size, want := range map[int64]int{1 << 20: 4, 16 << 20: 4, 20 << 20: 3, 32 << 20: 2, 64 << 20: 2} {
		require.Equal(t, want, memTables(size), size)
	}
}
