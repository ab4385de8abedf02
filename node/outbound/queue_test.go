package outbound

import (
	"context"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica"
	"relay/node/replica/replicatest"
	"relay/queue"
	"relay/queue/remote"
	"relay/queue/replyclass"
)

// waited is a replica that notes what is waited for.
type waited struct {
	*replicatest.Fake
	indexes []uint64
}

func (w *waited) WaitApplied(_ context.Context, index uint64) error {
	w.indexes = append(w.indexes, index)
	return nil
}

func (w *waited) Until() time.Time { return time.Now().Add(time.Hour) }

// outboundWorld is a queue of one node with one message in it.
type outboundWorld struct {
	*Spool
	replica *waited
	id      queue.ID
}

func newOutboundWorld(t *testing.T) *outboundWorld {
	w := &outboundWorld{replica: &waited{Fake: replicatest.New(t)}, id: queue.ID(ulid.Make())}
	w.Spool = &Spool{replica: w.replica, node: "n1", log: zap.NewNop()}
	w.register(t, "n1", "first")
	epoch, err := w.session()
	require.NoError(t, err)
	w.epoch.Store(epoch)
	h := &pb.Accept{
		Message: &pb.Message{
			Id: w.id[:], CreatedMs: replicatest.Start.UnixMilli(), Sender: "s@example.net", Client: &pb.Client{Node: "n1"},
		},
		Epoch: epoch, Inline: true, Recipients: []*pb.Recipient{{Address: "r@example.org",
			NextMs: replicatest.Start.UnixMilli()}},
	}
	res, err := replica.Propose(t.Context(), w.replica, spool.KindAccept, h, []byte("Subject: x\r\n\r\n"))
	require.NoError(t, err)
	require.Equal(t, pb.Code_OK, res.Code, res.Text)
	return w
}

func (w *outboundWorld) register(t *testing.T, node, nonce string) {
	res, err := replica.Propose(t.Context(), w.replica, spool.KindRegister,
		&pb.Register{Nonce: nonce, Member: &pb.Member{Id: node, MaxCommand: spool.MaxVersion}})
	require.NoError(t, err)
	require.Equal(t, pb.Code_OK, res.Code, res.Text)
}

type noAgent struct{}

func (noAgent) Deliver(context.Context, *queue.Job) []queue.Verdict { return nil }

// The manager is told the site's own rules of what replies mean, and when they end.
func TestReplyRulesReachTheManager(t *testing.T) {
	w := newOutboundWorld(t)
	m := queue.New(queue.Config{Spool: w.Spool, Agent: noAgent{}})
	for _, rules := range [][]string{
		nil, {"rate 451 come slowly"}, {"rate 451 come slowly"}, {"no rule of this build"}, {},
	} {
		res, err := replica.Propose(t.Context(), w.replica, spool.KindPutSettings,
			&pb.PutSettings{Settings: &pb.Settings{ReplyRules: rules}})
		require.NoError(t, err)
		require.Equal(t, pb.Code_OK, res.Code, res.Text)
		require.NoError(t, w.Refresh(m))
		want := replyclass.System
		if len(rules) > 0 && rules[0] == "rate 451 come slowly" {
			want = replyclass.Rate
		}
		require.Equal(t, want, m.ClassOf("451 come slowly"), "%q", rules)
	}
}

func (w *outboundWorld) delivered(attempt uint32) []queue.Verdict {
	return []queue.Verdict{
		{Ref: queue.Ref{ID: w.id}, Outcome: queue.Delivered, Attempt: attempt, Reply: "250 Ok", At: replicatest.Start},
	}
}

// A scan that begins after Settle has returned must not find what was settled.
func TestSettleIsAppliedHere(t *testing.T) {
	w := newOutboundWorld(t)
	taken, err := w.Settle(t.Context(), w.delivered(1), nil)
	require.NoError(t, err)
	require.Equal(t, []queue.Taken{queue.Applied}, taken)
	require.Equal(t, []uint64{w.replica.Index}, w.replica.indexes)
}

// A delivery that ended after this node had lost its session and begun another
// is settled all the same, instead of being made twice.
func TestSettleInNewSession(t *testing.T) {
	w := newOutboundWorld(t)
	w.register(t, "n1", "second") // the refresh of o.epoch has not come yet
	taken, err := w.Settle(t.Context(), w.delivered(1), nil)
	require.NoError(t, err)
	require.Equal(t, []queue.Taken{queue.Applied}, taken)
	taken, err = w.Settle(t.Context(), w.delivered(1), nil)
	require.NoError(t, err)
	require.Equal(t, []queue.Taken{queue.Gone}, taken)
}

// Entries that another node owns stay its own.
func TestSettleOfForeignEntry(t *testing.T) {
	w := newOutboundWorld(t)
	w.register(t, "n2", "other")
	var one *pb.Session
	require.NoError(t, w.replica.View(func(v spool.View) (err error) { one, _, err = v.Session("n1"); return err }))
	_, err := replica.Propose(t.Context(), w.replica, spool.KindExpire,
		&pb.Expire{Node: "n1", Epoch: one.Epoch, Renewed: one.Renewed})
	require.NoError(t, err)
	w.register(t, "n1", "second")
	taken, err := w.Settle(t.Context(), w.delivered(1), nil)
	require.NoError(t, err)
	require.Equal(t, []queue.Taken{queue.Stale}, taken)
}

// An end that finds more attempts than its own was overtaken by another node's.
func TestSettleOvertaken(t *testing.T) {
	w := newOutboundWorld(t)
	later := w.delivered(2)
	later[0].Outcome, later[0].Next = queue.Deferred, replicatest.Start.Add(time.Hour)
	taken, err := w.Settle(t.Context(), later, nil)
	require.NoError(t, err)
	require.Equal(t, []queue.Taken{queue.Applied}, taken)
	taken, err = w.Settle(t.Context(), later, nil)
	require.NoError(t, err)
	require.Equal(t, []queue.Taken{queue.Applied}, taken, "the same again")
	taken, err = w.Settle(t.Context(), w.delivered(1), nil)
	require.NoError(t, err)
	require.Equal(t, []queue.Taken{queue.Stale}, taken)
}

// Mail that is accepted behind a route goes by it, though nothing else has been
// read again yet.
func TestRouteHoldsForWhatFollows(t *testing.T) {
	w := newOutboundWorld(t)
	m := queue.New(queue.Config{Spool: w.Spool, Log: zap.NewNop()})
	require.NoError(t, w.Refresh(m))
	require.Empty(t, w.Hop("example.org"))
	res, err := replica.Propose(t.Context(), w.replica, spool.KindPutRoute,
		&pb.PutRoute{Route: &pb.Route{Domain: "example.org", Target: "smtp:hop"}})
	require.NoError(t, err)
	require.Equal(t, pb.Code_OK, res.Code, res.Text)
	w.Feed(m, spool.Changes{Directory: true, Routes: true})
	require.Equal(t, "smtp:hop", w.Hop("example.org"))
	require.True(t, w.rerouted.Load(), "what waits is sorted again")
	require.NoError(t, w.Refresh(m))
	require.False(t, w.rerouted.Load())
}

// TestHopsWithoutExtensions: what EHLO keyword a hop cannot do is said of the hop.
func TestHopsWithoutExtensions(t *testing.T) {
	w := &waited{Fake: replicatest.New(t)}
	_, err := replica.Propose(t.Context(), w, spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c",
		Version: 2}})
	require.NoError(t, err)
	for _, r := range []*pb.Route{
		{Domain: "hub.example", Target: "smtp:hub:25", NoEhlo: []string{"CHUNKING", "PIPELINING"}},
		{Domain: "mx.example", Target: "mx", NoEhlo: []string{"DSN"}},
		{Domain: "plain.example", Target: "smtp:hub:25"},
	} {
		res, err := replica.Propose(t.Context(), w, spool.KindPutRoute, &pb.PutRoute{Route: r})
		require.NoError(t, err)
		require.Equal(t, pb.Code_OK, res.Code, res.Text)
	}
	o := &Spool{replica: w, node: "n1", log: zap.NewNop()}
	require.Empty(t, o.Link("smtp:hub:25").Without)
	require.NoError(t, o.reroute())
	require.Equal(t, "CHUNKING,PIPELINING", o.Link("smtp:hub:25").Without, "it is the hop that cannot do it")
	to, err := o.Route(t.Context(), "mx.example")
	require.NoError(t, err)
	require.Equal(t, "DSN", to.Link.Without)
	to, err = o.Route(t.Context(), "elsewhere.example")
	require.NoError(t, err)
	require.Empty(t, to.Link.Without)
	to, err = o.Route(t.Context(), "plain.example")
	require.NoError(t, err)
	require.Equal(t, "CHUNKING,PIPELINING", to.Link.Without)
}

// TestLoginsOfRoutes: a route with a login is a hop of its own, and has one login for as long as its record has one
// password.
func TestLoginsOfRoutes(t *testing.T) {
	w := &waited{Fake: replicatest.New(t)}
	put := func(kind spool.Kind, h proto.Message) {
		t.Helper()
		res, err := replica.Propose(t.Context(), w, kind, h)
		require.NoError(t, err)
		require.Equal(t, pb.Code_OK, res.Code, res.Text)
	}
	put(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 2}})
	for _, r := range []*pb.Route{
		{Domain: "a.example", Target: "smtp:hub:587", User: "a", Password: []byte("1")},
		{Domain: "b.example", Target: "smtp:hub:587", User: "b", Password: []byte("2"), Tls: "verify"},
		{Domain: "c.example", Target: "smtp:hub:587"},
	} {
		put(spool.KindPutRoute, &pb.PutRoute{Route: r})
	}
	o := &Spool{replica: w, node: "n1", log: zap.NewNop()}
	require.NoError(t, o.reroute())
	login := func(domain string) *remote.Login {
		t.Helper()
		to, err := o.Route(t.Context(), domain)
		require.NoError(t, err)
		require.Equal(t, remote.VerifyTLS, to.Link.TLS, "it is so of the hop")
		hop := o.Hop(domain)
		named, ok := o.Named(hop)
		require.True(t, ok, "of a hop of its own, also without a login: it uses none of the others'")
		require.Equal(t, to, named)
		if to.Link.Login == nil {
			require.Equal(t, "smtp:hub:587 (other routes)", hop)
		} else {
			require.Equal(t, "smtp:hub:587 (route "+domain+")", hop)
		}
		return to.Link.Login
	}
	a, b := login("a.example"), login("b.example")
	require.NotNil(t, a)
	require.NotNil(t, b)
	require.NotSame(t, a, b)
	require.Nil(t, login("c.example"))
	require.NotNil(t, o.Link("smtp:hub:587").Login, "mail that is sent there by hand logs in, too")
	require.Empty(t, o.RefusedLogins())

	put(spool.KindPutRoute, &pb.PutRoute{Route: &pb.Route{Domain: "b.example", Target: "smtp:hub:587", User: "b",
		Password: []byte("3"), Tls: "verify"}})
	require.NoError(t, o.reroute())
	require.Same(t, a, login("a.example"))
	require.NotSame(t, b, login("b.example"), "a new password is tried at once")
}

// TestRetryEndsTheWaitOfALogin: mail of a route, or sent to its hop by hand, that was tried before and is due at once.
func TestRetryEndsTheWaitOfALogin(t *testing.T) {
	w := &waited{Fake: replicatest.New(t)}
	now := w.Now().UnixMilli()
	for name, c := range map[string]struct {
		q    spool.Queued
		ends bool
	}{
		"by domain": {spool.Queued{Domain: "In.B.example", Attempts: 1, NextMs: now, State: pb.State_DEFERRED}, true},
		"by hand":   {spool.Queued{Domain: "c.example", Route: "smtp:hub:587", Attempts: 1, NextMs: now}, true},
		"by its hop": {spool.Queued{Domain: "c.example", Route: "smtp:hub:587 (route b.example)", Attempts: 1, NextMs: now},
			true},
		"new":       {spool.Queued{Domain: "b.example", NextMs: now}, false},
		"later":     {spool.Queued{Domain: "b.example", Attempts: 1, NextMs: now + 60_000}, false},
		"held":      {spool.Queued{Domain: "b.example", Attempts: 1, NextMs: now, State: pb.State_HELD}, false},
		"elsewhere": {spool.Queued{Domain: "d.example", Attempts: 1, NextMs: now}, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := &remote.Login{}
			o := &Spool{replica: w, node: "n1", log: zap.NewNop()}
			routes := &routeTable{domains: map[string]routed{}, links: map[string]remote.Link{}, named: map[string]routed{}}
			o.routes.Store(routes)
			require.Nil(t, o.retried(&c.q, c.q.Route))
			routes.add(&pb.Route{Domain: "b.example", Target: "smtp:hub:587", User: "b"}, l, nil)
			got := o.retried(&c.q, c.q.Route)
			require.Equal(t, c.ends, got == l)
		})
	}
}

// TestTLSOfRoutesToOneHop: a route that asks for little TLS takes none away from another one.
func TestTLSOfRoutesToOneHop(t *testing.T) {
	for _, order := range [][]*pb.Route{
		{{Domain: "a.example", Target: "smtp:hub"}, {Domain: "b.example", Target: "smtp:hub", Tls: "none"}},
		{{Domain: "a.example", Target: "smtp:hub", Tls: "none"}, {Domain: "b.example", Target: "smtp:hub"}},
	} {
		routes := &routeTable{domains: map[string]routed{}, links: map[string]remote.Link{}}
		for _, r := range order {
			routes.add(r, nil, nil)
		}
		require.Equal(t, remote.Link{TLS: remote.NoTLS, Configured: true}, routes.links["smtp:hub"])
	}
}

// TestHopsOfRoutes: a route with targets, source addresses or a certificate of its own is a hop of its own, unless each
// of its domains has hosts of its own.
func TestHopsOfRoutes(t *testing.T) {
	w := &waited{Fake: replicatest.New(t)}
	_, err := replica.Propose(t.Context(), w, spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c",
		Version: 2}})
	require.NoError(t, err)
	for _, r := range []*pb.Route{
		{Domain: "a.example", Target: "smtp:a", More: []string{"smtp:b"}, Weights: []uint32{3, 1}, Fallback: "smtp:c"},
		{Domain: "c.example", Target: "smtp:c", Tls: "verify"},
		{Domain: "m.example", Target: "mx", Fallback: "smtp:c", Sources: []string{"192.0.2.1"}},
		{Domain: "s.example", Target: "smtp:s", Sources: []string{"192.0.2.1", "192.0.2.2"}},
		{Domain: "k.example", Target: "smtp:k", ClientCert: "cert", ClientKey: []byte("key"), Tls: "verify"},
	} {
		res, err := replica.Propose(t.Context(), w, spool.KindPutRoute, &pb.PutRoute{Route: r})
		require.NoError(t, err)
		require.Equal(t, pb.Code_OK, res.Code, res.Text)
	}
	o := &Spool{replica: w, node: "n1", log: zap.NewNop()}
	require.NoError(t, o.reroute())
	c := remote.Target{Kind: remote.SMTP, Host: "c", Link: remote.Link{TLS: remote.VerifyTLS}}
	require.Equal(t, "smtp:a (route a.example)", o.Hop("a.example"))
	to, ok := o.Named("smtp:a (route a.example)")
	require.True(t, ok)
	require.Equal(t, &remote.Spread{Weight: 3, Fallback: &c, More: []remote.Weighted{
		{Target: remote.Target{Kind: remote.SMTP, Host: "b"}, Weight: 1}}}, to.Spread, "the fallback has its own link")
	require.Empty(t, o.Hop("m.example"))
	to, err = o.Route(t.Context(), "m.example")
	require.NoError(t, err)
	require.Equal(t, &remote.Spread{Weight: 1, Fallback: &c}, to.Spread)
	require.Equal(t, "192.0.2.1", to.Link.Sources)
	require.Equal(t, "smtp:s (route s.example)", o.Hop("s.example"))
	to, err = o.Route(t.Context(), "k.example")
	require.NoError(t, err)
	require.NotNil(t, to.Link.Cert)
	before := o.routes.Load()
	require.NoError(t, o.reroute())
	require.Same(t, before, o.routes.Load(), "nothing has changed")
}
