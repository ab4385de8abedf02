package disk

import (
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// Power fails at random points under a random load. The state found afterwards must be
// a prefix of the log, it must say which, and the log must bring it to the same end as
// if nothing had happened.
func TestCrashAtRandomPoints(t *testing.T) {
	t.Parallel()
	seeds := uint64(12)
	if testing.Short() {
		seeds = 6
	}
	for seed := range seeds {
		crashes(t, seed)
	}
}

func crashes(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 77))
	logs := workload(seed, 250)
	sums := model(t, logs)
	end := logs[len(logs)-1].Index
	fs := vfs.NewCrashableMem()
	percent := []int{0, 30, 100}[r.IntN(3)]
	truncated := uint64(0) // raft has promised itself not to need what is before
	for {
		s := openStore(t, fs, "s", func(o *Options) { o.MemTableSize = int64(64<<10 + r.IntN(200<<10)) })
		index, sum := hashOf(t, s)
		require.Equal(t, sums[index], sum, "seed %d: state is not that of index %d", seed, index)
		require.Equal(t, index, latest(t, s).Index)
		require.GreaterOrEqual(t, index, truncated, "seed %d: the log does not reach back", seed)
		if index == end {
			require.NoError(t, s.Close())
			return
		}
		from := index // raft replays from the listed snapshot, or from further back
		if r.IntN(3) == 0 {
			from = truncated
		}
		for _, b := range ranges(r, after(logs, from), 40) {
			s.ApplyBatch(b)
			if r.IntN(6) == 0 && s.Applied() > 0 {
				take(t, s, s.Applied(), s.meta.term, members("a"), 1)
				truncated = s.Applied()
			}
			if r.IntN(5) == 0 {
				break
			}
		}
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: r})
		require.NoError(t, s.Close())
		fs = crashed
	}
}

// The first start is cut off at any write: the next one works.
func TestCrashDuringFirstStart(t *testing.T) {
	for seed := range uint64(20) {
		fs := vfs.NewCrashableMem()
		s := openStore(t, fs, "s")
		r := rand.New(rand.NewPCG(seed, 5))
		fs = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(seed) * 5, RNG: r})
		require.NoError(t, s.Close())
		s = openStore(t, fs, "s")
		require.Zero(t, s.Applied())
		apply(t, s, "set a 1")
		require.NoError(t, s.Close())
		s = openStore(t, fs, "s")
		require.Equal(t, "1", value(t, s, "a"))
	}
}

func TestLostPointer(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs, "s")
	apply(t, s, "set a 1")
	require.NoError(t, s.Close())
	require.NoError(t, fs.Remove("s/"+current))
	s = openStore(t, fs, "s")
	require.Equal(t, "1", value(t, s, "a"), "the only database is the one that is meant")
	require.NoError(t, s.Close())

	require.NoError(t, fs.Remove("s/"+current))
	require.NoError(t, fs.MkdirAll("s/db-0000000000000099", 0o700))
	_, err := Open("s", small(t, fs))
	require.ErrorContains(t, err, "missing", "it is not guessed which database is meant")

	for _, bad := range []string{"", "db-1", "db-0000000000000001 00000000\n", "../x 1\n", "db-0000000000000001"} {
		f, err := fs.Create("s/"+current, vfs.WriteCategoryUnspecified)
		require.NoError(t, err)
		_, err = f.Write([]byte(bad))
		require.NoError(t, err)
		require.NoError(t, f.Close())
		_, err = Open("s", small(t, fs))
		require.ErrorContains(t, err, "damaged", bad)
	}
	f, err := fs.Create("s/"+current, vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	_, err = f.Write(formatCurrent("db-0000000000000055"))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, err = Open("s", small(t, fs))
	require.ErrorContains(t, err, "db-0000000000000055")
}

func TestLeftoversAreReaped(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs, "s")
	apply(t, s, "set a 1")
	name := s.cur.name
	require.NoError(t, s.Close())
	for _, d := range []string{"db-0000000000000007", "in-0000000000000008", "ck-0000000000000031"} {
		require.NoError(t, fs.MkdirAll("s/"+d, 0o700))
	}
	require.NoError(t, fs.MkdirAll("s/other", 0o700))
	s = openStore(t, fs, "s")
	require.Equal(t, []string{"other"}, leftovers(t, s))
	require.Equal(t, name, s.cur.name)
	require.Equal(t, "1", value(t, s, "a"))
	require.Equal(t, "db-0000000000000032", s.dir.fresh(prefixDB), "names are not used twice")
}
