package cluster_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"relay/cluster"
	"relay/cluster/clustertest"
	pb "relay/cluster/spool/spoolpb"
)

// steadyLeader is for tests that are about one leader: on a busy machine, too, it stays.
func steadyLeader() cluster.Tuning {
	t := clustertest.Quick()
	t.Heartbeat, t.Election, t.LeaderLease = 3*time.Second, 3*time.Second, 3*time.Second
	return t
}

// TestMembersChangedSinceTheDecision: a removal, or the entry of a node, that was decided
// on other members than there are now is not made, and its end says that it may be
// decided again.
func TestMembersChangedSinceTheDecision(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{Tuning: steadyLeader()})
	leader := g.Leader().C()
	gone, other := g.Followers()[0], g.Followers()[1]
	remove := leader.DecideRemoval(t.Context(), gone.ID)
	enter := leader.DecideEntry(t.Context(), "n9", "127.0.0.1:1")
	require.NoError(t, leader.DecideRemoval(t.Context(), other.ID)())

	require.ErrorIs(t, remove(), cluster.ErrChanged, "two removals, each decided on three voters")
	err := enter()
	require.ErrorIs(t, err, cluster.ErrChanged)
	require.NotErrorIs(t, err, cluster.ErrUnknown)
	s, err := leader.Status(t.Context())
	require.NoError(t, err)
	for _, m := range s.Members {
		require.Equal(t, m.ID == other.ID, m.Role == "removed", m.ID)
	}
	require.NoError(t, leader.DecideEntry(t.Context(), "n9", "127.0.0.1:1")(), "decided again")
}

// TestOnlyTheIndexHasChanged: the same servers under another index are what was decided
// on.
func TestOnlyTheIndexHasChanged(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{Tuning: steadyLeader()})
	leader := g.Leader().C()
	remove := leader.DecideRemoval(t.Context(), g.Followers()[0].ID)
	g.Eventually("the last promotion is applied", func() bool { return leader.ChangeConfiguration(0) == nil })
	require.NoError(t, remove())
}

// TestJoinGoesOnWhereMembersChange: a node that joins while the members change asks
// again by itself, with one token of one use.
func TestJoinGoesOnWhereMembersChange(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{Nodes: 2, Tuning: steadyLeader()})
	leader := g.Leader()
	token, err := leader.C().Token(t.Context(), 1, time.Minute, &pb.Admin{Who: "test"})
	require.NoError(t, err)
	core, said := observer.New(zap.InfoLevel)
	joined := make(chan error, 1)
	go func() {
		joined <- cluster.Join(t.Context(), cluster.JoinOptions{
			ID: "n7", Dir: filepath.Join(t.TempDir(), "data"), Advertise: "127.0.0.1:1", Token: token, Addr: leader.Addr,
			Log: zap.New(core),
		})
	}()
	for said.Len() == 0 { // until it had to ask again, or was let in
		for _, act := range []func() error{
			leader.C().DecideEntry(t.Context(), "n9", "127.0.0.1:2"), leader.C().DecideRemoval(t.Context(), "n9"),
		} {
			if err := act(); err != nil {
				require.ErrorIs(t, err, cluster.ErrChanged)
			}
		}
	}
	t.Log(said.All()[0].ContextMap())
	require.NoError(t, <-joined)
	require.NotEmpty(t, said.FilterMessage("cluster: joined").All())
}
