package operator

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

// The audit log says what was changed, from what to what, on which messages and by
// which filter, and no secret.
func TestAuditSaysFromWhatToWhat(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	last := func() string {
		lines, err := w.Audit(ctx, admin.AuditQuery{Limit: 1})
		require.NoError(t, err)
		require.NotContains(t, lines[0].What, "s3cret")
		require.NotContains(t, lines[0].What, "argon2id")
		return lines[0].What
	}
	require.NoError(t, w.SetRoute(ctx, theBy, admin.Route{Domain: "far.test", Target: "mx"}))
	require.Equal(t, "route set far.test mx", last(), "a cluster of version 1 has no notes")

	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c1", Name: "test", Version: 2}})
	require.NoError(t, w.SetRoute(ctx, theBy, admin.Route{Domain: "far.test", Target: "smtp:hub.test"}))
	require.Equal(t, `route set far.test smtp:hub.test: target "mx" → "smtp:hub.test"`, last())
	quota, password := uint64(1000), "s3cret"
	require.NoError(t, w.SetUser(ctx, theBy, "alice@example.test", admin.UserSet{QuotaBytes: &quota, Password: &password}))
	require.Equal(t, "user set alice@example.test: password changed, quota_bytes 0 → 1000", last())
	require.NoError(t,
		w.SetAlias(ctx, theBy, admin.Alias{Address: "all@example.test", Targets: []string{"alice@example.test"}}))
	require.Contains(t, last(), "new, targets [alice@example.test]")
	require.NoError(t, w.SetSettings(ctx, theBy, admin.Settings{ExpireSeconds: 3600, DefaultDomain: "example.test"}))
	require.Contains(t, last(), "expire 0s → 1h0m0s")
	require.NoError(t, w.RemoveRoute(ctx, theBy, "far.test", admin.RouteSenders{}))
	require.Equal(t, `route rm far.test: was target "smtp:hub.test"`, last())

	require.NoError(t, w.AddDomain(ctx, theBy, admin.Domain{Name: "new.test", CatchAll: "alice@example.test"}))
	require.Equal(t, `domain add new.test: new, catch_all "alice@example.test"`, last())
	policy := admin.AuthRefuse
	require.NoError(t, w.SetDomain(ctx, theBy, "new.test", admin.DomainSet{AuthPolicy: &policy}))
	require.Equal(t, `domain set new.test: auth_policy auth_tag → auth_refuse`, last())
	_, err := w.RemoveDomain(ctx, theBy, "new.test", admin.DropOptions{})
	require.NoError(t, err)
	require.Equal(t, `domain rm new.test: was catch_all "alice@example.test", auth_policy auth_refuse`, last())
	_, err = w.AddSigner(ctx, theBy, admin.SignerAdd{Domain: "example.test", Selector: "s1"})
	require.NoError(t, err)
	require.Equal(t, `dkim set example.test s1: selector "s1", algorithm "rsa", private set`, last())
	require.NoError(t, w.AddUser(ctx, theBy, admin.UserAdd{Address: "carol@example.test", Password: "s3cret"}))
	require.Equal(t, "user add carol@example.test: new, password set", last())
	_, err = w.RemoveUser(ctx, theBy, "carol@example.test", admin.DropOptions{})
	require.NoError(t, err)
	require.Equal(t, "user rm carol@example.test: 0 messages in the mailbox", last())

	one, two := w.accept("s@x.test", "a@far.test"), w.accept("s@x.test", "b@far.test")
	_, err = w.Manage(ctx, theBy, admin.QueueAction{
		Action: admin.ActionReroute, IDs: []string{one.String(), two.String()}, Route: "smtp:other.test",
	})
	require.NoError(t, err)
	require.Equal(t, "queue reroute of 2 messages: to smtp:other.test, ids "+one.String()+" "+two.String(), last())
	_, err = w.Manage(ctx, theBy, admin.QueueAction{
		Action: admin.ActionHold, All: true, Filter: admin.QueueFilter{Domain: "far.test"},
	})
	require.NoError(t, err)
	require.Contains(t, last(), "queue hold of 2 messages: domain=far.test, ids ")
	_, err = w.Manage(ctx, theBy, admin.QueueAction{
		Action: admin.ActionBounce, IDs: []string{one.String()}, Reason: "no such thing",
	})
	require.NoError(t, err)
	require.Contains(t, last(), `queue bounce of 1 messages: reason "no such thing", ids `+one.String())
}
