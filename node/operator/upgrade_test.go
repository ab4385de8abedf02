package operator

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/node/admin"
)

func TestUpgrade(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.members.upgrade = cluster.Upgrade{Version: 1, Next: 2, In: 43 * time.Minute}
	s, err := w.Status(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, s.ClusterVersion)
	require.Equal(t, "cluster version 1, all nodes can 2: raised in 43 min; no way back after that", s.Upgrade)

	change, err := w.Upgrade(ctx, theBy, admin.UpgradeOptions{DryRun: true})
	require.NoError(t, err)
	require.Contains(t, change.Effects[0], "rises from 1 to 2; there is no way back")
	require.EqualValues(t, 1, w.members.upgrade.Version, "a dry run changes nothing")

	_, err = w.Upgrade(ctx, theBy, admin.UpgradeOptions{Hold: true})
	require.NoError(t, err)
	_, err = w.Upgrade(ctx, theBy, admin.UpgradeOptions{})
	require.ErrorContains(t, err, "held")
	_, err = w.Upgrade(ctx, theBy, admin.UpgradeOptions{Release: true})
	require.NoError(t, err)
	_, err = w.Upgrade(ctx, theBy, admin.UpgradeOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 2, w.members.upgrade.Version)
	_, err = w.Upgrade(ctx, theBy, admin.UpgradeOptions{})
	require.ErrorContains(t, err, "2 already")
}
