package clustertest_test

import (
	"path/filepath"
	"testing"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/stretchr/testify/require"

	"relay/cluster/clustertest"
)

// TestPromisesAreSealedFromVersion2On: an older build reads the disk of a node of
// version 1 as ever. From version 2 on term and vote carry checksums.
func TestPromisesAreSealedFromVersion2On(t *testing.T) {
	t.Parallel()
	for _, version := range []uint32{1, 2} {
		g := clustertest.New(t, clustertest.Options{Nodes: 1, FoundAt: version})
		n := g.Node(0)
		g.Eventually("the cluster is not of its version", func() bool { return n.C().At(version) })
		n.Stop()
		n.Start()
		g.WaitReady(n)
		n.Stop()
		db, err := raftboltdb.NewBoltStore(filepath.Join(n.Dir, "raft", "raft.db"))
		require.NoError(t, err)
		vote, err := db.Get([]byte("vote"))
		require.NoError(t, err)
		require.Equal(t, version == 1, len(vote) > 8, "what an older build takes for the vote: %x", vote)
		require.NoError(t, db.Close())
		n.Start()
		g.WaitReady(n)
	}
}
