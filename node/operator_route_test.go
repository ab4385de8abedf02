package node

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/plan"
	"relay/queue"
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
	err := w.operator.SetRoute(t.Context(), theBy, hub)
	require.ErrorContains(t, err, "cluster version 2")
	require.NoError(t,
		w.operator.SetRoute(t.Context(), theBy, admin.Route{Domain: "plain.example", Target: "smtp:hub:25"}))

	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	require.NoError(t, w.operator.SetRoute(t.Context(), theBy, hub))
	require.NoError(t,
		w.operator.SetRoute(t.Context(), theBy, admin.Route{Domain: "mx.example", Target: "mx", NoEHLO: []string{"DSN"}}))
	for _, bad := range []string{"", "PIPE LINING", "-X", "ä", strings.Repeat("X", 65)} {
		require.ErrorContains(t,
			w.operator.SetRoute(t.Context(), theBy, admin.Route{Domain: "bad.example", Target: "mx", NoEHLO: []string{bad}}),
			"not an EHLO keyword")
	}
	routes, err := w.operator.Routes(t.Context())
	require.NoError(t, err)
	require.Equal(t, []admin.Route{{Domain: "hub.example", Target: "smtp:hub:25",
		NoEHLO: []string{"CHUNKING", "PIPELINING"}},
		{Domain: "mx.example", Target: "mx", NoEHLO: []string{"DSN"}},
		{Domain: "plain.example", Target: "smtp:hub:25"}}, routes)

	o := &outbound{replica: &waited{Fake: w.rep}, node: "n1", log: zap.NewNop()}
	require.Empty(t, o.Without("smtp:hub:25"))
	require.NoError(t, o.reroute())
	require.Equal(t, "CHUNKING,PIPELINING", o.Without("smtp:hub:25"), "it is the hop that cannot do it")
	to, err := o.Route(t.Context(), "mx.example")
	require.NoError(t, err)
	require.Equal(t, "DSN", to.Without)
	to, err = o.Route(t.Context(), "elsewhere.example")
	require.NoError(t, err)
	require.Empty(t, to.Without)
}

func TestReportsWithEightBitsSaySo(t *testing.T) {
	w := newWorld(t)
	for text, want := range map[string]pb.Body{
		"Subject: x\r\n\r\nplain\r\n": pb.Body_BODY_7BIT, "Subject: x\r\n\r\nGrüße\r\n": pb.Body_BODY_8BITMIME,
	} {
		n := plan.NewNotice(w.rep, "n1", &queue.Notice{To: "s@far.example", Body: []byte(text)}, false, zap.NewNop())
		require.Equal(t, want, n.Accept.Message.Body)
	}
}
