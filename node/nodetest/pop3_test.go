package nodetest_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/node/nodetest"
	"relay/pop3"
)

// TestScramOnEveryNode logs in by SCRAM with a password that was set on one
// node.
func TestScramOnEveryNode(t *testing.T) {
	c := nodetest.New(t, nodetest.Options{Nodes: 2})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, m := range c.Nodes {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", m.POP3)
		require.NoError(t, err)
		one, err := pop3.NewClient(ctx, conn)
		require.NoError(t, err)
		require.Error(t, one.Auth(ctx, pop3.NewSCRAMClient("alice", "wrong", nil)))
		require.NoError(t, one.Auth(ctx, pop3.NewSCRAMClient("alice", "secret", nil)))
		require.NoError(t, one.Quit(ctx))
	}
}

// capa is what a session at a node is told.
func capa(t *testing.T, ctx context.Context, m *nodetest.Member, user string) map[string][]string {
	one, err := m.Login(ctx, user)
	require.NoError(t, err)
	defer one.Quit(ctx)
	caps, err := one.Capa(ctx)
	require.NoError(t, err)
	return caps
}

// TestMaildropPolicies: what an operator sets on one node holds on the other.
func TestMaildropPolicies(t *testing.T) {
	c := nodetest.New(t, nodetest.Options{Nodes: 2})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	shared, month, hour := true, int64(30*24*3600), int64(3600)
	api := c.Nodes[0].Client()
	require.NoError(t, api.SetUser(ctx, admin.By{Why: "test"}, "alice@example.test", admin.UserSet{Retention: &month, LoginDelay: &hour}))
	require.NoError(t, api.SetUser(ctx, admin.By{Why: "test"}, "bob@example.test", admin.UserSet{Shared: &shared}))
	c.Verify()

	caps := capa(t, ctx, c.Nodes[0], "alice")
	require.Equal(t, []string{"30"}, caps["EXPIRE"])
	require.Equal(t, []string{"3600"}, caps["LOGIN-DELAY"])
	_, err := c.Nodes[1].Login(ctx, "alice")
	require.ErrorContains(t, err, "[LOGIN-DELAY]")

	one, err := c.Nodes[0].Login(ctx, "bob")
	require.NoError(t, err)
	defer one.Close()
	two, err := c.Nodes[1].Login(ctx, "bob")
	require.NoError(t, err)
	require.NoError(t, two.Quit(ctx))
}

// TestInUseNamesTheNode, and what an operator's unlock does to the session.
func TestInUseNamesTheNode(t *testing.T) {
	c := nodetest.New(t, nodetest.Options{Nodes: 3})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c.Nodes[0].MustSend("a@far.example", "alice@example.test", nodetest.Letter("one"))
	holder, err := c.Nodes[1].Login(ctx, "alice")
	require.NoError(t, err)
	defer holder.Close()
	require.NoError(t, holder.Dele(ctx, 1))
	_, err = c.Nodes[2].Login(ctx, "alice")
	require.ErrorContains(t, err, "[IN-USE]")
	require.ErrorContains(t, err, "n2")
	require.ErrorContains(t, err, time.Now().UTC().Format("2006-01-02T"))

	u, err := c.Nodes[0].Client().Unlock(ctx, admin.By{Why: "test"}, "alice@example.test")
	require.NoError(t, err)
	require.Equal(t, "n2", u.Lock.Node)
	_, err = holder.Reply()
	require.ErrorContains(t, err, "operator", "the session is told")
	_, err = holder.Reply()
	require.Error(t, err, "and closed")
	found, err := c.Nodes[2].Subjects("alice")
	require.NoError(t, err)
	require.Equal(t, map[string]int{"one": 1}, found, "nothing was deleted")
}
