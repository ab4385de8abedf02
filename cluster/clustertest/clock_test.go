package clustertest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/clustertest"
)

// TestALeaderWithAWrongClockHandsOver, and the cluster's time stays where it was.
func TestALeaderWithAWrongClockHandsOver(t *testing.T) {
	g := clustertest.New(t, clustertest.Options{})
	wrong := g.Leader()
	wrong.Skew(10 * 24 * time.Hour)
	g.Eventually("another one leads", func() bool {
		for _, n := range g.Up() {
			if n.C().Leads() && n != wrong {
				return true
			}
		}
		return false
	})
	for _, n := range g.Nodes() {
		require.WithinDuration(t, time.Now(), n.C().Now(), 5*time.Second, "%s", n.ID)
		require.Zero(t, n.C().Clock().Jumps)
	}
	require.InDelta(t, (10 * 24 * time.Hour).Seconds(), wrong.C().Clock().Offset.Seconds(), 5)
	g.Eventually("ages count", func() bool { return wrong.C().Ageing() })
	err := g.Leader().C().Transfer(t.Context(), wrong.ID)
	require.ErrorContains(t, err, "node "+wrong.ID+"'s clock is 240h0m")
	wrong.Skew(0)
	g.Eventually("it may lead again", func() bool { return g.Leader().C().Transfer(t.Context(), wrong.ID) == nil })
	g.WaitEqual()
}
