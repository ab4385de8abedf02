package clustertest_test

import (
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"relay/cluster/clustertest"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// deletedBody makes a body of 6 MiB that is deleted again.
func deletedBody(t *testing.T, g *clustertest.Group) {
	id := ulid.Make()
	chunk := make([]byte, 128<<10)
	for seq := range uint32(48) {
		for i := range chunk {
			chunk[i] = byte(uint32(i)*uint32(i)>>3 + seq)
		}
		res := clustertest.Propose(t.Context(), t, g.Leader(), spool.KindChunk, &pb.Chunk{Id: id[:], Seq: seq}, chunk)
		require.Contains(t, []pb.Code{pb.Code_OK, pb.Code_DUPLICATE}, res.Code, "the chunk is there: %s", res.Text)
	}
	g.WaitEqual()
	// Nobody claims the body.
	res := clustertest.Propose(t.Context(), t, g.Leader(), spool.KindSweep,
		&pb.Sweep{Limit: 10, Ages: true, OrphansAgeMs: 1})
	require.EqualValues(t, 1, res.Count)
	g.WaitEqual()
}

// TestShortDiskGivesBodiesBack: on a node whose disk is short of space the place of
// bodies that were deleted is free again at once.
func TestShortDiskGivesBodiesBack(t *testing.T) {
	t.Parallel()
	tuning := clustertest.Quick()
	tuning.MemTable = 4 << 20
	g := clustertest.New(t, clustertest.Options{Tuning: tuning})
	deletedBody(t, g)
	bodies := func(n int) int64 {
		_, m := g.Node(n).C().Metrics()
		return m.BodyBytes
	}
	require.Greater(t, bodies(0), int64(2<<20))
	g.Node(0).C().SetShort(true)
	g.Eventually("the body stays on the disk", func() bool { return bodies(0) < 512<<10 })
	require.Greater(t, bodies(1), int64(2<<20), "the disk of this node is not short")
}

// TestShortDiskShortLog: a node whose disk is short of space keeps a short log.
func TestShortDiskShortLog(t *testing.T) {
	t.Parallel()
	tuning := clustertest.Quick()
	tuning.LogBytes, tuning.Trailing = 8<<20, 16
	g := clustertest.New(t, clustertest.Options{Tuning: tuning})
	deletedBody(t, g)
	size := func(n int) int64 {
		s, err := g.Node(n).C().Status(t.Context())
		require.NoError(t, err)
		return s.LogBytes
	}
	g.Node(0).C().SetShort(true)
	g.Eventually("the log stays long", func() bool { return size(0) < tuning.LogBytes/4 })
	require.Greater(t, size(1), int64(5<<20), "the disk of this node is not short")
}
