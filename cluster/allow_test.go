package cluster

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/fault"
)

// TestLaggingNodeLetsItsLeaderIn: its record of the leader's certificate is old, and
// the new one stands behind what it has yet to get from that leader.
func TestLaggingNodeLetsItsLeaderIn(t *testing.T) {
	noLeader := fmt.Errorf("%w: no read index: %w", fault.ErrUnavailable, context.DeadlineExceeded)
	require.True(t, mustBelieve("n1", "n1", noLeader), "the leader by another connection")
	require.False(t, mustBelieve("n2", "n1", noLeader))
	require.True(t, mustBelieve("n2", "n1", context.DeadlineExceeded), "this node lags")
}
