package records

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/directory"
)

// TestRoutesOfSenders: senders and accounts are kept in one form, and others are refused with the next step.
func TestRoutesOfSenders(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	set := func(domain string, of admin.RouteSenders) error {
		return w.SetRoute(ctx, theBy, admin.Route{Domain: domain, Target: "smtp:h", RouteSenders: of})
	}
	require.ErrorContains(t, set("*", admin.RouteSenders{From: "@a.example"}), "--from needs cluster version 2")
	require.ErrorContains(t, set("*", admin.RouteSenders{Login: "u@a.example"}), "--login needs cluster version 2")
	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	both := admin.RouteSenders{From: "@a.example", Login: "u@a.example"}
	for _, c := range []struct{ in, want admin.RouteSenders }{
		{admin.RouteSenders{}, admin.RouteSenders{}},
		{admin.RouteSenders{From: " @A.Example "}, admin.RouteSenders{From: "@a.example"}},
		{admin.RouteSenders{From: "@bücher.example"}, admin.RouteSenders{From: "@xn--bcher-kva.example"}},
		{admin.RouteSenders{From: "<Ann@A.example>"}, admin.RouteSenders{From: "ann@a.example"}},
		{admin.RouteSenders{From: "<>"}, admin.RouteSenders{From: "<>"}},
		{admin.RouteSenders{Login: "U@A.example"}, admin.RouteSenders{Login: "u@a.example"}},
		{both, both},
	} {
		require.NoError(t, set("*", c.in))
		all, err := w.Routes(ctx)
		require.NoError(t, err)
		require.True(t, slices.ContainsFunc(all, func(r admin.Route) bool { return r.RouteSenders == c.want }), "%v", c)
	}
	for from, why := range map[string]string{
		"@*.a.example": "as in --from @a.example", "@.a.example": "that domain alone", "*@a.example": "that domain alone",
		"a.example": "has no domain", "@": "a domain is missing", "a\x00@b.example": "not a mail address",
		"@a\x00b.example": "not the name of a domain",
	} {
		require.ErrorContains(t, set("*", admin.RouteSenders{From: from}), why, from)
	}
	all, err := w.Routes(ctx)
	require.NoError(t, err)
	require.Len(t, all, 7)
	require.NoError(t, w.RemoveRoute(ctx, theBy, "*", admin.RouteSenders{From: "@A.example"}))
	require.ErrorIs(t, w.RemoveRoute(ctx, theBy, "*", admin.RouteSenders{From: "@a.example"}), admin.ErrNotFound)
	require.NoError(t, w.RemoveRoute(ctx, theBy, "*", admin.RouteSenders{}))
	all, err = w.Routes(ctx)
	require.NoError(t, err)
	require.Len(t, all, 5, "no other goes with it")
}

// TestSecretsOfRoutesOfSenders are resealed in the route that has them.
func TestSecretsOfRoutesOfSenders(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	for _, from := range []string{"@a.example", "@b.example"} {
		require.NoError(t, w.SetRoute(ctx, theBy, admin.Route{Domain: "*", Target: "smtp:h",
			RouteSenders: admin.RouteSenders{From: from},
			RouteLogin:   admin.RouteLogin{User: "relay" + from, Password: "secret of " + from}}))
	}
	require.NoError(t, w.Reseal(ctx, theBy))
	all, err := w.edited()
	require.NoError(t, err)
	for _, r := range all {
		secret, err := w.rep.Unseal(ctx, r.Password, directory.RouteSecret(r))
		require.NoError(t, err)
		require.Equal(t, "secret of "+r.From, string(secret))
	}
	require.Len(t, all, 2)
}

func (w *world) edited() (all []*pb.Route, err error) {
	err = w.rep.View(func(v spool.View) (err error) { all, err = v.Routes(); return err })
	return all, err
}

// TestListsOfRecipients: local parts are enough, addresses come in one form, and pages go on behind an address.
func TestListsOfRecipients(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	change := func(add, remove []string) (uint64, error) {
		return w.ChangeRecipients(ctx, theBy, "Bücher.example", admin.RecipientChange{Add: add, Remove: remove})
	}
	_, err := change([]string{"a"}, nil)
	require.ErrorContains(t, err, "needs cluster version 2")
	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	n, err := change([]string{"Ann", "bob@bücher.example", "CAROL@xn--bcher-kva.example", "ann"}, nil)
	require.NoError(t, err)
	require.EqualValues(t, 3, n)
	for _, bad := range []string{"ann@other.example", "ann@", "", "a b", "@bücher.example"} {
		_, err = change([]string{"dora", bad}, nil)
		require.Error(t, err, bad)
	}
	_, err = change(slices.Repeat([]string{"q"}, admin.MaxRecipients+1), nil)
	require.ErrorContains(t, err, "1 to 1000 addresses")
	_, err = change(nil, nil)
	require.ErrorContains(t, err, "1 to 1000 addresses")
	page, err := w.Recipients(ctx, "bücher.example", "", 2)
	require.NoError(t, err)
	require.Equal(t, []string{"ann@xn--bcher-kva.example", "bob@xn--bcher-kva.example"}, page)
	page, err = w.Recipients(ctx, "bücher.example", page[1], 0)
	require.NoError(t, err)
	require.Equal(t, []string{"carol@xn--bcher-kva.example"}, page)
	n, err = change(nil, []string{"ANN", "nobody"})
	require.NoError(t, err)
	require.EqualValues(t, 1, n)

	for _, c := range []struct {
		r   admin.Route
		why string
	}{
		{admin.Route{Domain: "*", RouteHops: admin.RouteHops{Recipients: "list"}}, "is for one domain"},
		{admin.Route{RouteHops: admin.RouteHops{Recipients: "file"}}, "--recipients is list"},
		{admin.Route{RouteHops: admin.RouteHops{Recipients: "list", Callout: true}}, "either a list"},
		{admin.Route{RouteHops: admin.RouteHops{Recipients: "list"}, RouteSenders: admin.RouteSenders{From: "@a.example"}},
			"without --from and --login"},
		{admin.Route{RouteHops: admin.RouteHops{Callout: true}, RouteSenders: admin.RouteSenders{Login: "u@a.example"}},
			"without --from and --login"},
	} {
		if c.r.Domain == "" {
			c.r.Domain = "r.example"
		}
		c.r.Target = "smtp:h"
		require.ErrorContains(t, w.SetRoute(ctx, theBy, c.r), c.why)
	}
	require.NoError(t, w.SetRoute(ctx, theBy, admin.Route{Domain: "r.example", Target: "mx",
		RouteHops: admin.RouteHops{Recipients: "list"}}))
}
