package tuning

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// Without a tuning the leader raises the cluster version when all nodes have been
// able to for an hour.
func TestTheVersionIsRaisedAfterAnHour(t *testing.T) {
	require.Equal(t, time.Hour, Tuning{}.WithDefaults().UpgradeAfter)
}

func TestRaftConfigurationIsAsDesigned(t *testing.T) {
	c := Tuning{}.WithDefaults().RaftConfig("n", zap.NewNop())
	require.NoError(t, raft.ValidateConfig(c))
	require.True(t, c.NoSnapshotRestoreOnStart)
	require.True(t, c.BatchApplyCh)
	require.False(t, c.ShutdownOnRemove)
	require.Equal(t, MaxGroup, c.MaxAppendEntries)
	require.Equal(t, 10*time.Millisecond, c.CommitTimeout)
	require.GreaterOrEqual(t, c.HeartbeatTimeout, time.Second, "heartbeats wait behind disk writes")
}

func TestLatencyMakesTimesLonger(t *testing.T) {
	d := Tuning{Latency: 200 * time.Millisecond}.WithDefaults()
	require.Equal(t, 2800*time.Millisecond, d.Heartbeat)
	require.Equal(t, 2800*time.Millisecond, d.Election)
	require.Equal(t, 2400*time.Millisecond, d.LeaderLease)
	require.Equal(t, 14*time.Second, d.Deadline)
	require.Equal(t, 4*time.Second, d.Lease, "of version 1: all nodes agree")
	require.NoError(t, raft.ValidateConfig(d.RaftConfig("n1", zap.NewNop())))
	d = Tuning{}.WithDefaults()
	require.Equal(t, []time.Duration{1200 * time.Millisecond, 1200 * time.Millisecond, time.Second, 10 * time.Second},
		[]time.Duration{d.Heartbeat, d.Election, d.LeaderLease, d.Deadline})
}
