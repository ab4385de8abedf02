package cluster_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/clustertest"
)

// TestAStateThatCatchesUpEndsTheWait: a node that starts hears of a session in its way
// before its state has it, and takes it for one that may hold for as long as any. Once the
// state is past it, and it is over there, there is nothing to wait for.
func TestAStateThatCatchesUpEndsTheWait(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t, clustertest.Options{Nodes: 1}).Node(0).C()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // less than spool.MaxLease
	defer cancel()
	c.AwaitEnd(ctx, c.Applied()+3) // renewals bring the state there
	require.NoError(t, ctx.Err(), "it waits for as long as any session may hold")
}
