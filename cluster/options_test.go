package cluster

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Without a tuning the leader raises the cluster version when all nodes have been
// able to for an hour.
func TestTheVersionIsRaisedAfterAnHour(t *testing.T) {
	require.Equal(t, time.Hour, Tuning{}.withDefaults().UpgradeAfter)
}
