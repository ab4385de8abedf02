package disk

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
)

const octets = 20 << 10 // of a body

// quiet has Pebble compact nothing of itself: its work in a test depends on its
// timing.
func quiet(o *Options) { o.tune = func(p *pebble.Options) { p.DisableAutomaticCompactions = true } }

func putBodies(t testing.TB, s *Store, n int) (ids []spool.ID) {
	for i := range n {
		id := ulid.Make()
		putBody(t, s, id, bodyOf(fmt.Sprint(i), octets))
		ids = append(ids, id)
	}
	return ids
}

func deleteBodies(t testing.TB, s *Store, ids ...spool.ID) {
	for _, id := range ids {
		require.NoError(t, direct{s}.Update(func(b spool.Batch) error { return b.DeleteSized(chunkKey(id, 0), octets) }))
	}
}

// TestReclaim: bodies that were deleted leave the disk when that is asked for, and all
// others stay.
func TestReclaim(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s", quiet, func(o *Options) { o.ReclaimFrom = 1 << 20 })
	ids := putBodies(t, s, 400)
	require.NoError(t, s.Flush())
	_, err := s.Reclaim(t.Context())
	require.NoError(t, err)
	was := s.Metrics().BodyBytes
	require.Greater(t, was, int64(7<<20))

	deleteBodies(t, s, ids[:300]...)
	require.EqualValues(t, was, s.Metrics().BodyBytes, "nobody has asked for space")
	_, err = s.Reclaim(t.Context())
	require.NoError(t, err)
	// The blob file at the border may be too young to be rewritten.
	require.Less(t, s.Metrics().BodyBytes, int64(101*octets+512<<10))
	for i, id := range ids[300:] {
		r, err := s.OpenBody(id, 1, nil)
		require.NoError(t, err, i)
		require.NoError(t, r.Close())
	}

	did, err := s.Reclaim(t.Context())
	require.NoError(t, err)
	require.False(t, did, "there is nothing left to gain")
	deleteBodies(t, s, ids[300:320]...)
	did, err = s.Reclaim(t.Context())
	require.NoError(t, err)
	require.False(t, did, "that is too little")
	require.EqualValues(t, 100*octets, s.Metrics().BodyLiveBytes)
	deleteBodies(t, s, ids[320:380]...)
	_, err = s.Reclaim(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 20*octets, s.Metrics().BodyLiveBytes, "it adds up")
}

// TestReclaimAfterRestart: a deletion of another life is found in the tables.
func TestReclaimAfterRestart(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs, "s", quiet)
	ids := putBodies(t, s, 400)
	require.NoError(t, s.Flush())
	deleteBodies(t, s, ids...)
	require.NoError(t, s.Close())
	s = openStore(t, fs, "s", quiet)
	require.Greater(t, s.Metrics().BodyBytes, int64(7<<20))
	_, err := s.Reclaim(t.Context())
	require.NoError(t, err)
	require.Zero(t, s.Metrics().BodyBytes)
}

// TestReclaimRewrites: of scattered deletions the space comes back, too, when the
// disk is short, although the garbage is less than what is rewritten for else.
func TestReclaimRewrites(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s", func(o *Options) {
		o.ReclaimFrom = 1 << 20
		o.tune = func(p *pebble.Options) {
			policy := p.Experimental.ValueSeparationPolicy
			p.Experimental.ValueSeparationPolicy = func() pebble.ValueSeparationPolicy {
				v := policy()
				v.RewriteMinimumAge = 0
				return v
			}
		}
	})
	ids := putBodies(t, s, 400)
	require.NoError(t, s.Flush())
	was := s.Metrics().BodyBytes
	for i := 0; i < len(ids); i += 4 {
		deleteBodies(t, s, ids[i])
	}
	_, err := s.Reclaim(t.Context())
	require.NoError(t, err)
	require.Equal(t, was, s.Metrics().BodyBytes, "a quarter is not worth it")
	s.SetShort(true)
	s.reclaiming.at = time.Now().Add(-time.Hour)
	putBodies(t, s, 1)
	_, err = s.Reclaim(t.Context())
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.Metrics().BodyBytes < was*85/100 }, time.Minute, time.Millisecond)
}

// crowded is a disk with little space left.
type crowded struct {
	vfs.FS
	free atomic.Uint64
}

func (c *crowded) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: c.free.Load(), TotalBytes: 1 << 40}, nil
}

// TestReclaimNeedsRoom: on a disk that is full to the brim no compaction is begun,
// for it takes before it gives.
func TestReclaimNeedsRoom(t *testing.T) {
	fs := &crowded{FS: vfs.NewMem()}
	fs.free.Store(100 << 10)
	s := openStore(t, fs, "s", quiet)
	ids := putBodies(t, s, 400)
	deleteBodies(t, s, ids...)
	require.NoError(t, s.Flush())
	was := s.Metrics().BodyBytes
	require.Greater(t, was, int64(7<<20))
	did, err := s.Reclaim(t.Context())
	require.NoError(t, err)
	require.False(t, did)
	fs.free.Store(8 << 20)
	s.reclaiming.at = time.Now().Add(-reclaimAgain)
	_, err = s.Reclaim(t.Context())
	require.NoError(t, err)
	require.Zero(t, s.Metrics().BodyBytes)
}

func TestPieces(t *testing.T) {
	p := func(lo, hi string, size uint64) piece { return piece{[]byte(lo), []byte(hi), size} }
	const m = reclaimStep
	united := unite([]piece{p("e", "g", 0), p("a", "c", 0), p("c", "d", 0), p("f", "f5", 0)})
	require.Equal(t, []piece{p("a", "d", 0), p("e", "g", 0)}, united)
	tables := []piece{p("a", "c", m), p("d", "f", m/2), p("g", "i", m/2), p("j", "l", m), p("b", "k", 10)}
	cuts := [][]byte{[]byte("c"), []byte("f"), []byte("i"), []byte("l")}
	require.Equal(t, []piece{p("a1", "c", m+10), p("c\x00", "i", m+10), p("i\x00", "k\x00", m+10)},
		divide([]piece{p("a1", "k", 0)}, cuts, tables))
	require.Equal(t, []piece{p("d", "d\x00", m/2+10)}, divide([]piece{p("d", "d", 0)}, cuts, tables))
}
