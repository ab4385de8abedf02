package operator

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/node/admin"
)

// TestMemberStates: the name of a node's state follows from what is heard of it now,
// whatever its session says.
func TestMemberStates(t *testing.T) {
	yes, no := true, false
	here := NodeStats{Version: "v1", Refusing: &yes}
	for name, c := range map[string]struct {
		m     cluster.MemberStatus
		said  NodeStats
		owned uint64
		want  string
	}{
		"alive": {cluster.MemberStatus{Live: true, Answers: true}, NodeStats{Version: "v1", Refusing: &no}, 3,
			admin.NodeAlive},
		"silent":            {cluster.MemberStatus{Live: true, Silent: 2 * time.Second}, NodeStats{}, 0, admin.NodeSilent},
		"dead, no majority": {cluster.MemberStatus{Live: true, Silent: 5 * time.Second}, NodeStats{}, 0, admin.NodeDead},
		"heard by others":   {cluster.MemberStatus{Live: true, Silent: time.Minute}, NodeStats{}, 0, admin.NodeSilent},
		"dead":              {cluster.MemberStatus{Silent: time.Second}, NodeStats{}, 0, admin.NodeDead},
		"drained":           {cluster.MemberStatus{Live: true, Answers: true, Draining: true}, here, 0, admin.NodeDrained},
		"during the notice": {cluster.MemberStatus{Live: true, Answers: true, Draining: true},
			NodeStats{Version: "v1", Refusing: &no}, 0, admin.NodeDraining},
		"has a client": {cluster.MemberStatus{Live: true, Answers: true, Draining: true},
			NodeStats{Version: "v1", Refusing: &yes, Served: 1}, 0, admin.NodeDraining},
		"owns something": {cluster.MemberStatus{Live: true, Answers: true, Draining: true}, here, 1, admin.NodeDraining},
		"leads": {cluster.MemberStatus{Live: true, Answers: true, Draining: true, Role: memberLeader}, here, 0,
			admin.NodeDraining},
		"says nothing": {cluster.MemberStatus{Live: true, Answers: true, Draining: true}, NodeStats{}, 0,
			admin.NodeDraining},
		"a build of before": {cluster.MemberStatus{Live: true, Answers: true, Draining: true}, NodeStats{Version: "v0"}, 0,
			admin.NodeDrained},
		"silent and drained": {cluster.MemberStatus{Live: true, Draining: true, Silent: time.Second}, NodeStats{}, 0,
			admin.NodeSilent},
	} {
		raft := &cluster.Status{Leader: "n1", Failover: 5 * time.Second}
		if name == "dead, no majority" {
			raft.Leader = ""
		}
		require.Equal(t, c.want, memberState(&c.m, c.said, c.owned, raft), name)
	}
}

func TestWhatMayFail(t *testing.T) {
	for _, c := range []struct {
		all, up, spare int
		advice         string
	}{
		{1, 1, 0, ""}, {2, 2, 0, "none may fail"}, {3, 3, 1, ""}, {3, 2, 0, ""}, {3, 1, 0, ""},
		{4, 4, 1, "of 4 voting nodes 1 may fail, as of 3; with one more 2 may"}, {4, 3, 0, ""}, {5, 5, 2, ""},
	} {
		v := voteCount{c.all, c.up}
		require.Equal(t, c.spare, v.spare(), "%v", v)
		require.Contains(t, strings.Join(v.advice(), "\n"), c.advice)
		require.Equal(t, c.advice == "", len(v.advice()) == 0, "%v", v)
	}
}
