package cluster_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/clustertest"
)

// TestEarlyElectionLooksAgain: while a follower asks the others, its leader may be heard
// again. It must not bring that one down. A leader that stays silent it stands
// against once a term, however often it looks.
func TestEarlyElectionLooksAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds of silence")
	}
	tuning := clustertest.Quick()
	tuning.Heartbeat, tuning.Election = 3*time.Second, 3*time.Second
	g := clustertest.New(t, clustertest.Options{Tuning: tuning})
	leader, f := g.Leader(), g.Followers()[0]
	silent := func() bool { return f.C().Silence() > tuning.Heartbeat/3 }
	heard := func() bool { return f.C().Silence() < tuning.Heartbeat/3 }
	for _, back := range []bool{false, true} {
		g.Cut(leader, f)
		g.Eventually("the leader is heard", silent)
		stands := f.C().StandsAgainst(t.Context(), leader.ID, 3, func() {
			if back {
				g.Heal(leader, f)
				g.Eventually("the leader is not heard", heard)
			}
		})
		g.HealAll()
		require.Equal(t, map[bool]int{true: 0, false: 1}[back], stands, "heard again: %v", back)
		g.Eventually("the leader is not heard", heard)
	}
}
