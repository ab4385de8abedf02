package cluster_test

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/cluster/clustertest"
	"relay/cluster/timetest"
)

// TestCopyNeverVotes: a copy that is not vetted answers none of raft's calls,
// and its term stands still; as a second n3 it would give a second vote.
func TestCopyNeverVotes(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	leader, n := g.Leader(), g.Followers()[0]
	n.Stop()
	image := n.Image()
	n.Start()
	g.WaitReady(n)
	beside := n.Clone(image)
	beside.Start()
	g.Eventually("the copy goes on", func() bool { return beside.Fatal() != nil })
	term, lastTerm, last := beside.C().Place()
	for name, call := range calls(leader.ID, term+1, last, lastTerm) {
		from, err := cluster.Impostor(leader.Dir, n.ID, beside.Addr)
		require.NoError(t, err)
		require.ErrorContains(t, call(from, raft.ServerID(n.ID)), "not vetted", name)
		_ = from.Close()
	}
	// It stands for election by its own timers, and reaches nobody.
	g.Eventually("the copy does not stand", func() bool {
		s, err := beside.C().Status(t.Context())
		return err == nil && s.State == "candidate"
	})
	now, _, _ := beside.C().Place()
	require.Equal(t, term, now, "it voted for itself")
	g.WaitReady(n)
	require.NoError(t, n.Fatal())
}

// TestOlderThanItsPromise: the copy knows the newest registration, as one of a
// running node does, but its log is shorter than what the node has acknowledged.
func TestOlderThanItsPromise(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	l := g.NewLedger()
	n := g.Followers()[0]
	n.Kill()
	image := n.Image()
	n.Start()
	g.WaitReady(n)
	for range 20 {
		l.MustSend(n, 1000)
	}
	g.WaitEqual()
	g.Eventually("the others have not heard how far the log goes",
		func() bool { return toldPast(t, g.Leader(), n.ID, 20) })
	n.Kill()
	require.NoError(t, cluster.Graft(n.Dir, image))
	n.Restore(image)
	n.Start()
	g.Eventually("a node from the past goes on", func() bool { return n.Fatal() != nil })
	require.ErrorIs(t, n.Fatal(), cluster.ErrCopy)
	require.ErrorContains(t, n.Fatal(), "older than what node "+n.ID+" has promised")
}

// TestManyUnansweredRegistrations: the newest was taken, but its answer was lost, as
// those of all before it. The node must not forget that one.
func TestManyUnansweredRegistrations(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	n := g.Followers()[0]
	for range 2 { // also when the first start was killed before it registered
		n.Kill()
		require.NoError(t, cluster.Unanswered(n.Dir, 16))
		n.Start()
		g.WaitReady(n)
		require.NoError(t, n.Fatal())
	}
}

// TestConfigurationIsComparedBeforeItIsChanged: a caller that looked at it before the
// last change of it must look again.
func TestConfigurationIsComparedBeforeItIsChanged(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{Nodes: 2})
	leader := g.Leader().C()
	g.Eventually("the last promotion is applied", func() bool { return leader.ChangeConfiguration(0) == nil })
	require.ErrorContains(t, leader.ChangeConfiguration(1), "configuration changed since")
}

// TestOldWordsDoNotEndARunningNode: a node that hears no leader asks who the
// members are. Until they answer it may have voted, registered, and taken more of
// the log, so that it seems older than it is.
func TestOldWordsDoNotEndARunningNode(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	n := g.Followers()[0]
	g.Eventually("the others know this node's log", func() bool { return toldPast(t, g.Leader(), n.ID, 1) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, n.C().Reintroduce(ctx))
	g.WaitReady(n)
	require.NoError(t, n.Fatal())
}

// TestLeaderWithoutAQuorumAnswersHello: the node that starts is the one that it
// misses, and waits no longer than helloTime for the answer.
func TestLeaderWithoutAQuorumAnswersHello(t *testing.T) {
	g := clustertest.New(t, clustertest.Options{})
	leader, gone := g.Leader(), g.Followers()
	for _, n := range gone {
		n.Kill()
	}
	began, machine := time.Now(), timetest.Watch(t)
	require.NoError(t, leader.C().AnswerHello(t.Context(), gone[0].ID))
	require.Less(t, time.Since(began), 1500*time.Millisecond+4*machine.Lost())
}

// toldPast reports whether a node's session says that its log goes beyond an index.
func toldPast(t *testing.T, at *clustertest.Node, node string, index uint64) bool {
	_, _, last := at.C().Place()
	return last > index && at.C().Told(node) > index
}
