package outbound

import (
	"fmt"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica/replicatest"
	"relay/queue"
	"relay/queue/remote"
)

func (w *outboundWorld) route(t *testing.T, r *pb.Route) {
	t.Helper()
	w.do(t, spool.KindPutRoute, &pb.PutRoute{Route: r})
	require.NoError(t, w.reroute())
}

// mailFrom puts a message to r@example.org into the queue; by names the account that handed it in, ours that somebody
// known has.
func (w *outboundWorld) mailFrom(t *testing.T, sender, by string, ours bool) {
	w.id = queue.ID(ulid.Make())
	w.do(t, spool.KindAccept, &pb.Accept{
		Message: &pb.Message{Id: w.id[:], CreatedMs: replicatest.Start.UnixMilli(), Sender: sender, Ours: ours,
			Client: &pb.Client{Node: "n1", User: by}},
		Epoch: w.epoch.Load(), Recipients: []*pb.Recipient{{Address: "r@example.org", NextMs: 1}},
	})
}

// hops are where the last message is by a scan, by the feed, and by an attempt.
func (w *outboundWorld) hops(t *testing.T) (all []string) {
	require.NoError(t, w.Scan(t.Context(), func(x queue.Waiting) {
		if x.ID == w.id {
			all = append(all, x.Route)
		}
	}))
	add := []queue.Waiting{{Ref: queue.Ref{ID: w.id}, Domain: "example.org"}}
	w.feedRuled(w.Rules(), w.routes.Load(), add)
	_, r := w.loaded(t)
	via := r.Ruling.Via
	if r.Ruling.Act == queue.Redirect {
		via = r.Ruling.Hop
	}
	return append(all, add[0].Route, via)
}

// TestRoutesBySender: mail of a sender or of an account goes its own way, however the queue meets it; what a stranger
// says of the sender leads it nowhere.
func TestRoutesBySender(t *testing.T) {
	w := ruledOutbound(t)
	require.True(t, w.Listing(), "as long as nothing is read")
	w.route(t, &pb.Route{Domain: "*", Target: "smtp:all"})
	require.False(t, w.Listing())
	w.route(t, &pb.Route{Domain: "*", Target: "smtp:all", Recipients: "list"})
	require.True(t, w.Listing())
	w.route(t, &pb.Route{Domain: "*", Target: "smtp:all"})
	require.False(t, w.Listing())
	job, r := w.loaded(t)
	require.False(t, job.Ruled, "nothing is looked at where no route asks for it")
	require.Nil(t, r.Ruling)
	w.route(t, &pb.Route{Domain: "*", Target: "smtp:a", From: "@a.example", User: "relay", Password: []byte("1")})
	w.route(t, &pb.Route{Domain: "*", Target: "smtp:b", From: "<>"})
	w.route(t, &pb.Route{Domain: "*", Target: "mx", Login: "u@b.example", Sources: []string{"192.0.2.7"}})
	for _, c := range []struct {
		sender, by string
		ours       bool
		want       string
	}{
		{"x@A.example", "", true, "smtp:a (route * from @a.example)"},
		{"x@a.example", "", false, ""},
		{"x@sub.a.example", "", true, ""},
		{"", "", true, "smtp:b"},
		{"", "", false, ""},
		{"x@c.example", "U@b.example", true, "mx (route * login u@b.example)"},
		{"x@c.example", "", true, ""},
	} {
		w.mailFrom(t, c.sender, c.by, c.ours)
		require.Equal(t, []string{c.want, c.want, c.want}, w.hops(t), "%+v", c)
	}

	to, ok := w.Named("smtp:a (route * from @a.example)")
	require.True(t, ok)
	require.NotNil(t, to.Link.Login)
	require.Nil(t, w.Link("smtp:a").Login, "what is sent there by hand is not of that sender")
	to, ok = w.Named("mx (route * login u@b.example)")
	require.True(t, ok)
	require.Equal(t, remote.MX, to.Kind)
	require.Equal(t, "192.0.2.7", to.Link.Sources)
}

// TestRoutesBySenderGiveWay to a route of the recipient's domain, to rules, and to hops set by hand.
func TestRoutesBySenderGiveWay(t *testing.T) {
	w := ruledOutbound(t)
	w.route(t, &pb.Route{Domain: "*", Target: "smtp:a", From: "@a.example"})
	w.mailFrom(t, "x@a.example", "", true)
	id := w.rule(t, &pb.Rule{Action: pb.RuleAction_RULE_REDIRECT, All: true, To: "smtp:rule"})
	require.Equal(t, []string{"smtp:rule", "smtp:rule", "smtp:rule"}, w.hops(t))
	w.do(t, spool.KindDropRule, &pb.DropRule{Id: id})
	require.NoError(t, w.reread())
	require.Equal(t, []string{"smtp:a", "smtp:a", "smtp:a"}, w.hops(t))
	w.route(t, &pb.Route{Domain: "example.org", Target: "smtp:own"})
	require.Equal(t, []string{"", "", ""}, w.hops(t))
	w.do(t, spool.KindManage, &pb.Manage{Action: pb.Action_REROUTE, Ids: [][]byte{w.id[:]}, Route: "smtp:hand"})
	_, r := w.loaded(t)
	require.Equal(t, "smtp:hand", r.Ruling.Via)
}

// TestARouteBySenderThatGoes: what waits for it goes as all others do, and the manager hears of the change.
func TestARouteBySenderThatGoes(t *testing.T) {
	w := ruledOutbound(t)
	w.route(t, &pb.Route{Domain: "*", Target: "smtp:all"})
	w.route(t, &pb.Route{Domain: "*", Target: "smtp:a", From: "@a.example"})
	w.mailFrom(t, "x@a.example", "", true)
	require.True(t, w.rerouted.Swap(false))
	require.NoError(t, w.reroute())
	require.False(t, w.rerouted.Load(), "nothing has changed")
	w.do(t, spool.KindDropRoute, &pb.DropRoute{Domain: "*", From: "@a.example"})
	require.NoError(t, w.reroute())
	require.True(t, w.rerouted.Load())
	require.Equal(t, []string{"", "", ""}, w.hops(t))
	job, _ := w.loaded(t)
	require.True(t, job.Ruled, "the entry may still be at the former hop")
	require.Equal(t, "smtp:all", w.Hop("example.org"))
}

// TestThousandsOfRoutesBySender cost no scan: a look-up takes as long as among a few.
func TestThousandsOfRoutesBySender(t *testing.T) {
	table := func(n int) *routeTable {
		all := newRouteTable()
		for i := range n {
			all.add(&pb.Route{Domain: "*", Target: fmt.Sprintf("smtp:h%d", i), From: fmt.Sprintf("@d%d.example", i)}, nil, nil)
		}
		return all
	}
	few, many := table(10), table(50_000)
	m := &pb.Message{Sender: "x@d9.example", Ours: true}
	look := func(one *routeTable) time.Duration {
		best := time.Hour
		for range 20 {
			start := time.Now()
			for range 1000 {
				if one.chosen("far.example.org", m) != "smtp:h9" {
					t.Fatal("another route")
				}
			}
			best = min(best, time.Since(start))
		}
		return best
	}
	require.Less(t, look(many), 50*look(few))
}

// TestManyRoutesAreNotReadByApply: their change is left to Refresh, and what else changes in the directory reads none.
func TestManyRoutesAreNotReadByApply(t *testing.T) {
	w := ruledOutbound(t)
	m := queue.New(queue.Config{Spool: w.Spool, Agent: nobody{}})
	for i := range manyRoutes + 1 {
		w.do(t, spool.KindPutRoute, &pb.PutRoute{Route: &pb.Route{Domain: fmt.Sprintf("d%d.example", i), Target: "smtp:h"}})
	}
	w.Feed(m, spool.Changes{Directory: true, Routes: true})
	require.Equal(t, "smtp:h", w.Hop("d7.example"), "they were not many yet")
	w.do(t, spool.KindPutRoute, &pb.PutRoute{Route: &pb.Route{Domain: "one.example", Target: "smtp:one"}})
	w.Feed(m, spool.Changes{Directory: true})
	w.Feed(m, spool.Changes{Directory: true, Routes: true})
	require.Empty(t, w.Hop("one.example"))
	require.NoError(t, w.Refresh(m))
	require.Equal(t, "smtp:one", w.Hop("one.example"))
	w.do(t, spool.KindDropRoute, &pb.DropRoute{Domain: "one.example"})
	w.Feed(m, spool.Changes{Restored: true})
	w.routesNext = time.Now().Add(time.Hour)
	require.Greater(t, w.RefreshIn(), 50*time.Minute)
	require.NoError(t, w.Refresh(m))
	require.Equal(t, "smtp:one", w.Hop("one.example"), "not all the time")
	w.routesNext = time.Time{}
	require.Less(t, w.RefreshIn(), time.Minute)
	require.NoError(t, w.Refresh(m))
	require.Empty(t, w.Hop("one.example"))
	require.NotZero(t, w.routesNext)
}
