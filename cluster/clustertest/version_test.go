package clustertest_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster"
	"relay/cluster/clustertest"
)

func TestJoinOfABuildThatIsTooOld(t *testing.T) {
	g := clustertest.New(t, clustertest.Options{Nodes: 1})
	token, err := g.Node(0).C().Token(t.Context(), 1, time.Minute, operator)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	o := cluster.JoinOptions{
		ID: "n9", Dir: filepath.Join(t.TempDir(), "data"), Advertise: "127.0.0.1:1", Token: token, Addr: g.Node(0).Addr,
		Log: zap.NewNop(), MaxVersion: 1,
	}
	err = cluster.Join(ctx, o)
	require.ErrorIs(t, err, cluster.ErrTooOld)
	require.ErrorContains(t, err, "the cluster version is 2, and the relayd of n9 knows 1 to 1: install the relayd that the members run")
	o.MaxVersion = 0
	require.NoError(t, cluster.Join(ctx, o), "the token was not used up")
}
