package nodetest

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

// TestDrainOfTwo: in a cluster of two the leader can be drained, the other one not,
// too; an operator who stops a drained one is told what that means, and a dead one is
// shown dead without a majority, is not drained, and can be taken back.
func TestDrainOfTwo(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: Quick(), Nodes: 2})
	ctx := within(t, 3*time.Minute)
	n := c.Leader()
	other := c.Nodes[0]
	if other == n {
		other = c.Nodes[1]
	}
	api := other.Client()
	defer api.Close()
	c.Eventually(time.Minute, "the advice that none may fail", func() bool { // once both answer, and vote
		s, err := api.Status(ctx)
		return err == nil && s.MayFail == 0 &&
			strings.Contains(strings.Join(s.Advice, "\n"), "of 2 voting nodes none may fail")
	})
	change, err := api.Drain(ctx, maintainer, n.ID, admin.DrainOptions{Notice: time.Minute})
	require.NoError(t, err)
	require.Contains(t, strings.Join(change.Effects, "\n"), "when it is stopped the cluster stops, too")
	change, err = api.Drain(ctx, maintainer, n.ID, admin.DrainOptions{}) // in a hurry now
	require.NoError(t, err)
	require.Contains(t, change.Effects, "it is being drained already")
	c.Eventually(time.Minute, "it is never drained, and the other one leads", func() bool {
		return other.at(n.ID).State == admin.NodeDrained && other.at(other.ID).Role == admin.RoleLeader
	})
	_, err = api.Drain(ctx, maintainer, other.ID, admin.DrainOptions{})
	require.ErrorIs(t, err, admin.ErrConflict, "the last one stays in service")
	_, err = api.Transfer(ctx, maintainer, n.ID)
	require.ErrorContains(t, err, "is being drained", "it does not get the leadership back")

	n.Kill()
	c.Eventually(time.Minute, "the dead node is not shown",
		func() bool { return other.at(n.ID).State == admin.NodeDead })
	s, err := api.Status(ctx)
	require.NoError(t, err)
	require.Contains(t, strings.Join(s.Problems, "\n"), "1 of 2 voting nodes answer, and 2 are needed")
	n.Start()
	c.Eventually(time.Minute, "the mark is gone", func() bool { return other.at(n.ID).State == admin.NodeDrained })
	_, err = api.Drain(ctx, maintainer, n.ID, admin.DrainOptions{Off: true})
	require.NoError(t, err)
	n.WaitReady()
}
