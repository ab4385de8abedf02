package diverge

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWhoIsRight: those whose sum a majority of the voters has, else those who agree with the leader.
func TestWhoIsRight(t *testing.T) {
	voters := []string{"n1", "n2", "n3"}
	for name, c := range map[string]struct {
		said         map[string]string
		leader       string
		right, wrong []string
	}{
		"all agree": {map[string]string{"n1": "a", "n2": "a", "n3": "a"}, "n1", voters, nil},
		"one differs": {map[string]string{"n1": "a", "n2": "b", "n3": "a"}, "n1",
			[]string{"n1", "n3"}, []string{"n2"}},
		"the leader differs": {map[string]string{"n1": "b", "n2": "a", "n3": "a"}, "n1",
			[]string{"n2", "n3"}, []string{"n1"}},
		"no majority":            {map[string]string{"n1": "a", "n2": "b"}, "n1", []string{"n1"}, []string{"n2"}},
		"no majority nor leader": {map[string]string{"n1": "a", "n2": "b"}, "n3", nil, nil},
		"nobody answers":         {nil, "n1", nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			said := map[string]sumAnswer{}
			for node, sum := range c.said {
				said[node] = sumAnswer{Sum: sum}
			}
			right, wrong := verdict(said, voters, c.leader)
			require.Equal(t, c.right, right)
			require.Equal(t, c.wrong, wrong)
		})
	}
}

// TestBuildsThatSumInDifferentWays: sums decide where each build that is wrong is among the right, too.
func TestBuildsThatSumInDifferentWays(t *testing.T) {
	said := map[string]sumAnswer{"n1": {Build: "1/1"}, "n2": {Build: "1/1"}, "n3": {Build: "2/2"}}
	require.True(t, sameBuild(said, []string{"n1"}, []string{"n2"}))
	require.False(t, sameBuild(said, []string{"n1", "n2"}, []string{"n3"}))
	require.True(t, sameBuild(said, []string{"n1", "n3"}, []string{"n2", "n3"}))
}
