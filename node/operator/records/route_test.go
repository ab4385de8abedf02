package records

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

// EHLO keywords stand beside a route from cluster version 2 on; before that the
// operator is told what to do.
func TestRouteWithoutKeywords(t *testing.T) {
	w := newWorld(t)
	cluster := &pb.Cluster{Id: "c", Version: 1}
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: cluster})
	hub := admin.Route{
		Domain: "hub.example", Target: "smtp:hub:25", NoEHLO: []string{"pipelining", " Chunking", "PIPELINING"},
	}
	err := w.SetRoute(t.Context(), theBy, hub)
	require.ErrorContains(t, err, "cluster version 2")
	require.NoError(t,
		w.SetRoute(t.Context(), theBy, admin.Route{Domain: "plain.example", Target: "smtp:hub:25"}))

	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	require.NoError(t, w.SetRoute(t.Context(), theBy, hub))
	require.NoError(t,
		w.SetRoute(t.Context(), theBy, admin.Route{Domain: "mx.example", Target: "mx", NoEHLO: []string{"DSN"}}))
	for _, bad := range []string{"", "PIPE LINING", "-X", "ä", strings.Repeat("X", 65)} {
		require.ErrorContains(t,
			w.SetRoute(t.Context(), theBy, admin.Route{Domain: "bad.example", Target: "mx", NoEHLO: []string{bad}}),
			"not an EHLO keyword")
	}
	routes, err := w.Routes(t.Context())
	require.NoError(t, err)
	require.Equal(t, []admin.Route{{Domain: "hub.example", Target: "smtp:hub:25",
		NoEHLO: []string{"CHUNKING", "PIPELINING"}},
		{Domain: "mx.example", Target: "mx", NoEHLO: []string{"DSN"}},
		{Domain: "plain.example", Target: "smtp:hub:25"}}, routes)
}
