package cluster_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/clustertest"
)

// TestNobodyKnowsWhoseClockIsWrong: a node without a leader was off for an hour, by its
// own clock, and compares that with nothing. With the others back and off as long, no
// clock is wrong, before the time has jumped as afterwards; one that is an hour off from
// them is.
func TestNobodyKnowsWhoseClockIsWrong(t *testing.T) {
	g := clustertest.New(t, clustertest.Options{})
	n := g.Node(0)
	g.Eventually("it compares", func() bool { _, known := n.C().CompareClock(); return known })
	for _, m := range g.Nodes() {
		m.KillHere()
		m.Skew(time.Hour)
	}
	n.Start()
	until := time.Now().Add(2 * clustertest.Quick().Heartbeat)
	for ; time.Now().Before(until); <-time.After(10 * time.Millisecond) {
		require.InDelta(t, time.Hour, n.C().Clock().Offset, float64(time.Minute), "to where the state's time stood")
		_, known := n.C().CompareClock()
		require.False(t, known, "without a leader")
	}
	for _, m := range g.Nodes()[1:] {
		m.Start()
	}
	var wrong time.Duration // what it would have said
	g.Eventually("the time jumps", func() bool {
		offset, known := n.C().CompareClock()
		if known {
			wrong = max(wrong, offset.Abs())
		}
		return known && n.C().Clock().Offset.Abs() < time.Second
	})
	require.Less(t, wrong, 5*time.Second, "no clock of three is wrong")
	n.Skew(2 * time.Hour)
	g.Eventually("its clock is wrong", func() bool {
		offset, known := n.C().CompareClock()
		return known && offset > 59*time.Minute
	})
}
