package clustertest_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"relay/cluster/clustertest"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/timetest"
)

// Raft never answers what it had not taken out of its channel when it stopped;
// a goroutine that waits for that is left behind (Cluster.end), and no other
// goroutine.
func TestMain(m *testing.M) {
	timetest.SideBySide(8)
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/hashicorp/raft.(*deferError).Error"),
		goleak.IgnoreAnyFunction("relay/cluster.endsIn.func1"),
	)
}

// putRoute is the small idempotent command of these tests.
func putRoute(i int) (spool.Kind, *pb.PutRoute) {
	return spool.KindPutRoute, &pb.PutRoute{Route: &pb.Route{Domain: fmt.Sprintf("d%d.test", i), Target: "discard"}}
}

func TestEveryNodeTakesProposals(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{Verbose: true})
	for i, n := range g.Nodes() {
		kind, h := putRoute(i)
		clustertest.Propose(t.Context(), t, n, kind, h)
		require.NoError(t, n.C().Consistent(t.Context()))
		require.NoError(t, n.C().View(func(v spool.View) error {
			routes, err := v.Routes()
			require.Len(t, routes, i+1)
			return err
		}))
	}
	g.WaitEqual()
	s, err := g.Node(0).C().Status(t.Context())
	require.NoError(t, err)
	t.Logf("%+v", s)
}
