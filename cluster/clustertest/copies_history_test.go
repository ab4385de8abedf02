package clustertest_test

import (
	"testing"

	"relay/cluster/clustertest"
)

// TestLocksAmongCopies: clients fight for mailboxes while a copy of a follower runs
// beside it, also in an election in which it would be a second vote, and then a
// directory from the past comes in the follower's place. No mailbox ever has two
// holders, and all that clients were told fits one history.
func TestLocksAmongCopies(t *testing.T) {
	t.Parallel()
	h := newLockHistory()
	g := clustertest.New(t, clustertest.Options{OnChanges: h.changed})
	fight(t, g, h, 2, func() {
		leader, n := g.Leader(), g.Followers()[0]
		n.Stop()
		past := n.Image()
		n.Start()
		g.WaitReady(n)
		beside := n.Clone(past)
		beside.Start()
		leader.Kill()
		refused(t, g, beside)
		beside.Stop() // as its process would
		g.Leader(others(g, leader)...)
		leader.Start()
		g.WaitReady(leader)

		n.Kill()
		good := n.Image()
		n.Restore(past)
		n.Start()
		refused(t, g, n)
		n.Stop()
		n.Restore(good)
		n.Start()
		g.WaitReady(g.Nodes()...)
	})
}
