package disk

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// take lets raft's snapshot pass over the store: Snapshot, Create, Persist.
func take(t testing.TB, s *Store, index, term uint64, c raft.Configuration, configIndex uint64) {
	f, err := s.Snapshot()
	require.NoError(t, err)
	k, err := s.Snapshots().Create(1, index, term, c, configIndex, nil)
	require.NoError(t, err)
	require.NoError(t, f.Persist(k))
	require.NoError(t, k.Close())
	require.Equal(t, live, k.ID())
	f.Release()
}

func latest(t testing.TB, s *Store) *raft.SnapshotMeta {
	all, err := s.Snapshots().List()
	require.NoError(t, err)
	if len(all) == 0 {
		return &raft.SnapshotMeta{}
	}
	require.Len(t, all, 1)
	return all[0]
}

// stream reads a whole live snapshot.
func stream(t testing.TB, s *Store) (*raft.SnapshotMeta, []byte) {
	m, r, err := s.Snapshots().Open(live)
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.EqualValues(t, m.Size, len(b), "raft is told the exact size")
	return m, b
}

// receive passes a snapshot over as raft does.
func receive(s *Store, m *raft.SnapshotMeta, in io.Reader) error {
	k, err := s.Snapshots().Create(m.Version, m.Index, m.Term, m.Configuration, m.ConfigurationIndex, nil)
	if err != nil {
		return err
	}
	if _, err := io.Copy(k, in); err != nil {
		return errors.Join(err, k.Cancel())
	}
	if err := k.Close(); err != nil {
		return err
	}
	_, r, err := s.Snapshots().Open(k.ID())
	if err != nil {
		return err
	}
	defer r.Close()
	return s.Restore(wrapped{r})
}

// wrapped stands for the counter that raft puts around a snapshot.
type wrapped struct{ io.ReadCloser }

func (w wrapped) WrappedReadCloser() io.ReadCloser { return w.ReadCloser }

func source(t testing.TB, n int) (*Store, []*raft.Log) {
	logs := workload(11, n)
	s := openStore(t, vfs.NewMem(), "s")
	for _, b := range ranges(rand.New(rand.NewPCG(1, 1)), logs, 20) {
		s.ApplyBatch(b)
	}
	return s, logs
}

func hashOf(t testing.TB, s *Store) (uint64, []byte) {
	index, sum, err := s.Hash(context.Background())
	require.NoError(t, err)
	return index, sum
}

// leftovers may be called on any goroutine.
func leftovers(t testing.TB, s *Store) []string {
	names, err := s.fs.List(s.dir.root)
	assert.NoError(t, err)
	names = slices.DeleteFunc(names, func(n string) bool {
		return n == "LOCK" || n == current || n == s.cur.name
	})
	return names
}

func TestListIsWhatIsDurable(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s")
	require.Zero(t, latest(t, s).Index)
	s.ApplyBatch([]*raft.Log{configOf(1, "a", "b"), entryOf(2, "set a 1"), entryOf(3, "set a 2")})
	require.Zero(t, latest(t, s).Index, "nothing is on the disk yet")
	require.NoError(t, s.Flush())
	require.EqualValues(t, 3, latest(t, s).Index)
	require.Equal(t, members("a", "b"), latest(t, s).Configuration)
	require.EqualValues(t, 1, latest(t, s).ConfigurationIndex)
	s.Apply(entryOf(4, "set a 3"))
	require.EqualValues(t, 3, latest(t, s).Index)
	d, err := s.Durable()
	require.NoError(t, err)
	require.EqualValues(t, 3, d)
}

func TestPersistRecordsWhatRaftKnows(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := openStore(t, fs, "s")
	s.ApplyBatch([]*raft.Log{configOf(1, "a"), entryOf(2, "set a 1")})
	// Raft is ahead by a barrier at 3.
	take(t, s, 3, 7, members("a"), 1)
	require.EqualValues(t, 3, s.Applied())
	again := openStore(t, fs.CrashClone(vfs.CrashCloneCfg{}), "s")
	m := latest(t, again)
	require.EqualValues(t, 3, m.Index)
	require.EqualValues(t, 7, m.Term)
	require.Equal(t, "1", value(t, again, "a"))

	// A snapshot that is older than what was applied since must not take the
	// store or the configuration back.
	s.ApplyBatch([]*raft.Log{entryOf(4, "set a 2"), configOf(5, "a", "b")})
	take(t, s, 4, 7, members("a"), 1)
	m = latest(t, s)
	require.EqualValues(t, 5, m.Index)
	require.Equal(t, members("a", "b"), m.Configuration)
	require.EqualValues(t, 5, m.ConfigurationIndex)

	// A recovery by hand puts its configuration in as if it came at index 1.
	take(t, s, 5, 1, members("z"), 1)
	m = latest(t, s)
	require.Equal(t, members("z"), m.Configuration)
	require.EqualValues(t, 1, m.ConfigurationIndex)
	require.EqualValues(t, 5, m.Index)
}

// The rule that lets raft truncate: without the flush in Persist this fails.
func TestTruncatedLogIsNeverNeeded(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := openStore(t, fs, "s")
	logs := workload(5, 300)
	want := model(t, logs)
	for i, b := range ranges(rand.New(rand.NewPCG(3, 3)), logs, 20) {
		s.ApplyBatch(b)
		if i%4 != 0 {
			continue
		}
		last := b[len(b)-1]
		take(t, s, last.Index, last.Term, members("a"), 1)
		kept := after(logs, last.Index) // raft truncates up to the snapshot
		crashed := openStore(t, fs.CrashClone(vfs.CrashCloneCfg{}), "s")
		require.GreaterOrEqual(t, crashed.Applied(), last.Index)
		crashed.ApplyBatch(kept)
		index, sum := hashOf(t, crashed)
		require.Equal(t, logs[len(logs)-1].Index, index)
		require.Equal(t, want[index], sum)
		require.NoError(t, crashed.Close())
	}
}

func TestForeignSinkIsRefused(t *testing.T) {
	s, _ := source(t, 10)
	f, err := s.Snapshot()
	require.NoError(t, err)
	require.Error(t, f.Persist(&raft.DiscardSnapshotSink{}))
	k, err := s.Snapshots().Create(1, 5, 1, members("a"), 1, nil)
	require.NoError(t, err)
	require.ErrorContains(t, k.Close(), "empty")
	_, err = s.Snapshots().Create(0, 5, 1, members("a"), 1, nil)
	require.Error(t, err)
	require.Error(t, s.Restore(io.NopCloser(strings.NewReader("x"))))
	_, _, err = s.Snapshots().Open("received-1")
	require.Error(t, err)
}

func TestInstall(t *testing.T) {
	from, logs := source(t, 300)
	index, sum := hashOf(t, from)
	m, b := stream(t, from)
	require.Equal(t, index, m.Index)

	var told []spool.Changes
	var guard []uint64
	fs := vfs.NewCrashableMem()
	s := openStore(t, fs, "s", func(o *Options) {
		o.OnChanges = func(c spool.Changes) { told = append(told, c) }
		o.OnInstall = func(index, term uint64) error { guard = append(guard, index, term); return nil }
	})
	s.ApplyBatch(logs[:20])
	told = nil
	require.NoError(t, receive(s, m, bytes.NewReader(b)))
	got, have := hashOf(t, s)
	require.Equal(t, index, got)
	require.Equal(t, sum, have)
	require.Equal(t, index, s.Applied())
	require.Equal(t, index, latest(t, s).Index, "what was installed is durable")
	require.Equal(t, m.Configuration, latest(t, s).Configuration)
	require.Equal(t, []spool.Changes{{Sessions: true, Directory: true, Restored: true}}, told)
	require.Equal(t, []uint64{m.Index, m.Term}, guard)
	require.Equal(t, from.machine.(*toy).count, s.machine.(*toy).count, "caches are loaded anew")
	require.Eventually(t, func() bool { return len(leftovers(t, s)) == 0 }, time.Minute, time.Millisecond)

	// It goes on from there, and survives a power loss at once.
	crashed := openStore(t, fs.CrashClone(vfs.CrashCloneCfg{}), "s")
	for _, one := range []*Store{s, crashed, from} {
		apply(t, one, "set a 1", "body b/1 9999")
		require.NoError(t, one.Flush())
	}
	_, want := hashOf(t, from)
	_, have = hashOf(t, s)
	require.Equal(t, want, have)
	_, have = hashOf(t, crashed)
	require.Equal(t, want, have)
}

func TestInstallOnRealFiles(t *testing.T) {
	from := openStore(t, nil, t.TempDir())
	apply(t, from, "set a 1", "body b/1 500000", "body b/2 70000", "del b/1", "body b/3 300000")
	_, sum := hashOf(t, from)
	m, r, err := from.Snapshots().Open(live)
	require.NoError(t, err)
	apply(t, from, "del b/2", "body b/4 300000")
	require.NoError(t, from.Flush())
	s := openStore(t, nil, t.TempDir())
	require.NoError(t, receive(s, m, r))
	require.NoError(t, r.Close())
	_, have := hashOf(t, s)
	require.Equal(t, sum, have)
}

func TestReadersOutliveASwitch(t *testing.T) {
	from, _ := source(t, 100)
	apply(t, from, "set who leader")
	m, b := stream(t, from)
	s := openStore(t, vfs.NewMem(), "s")
	s.ApplyBatch([]*raft.Log{entryOf(1, "set who follower"), entryOf(2, "body b/x 10")})
	old := s.cur.name
	require.NoError(t, s.View(func(v spool.View) error {
		require.NoError(t, receive(s, m, bytes.NewReader(b)))
		who, err := v.R.Get([]byte("who"))
		require.NoError(t, err)
		require.Equal(t, "follower", string(who), "the view goes on where it began")
		require.Equal(t, "leader", value(t, s, "who"), "and a new one sees the new state")
		require.Contains(t, leftovers(t, s), old)
		return nil
	}))
	require.Eventually(t, func() bool { return len(leftovers(t, s)) == 0 }, time.Minute, time.Millisecond)
}

func TestViewsDuringSwitches(t *testing.T) {
	from, _ := source(t, 50)
	s := openStore(t, vfs.NewMem(), "s")
	stop := make(chan struct{})
	failed := make(chan error, 4)
	for range 4 {
		go func() {
			for {
				select {
				case <-stop:
					failed <- nil
					return
				default:
				}
				err := s.View(func(v spool.View) error {
					if _, err := v.R.Get([]byte("k/1")); err != nil {
						return err
					}
					return v.R.Scan(nil, nil, func(_, _ []byte) bool { return true })
				})
				if err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	for range 5 {
		apply(t, from, "set k/1 again")
		m, b := stream(t, from)
		from.forget()
		require.NoError(t, receive(s, m, bytes.NewReader(b)))
	}
	close(stop)
	for range 4 {
		require.NoError(t, <-failed)
	}
}

// A snapshot that is older than what is here changes nothing, but it must be
// durable: raft truncates its log behind it.
func TestInstallOfThePast(t *testing.T) {
	from, logs := source(t, 100)
	m, b := stream(t, from)
	fs := vfs.NewCrashableMem()
	s := openStore(t, fs, "s")
	s.ApplyBatch(logs)
	apply(t, s, "set newer 1")
	require.NoError(t, receive(s, m, bytes.NewReader(b)))
	require.Equal(t, m.Index+1, s.Applied())
	require.Equal(t, "1", value(t, s, "newer"))
	require.GreaterOrEqual(t, latest(t, s).Index, m.Index)
	require.Empty(t, leftovers(t, s))
	require.Equal(t, pb.Code_DUPLICATE, s.Apply(entryOf(m.Index+1, "set newer 2")).(*pb.Result).Code)
}

func TestEveryFlippedOctetIsRefused(t *testing.T) {
	from := openStore(t, vfs.NewMem(), "s")
	apply(t, from, "set a 1", "body b/1 6000")
	m, b := stream(t, from)
	to := openStore(t, vfs.NewMem(), "t")
	r := rand.New(rand.NewPCG(1, 9))
	for i := 0; i < len(b); i += 1 + r.IntN(40) {
		bad := slices.Clone(b)
		bad[i] ^= 1 << r.IntN(8)
		err := receive(to, m, bytes.NewReader(bad))
		require.ErrorIs(t, err, ErrStream, "octet %d of %d", i, len(b))
	}
	for _, n := range []int{0, 1, len(magic), 50, len(b) / 2, len(b) - 1} {
		require.Error(t, receive(to, m, bytes.NewReader(b[:n])), "cut at %d", n)
	}
	require.Error(t, receive(to, m, bytes.NewReader(append(slices.Clone(b), 0))))
	other := *m
	other.Index++
	require.ErrorIs(t, receive(to, &other, bytes.NewReader(b)), ErrStream)
	require.Empty(t, leftovers(t, to), "nothing is left of what was refused")
	require.Zero(t, to.Applied())
	require.NoError(t, receive(to, m, bytes.NewReader(b)))
}

// A leader whose own files are damaged must not spread it: the stream is whole,
// the blocks in it are not.
func TestDamagedFilesAreRefused(t *testing.T) {
	from := openStore(t, vfs.NewMem(), "s")
	apply(t, from, "set a 1", "body b/1 60000")
	require.NoError(t, from.Flush())
	one, err := from.checkpoint()
	require.NoError(t, err)
	defer from.putBack(one)
	for _, f := range one.files {
		if !strings.HasSuffix(f.name, ".sst") && !strings.HasSuffix(f.name, ".blob") {
			continue
		}
		path := from.fs.PathJoin(one.dir, f.name)
		whole := readFile(t, from.fs, path)
		bad := slices.Clone(whole)
		bad[30] ^= 1
		writeFile(t, from.fs, path, bad)
		m, err := describe(live, one.meta, one.size)
		require.NoError(t, err)
		to := openStore(t, vfs.NewMem(), "t")
		err = receive(to, m, newPacker(from.fs, one.dir, one.meta.encode(nil), one.files))
		require.Error(t, err, f.name)
		require.Zero(t, to.Applied())
		writeFile(t, from.fs, path, whole)
	}
}

func readFile(t testing.TB, fs vfs.FS, path string) []byte {
	f, err := fs.Open(path)
	require.NoError(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	return b
}

func writeFile(t testing.TB, fs vfs.FS, path string, b []byte) {
	require.NoError(t, fs.Remove(path)) // it may be a link
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	_, err = f.Write(slices.Clone(b))
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
}

func TestCancelledInstall(t *testing.T) {
	from, _ := source(t, 50)
	m, b := stream(t, from)
	s := openStore(t, vfs.NewMem(), "s")
	k, err := s.Snapshots().Create(1, m.Index, m.Term, m.Configuration, m.ConfigurationIndex, nil)
	require.NoError(t, err)
	_, err = k.Write(b[:len(b)/2])
	require.NoError(t, err)
	require.NoError(t, k.Cancel())
	require.Empty(t, leftovers(t, s))
	k, err = s.Snapshots().Create(1, m.Index, m.Term, m.Configuration, m.ConfigurationIndex, nil)
	require.NoError(t, err)
	require.NoError(t, k.Cancel())
}

func TestUnloadableStateIsRefused(t *testing.T) {
	from, _ := source(t, 50)
	m, b := stream(t, from)
	sorry := errors.New("sorry")
	fail := false
	s := openStore(t, vfs.NewMem(), "s", func(o *Options) {
		o.Load = func(r spool.Reader) (Machine, error) {
			if fail {
				return nil, sorry
			}
			return loadToy(r)
		}
	})
	apply(t, s, "set a 1")
	fail = true
	require.ErrorIs(t, receive(s, m, bytes.NewReader(b)), sorry)
	require.Equal(t, "1", value(t, s, "a"))
	apply(t, s, "set a 2")
	require.Eventually(t, func() bool { return len(leftovers(t, s)) == 0 }, time.Minute, time.Millisecond)
}

// Power fails at each step of an installation: the next start finds either the
// old state or the new one, whole, and no leftovers.
func TestCrashDuringInstall(t *testing.T) {
	from, logs := source(t, 120)
	index, _ := hashOf(t, from)
	m, b := stream(t, from)
	sums := model(t, logs)
	var steps []string
	for _, percent := range []int{0, 50, 100} {
		fs := vfs.NewCrashableMem()
		steps = nil
		s := openStore(t, fs, "s", func(o *Options) {
			o.step = func(name string) {
				steps = append(steps, name)
				r := rand.New(rand.NewPCG(uint64(percent), uint64(len(steps))))
				clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: r})
				checkCrashed(t, clone, name, index, sums)
			}
		})
		s.ApplyBatch(logs[:30])
		require.NoError(t, s.Flush())
		require.NoError(t, receive(s, m, bytes.NewReader(b)))
	}
	require.Equal(t, []string{"unpacked", "received", "renamed", "opened", "pointed", "taken"}, steps)
}

func checkCrashed(t *testing.T, fs *vfs.MemFS, step string, installed uint64, sums map[uint64][]byte) {
	s := openStore(t, fs, "s")
	index, sum := hashOf(t, s)
	require.Equal(t, sums[index], sum, step)
	require.Equal(t, index, latest(t, s).Index, "%s: the list says what is there", step)
	if step == "pointed" || step == "taken" {
		require.Equal(t, installed, index, step)
	}
	require.Empty(t, leftovers(t, s), step)
	require.NoError(t, s.Close())
}

func TestCheckpointsAreSharedAndExpire(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s", func(o *Options) { o.CheckpointLag = 2 })
	apply(t, s, "set a 1")
	m1, r1, err := s.Snapshots().Open(live)
	require.NoError(t, err)
	m2, r2, err := s.Snapshots().Open(live)
	require.NoError(t, err)
	require.Equal(t, m1, m2)
	require.Equal(t, 1, s.Metrics().Checkpoints)
	require.NoError(t, r2.Close())
	require.NoError(t, r2.Close())

	// A receiver that does not read holds up neither snapshots nor streams.
	apply(t, s, "set a 2", "set a 3", "set a 4")
	take(t, s, 4, 1, members("a"), 1)
	m3, r3, err := s.Snapshots().Open(live)
	require.NoError(t, err)
	require.EqualValues(t, 4, m3.Index, "too far behind to be sent again")
	require.Equal(t, 2, s.Metrics().Checkpoints)
	require.NoError(t, r3.Close())
	b, err := io.ReadAll(r1)
	require.NoError(t, err)
	require.EqualValues(t, m1.Size, len(b))
	require.NoError(t, r1.Close())
	require.Equal(t, 1, s.Metrics().Checkpoints)
}

func TestCheckpointMustReachTheLog(t *testing.T) {
	var oldest uint64
	s := openStore(t, vfs.NewMem(), "s", func(o *Options) { o.OldestLog = func() uint64 { return oldest } })
	apply(t, s, "set a 1")
	m, r, err := s.Snapshots().Open(live)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.EqualValues(t, 1, m.Index)
	apply(t, s, "set a 1", "set a 1")
	oldest = 3
	m, r, err = s.Snapshots().Open(live)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.EqualValues(t, 3, m.Index)
}

func TestCheckpointLifeIsLimited(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s", func(o *Options) {
		o.CheckpointAge = time.Millisecond
		o.CheckpointLife = 20 * time.Millisecond
	})
	apply(t, s, "body b/1 900000")
	_, r, err := s.Snapshots().Open(live)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := r.Read(make([]byte, 1))
		return errors.Is(err, ErrExpired)
	}, time.Minute, time.Millisecond)
	require.Zero(t, s.Metrics().Checkpoints)
	require.Empty(t, leftovers(t, s))
	require.NoError(t, r.Close())
	_, err = r.Read(nil)
	require.ErrorIs(t, err, ErrClosed)
}

func TestCloseEndsStreams(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s")
	apply(t, s, "set a 1")
	_, r, err := s.Snapshots().Open(live)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	_, err = r.Read(make([]byte, 1))
	require.ErrorIs(t, err, ErrExpired)
	require.NoError(t, r.Close())
	_, _, err = s.Snapshots().Open(live)
	require.ErrorIs(t, err, ErrClosed)
}

func TestRestoreOfTheLiveSnapshot(t *testing.T) {
	s, _ := source(t, 20)
	at := s.Applied()
	_, r, err := s.Snapshots().Open(live)
	require.NoError(t, err)
	require.NoError(t, s.Restore(wrapped{r}))
	require.NoError(t, r.Close())
	require.Equal(t, at, s.Applied())
}
