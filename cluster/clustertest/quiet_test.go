package clustertest_test

import (
	"testing"
	"time"

	"relay/cluster/clustertest"
)

// TestQuietFollowersMissNothing: an AppendEntries that tells a follower nothing may be
// kept back for an hour here, so that whatever fails to wake it shows.
func TestQuietFollowersMissNothing(t *testing.T) {
	t.Parallel()
	tuning := clustertest.Quick()
	tuning.Quiet = time.Hour
	g := clustertest.New(t, clustertest.Options{Tuning: tuning})
	number := 0
	spread := func(nodes ...*clustertest.Node) {
		t.Helper()
		for _, n := range nodes {
			g.WaitReady(n)
			kind, h := putRoute(number)
			clustertest.Propose(t.Context(), t, n, kind, h)
			number++
			g.WaitEqual()
		}
	}
	for range 5 {
		spread(g.Nodes()...)
	}
	for _, n := range g.Nodes() { // each leads once
		n.Kill()
		spread(g.Up()...)
		n.Start()
		spread(g.Nodes()...)
		g.Eventually("leadership is not handed over", func() bool {
			_ = g.Leader().C().Transfer(t.Context(), n.ID)
			return g.Leader() == n
		})
		spread(g.Nodes()...)
	}
	old := g.Followers()[0]
	g.Remove(g.Leader(), old.ID)
	old.Stop()
	spread(g.Up()...)
	g.Add(g.Leader())
	g.WaitVoters(3)
	spread(g.Up()...)
}
