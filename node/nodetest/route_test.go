package nodetest

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/smtp"
)

// arrives waits until a sink has a message to a recipient, and returns it.
func (c *Cluster) arrives(s *Sink, to string) (got Delivery) {
	c.t.Helper()
	c.Eventually(time.Minute, "no mail to "+to, func() bool {
		for _, d := range s.Got() {
			if d.To == to {
				got = d
				return true
			}
		}
		return false
	})
	return got
}

// setRoute sets a route once the cluster keeps such ones, and waits until all nodes have it.
func (c *Cluster) setRoute(r admin.Route) {
	c.t.Helper()
	var err error
	c.Eventually(time.Minute, "the route is not set", func() bool {
		err = c.Nodes[0].Client().SetRoute(c.t.Context(), admin.By{Why: "test"}, r)
		return err == nil
	})
	for _, m := range c.Nodes {
		require.NoError(c.t, m.Node().Cluster().Consistent(c.t.Context()))
	}
}

// TestRoutesBySender: at every node mail of a sender's domain, and of an account, goes its own way, and so does what a
// former owner left; a stranger who names that sender gets his nowhere, and reports go as the null path does.
func TestRoutesBySender(t *testing.T) {
	t.Parallel()
	c := New(t, Options{})
	ctx := within(t, 3*time.Minute)
	bySender, byLogin := NewSink(t, "127.0.0.1:0"), NewSink(t, "127.0.0.1:0")
	c.setRoute(admin.Route{Domain: "*", Target: "smtp:" + bySender.Addr,
		RouteSenders: admin.RouteSenders{From: "@A.example"}})
	c.setRoute(admin.Route{Domain: "*", Target: "smtp:" + byLogin.Addr,
		RouteSenders: admin.RouteSenders{Login: "alice@example.test"}})
	for i, m := range c.Nodes {
		to := "x" + m.ID + "@far.example"
		m.MustSend("ann@a.EXAMPLE", to, Letter("sender"+m.ID))
		require.Equal(t, "ann@a.EXAMPLE", c.arrives(bySender, to).From)
		m.MustSend("ann@b.a.example", "y"+to, Letter("below"+m.ID))
		c.arrives(c.Sink, "y"+to)
		d := talkTo(t, m.SMTP)
		d.play(loginAlice, "S: 235", "C: MAIL FROM:<alice@example.test>", "S: 250", "C: RCPT TO:<z"+to+">", "S: 250")
		d.play(letter("login" + m.ID)...)
		c.arrives(byLogin, "z"+to)
		require.Len(t, byLogin.Got(), i+1)
	}

	api, by := c.Nodes[0].Client(), admin.By{Why: "test"}
	out := admin.Alias{Address: "out@example.test", Targets: []string{"out@far.example"}}
	require.NoError(t, api.SetAlias(ctx, by, out))
	d := strangerTo(t, c.Nodes[0].SMTP)
	d.play("S: 220", "C: EHLO client.test", "S: 250", "C: MAIL FROM:<ann@a.example>", "S: 250",
		"C: RCPT TO:<x@far.example>", "S: 550 5.7.1", "C: RCPT TO:<out@example.test>", "S: 250")
	d.play(letter("stranger")...)
	require.Equal(t, "ann@a.example", c.arrives(c.Sink, "out@far.example").From)

	bySender.Answer(func(to string) error { return smtp.NewReply(550, "5.1.1", "nobody") })
	c.Nodes[1].MustSend("ann@a.example", "nobody@far.example", Letter("bounced"))
	require.Empty(t, c.arrives(c.Sink, "ann@a.example").From, "the report goes as all others do")
	c.setRoute(admin.Route{Domain: "*", Target: "smtp:" + byLogin.Addr, RouteSenders: admin.RouteSenders{From: "<>"}})
	c.Nodes[1].MustSend("bob@a.example", "nobody@far.example", Letter("bounced again"))
	require.Empty(t, c.arrives(byLogin, "bob@a.example").From)
	require.Len(t, bySender.Got(), 3)
	c.Verify()
}

// TestARouteBySenderGoes while mail waits for it: the mail goes on as the other routes say.
func TestARouteBySenderGoes(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	m, ctx := c.Nodes[0], within(t, 3*time.Minute)
	bySender := NewSink(t, "127.0.0.1:0")
	bySender.Answer(func(string) error { return smtp.NewReply(450, "4.2.0", "later") })
	of := admin.RouteSenders{From: "@a.example"}
	c.setRoute(admin.Route{Domain: "*", Target: "smtp:" + bySender.Addr, RouteSenders: of,
		RouteHops: admin.RouteHops{Sources: []string{"127.0.0.1"}}})
	id := m.MustSend("ann@a.example", "x@far.example", Letter("waits"))
	c.Eventually(time.Minute, "not tried", func() bool {
		d, err := m.Client().Message(ctx, id)
		return err == nil && d.Recipients[0].Attempts > 0
	})
	d, err := m.Client().Message(ctx, id)
	require.NoError(t, err)
	require.Contains(t, strings.Join(d.Why, "\n"), "(route * from @a.example)")
	require.NoError(t, m.Client().RemoveRoute(ctx, admin.By{Why: "test"}, "*", of))
	_, err = m.Client().Manage(ctx, admin.By{Why: "test"}, admin.QueueAction{Action: admin.ActionRetry, IDs: []string{id}})
	require.NoError(t, err)
	require.Equal(t, "ann@a.example", c.arrives(c.Sink, "x@far.example").From)
	require.Empty(t, bySender.Got())
}

// TestListedRecipientsOfARoute: strangers may send to what the list has, and the rest is refused before it is taken.
func TestListedRecipientsOfARoute(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	m, ctx := c.Nodes[0], within(t, 3*time.Minute)
	c.setRoute(admin.Route{Domain: "inner.example", Target: "smtp:" + c.Sink.Addr,
		RouteHops: admin.RouteHops{Recipients: "list"}})
	n, err := m.Client().ChangeRecipients(ctx, admin.By{Why: "test"}, "inner.example",
		admin.RecipientChange{Add: []string{"carol", "dora@inner.example"}})
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
	d := strangerTo(t, m.SMTP)
	d.play("S: 220", "C: EHLO client.test", "S: 250", "C: MAIL FROM:<ann@far.example>", "S: 250",
		"C: RCPT TO:<nobody@inner.example>", "S: 550 5.1.1", "C: RCPT TO:<x@below.inner.example>", "S: 550 5.7.1",
		"C: RCPT TO:<Carol@Inner.Example>", "S: 250")
	d.play(letter("listed")...)
	c.arrives(c.Sink, "Carol@inner.example")
	all, err := m.Client().Recipients(ctx, "inner.example", "", 0)
	require.NoError(t, err)
	require.Equal(t, []string{"carol@inner.example", "dora@inner.example"}, all)
	_, err = m.Send(ctx, "alice@example.test", "nobody@inner.example", Letter("unknown"))
	require.ErrorContains(t, err, "5.1.1", "nor is a trusted client's mail taken and returned")
}
