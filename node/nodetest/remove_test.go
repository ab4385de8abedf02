package nodetest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

// The removal of the leader is no refusal: the leadership moves first, as the dry run
// says, and the others go on.
func TestRemovalOfTheLeader(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: Quick(), Nodes: 2})
	leader := c.Leader()
	other := c.Nodes[0]
	if other == leader {
		other = c.Nodes[1]
	}
	ctx, by := within(t, 3*time.Minute), admin.By{Why: "test"}
	would, err := leader.Client().Remove(ctx, by, leader.ID, admin.RemoveOptions{DryRun: true})
	require.NoError(t, err)
	require.Contains(t, would.Effects, "the leadership moves to another node first")
	require.Equal(t, leader, c.Leader(), "a dry run")
	leader.goes.Store(true)
	_, err = other.Client().Remove(ctx, by, leader.ID, admin.RemoveOptions{})
	require.NoError(t, err)
	c.Eventually(time.Minute, "it does not lead", func() bool {
		s, err := other.Client().Status(ctx)
		return err == nil && s.Nodes[0].ID == other.ID && s.Nodes[0].Role == admin.RoleLeader && len(s.Nodes) == 1
	})
	require.NotEmpty(t, other.MustSend("s@far.example", "alice@example.test", Letter("after")))
}
