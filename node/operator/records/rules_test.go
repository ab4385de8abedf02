package records

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

func (w *world) raise() {
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
}

// TestRulesAsTheyAreKept: names, addresses and networks in one form, whichever the operator gave.
func TestRulesAsTheyAreKept(t *testing.T) {
	w := newWorld(t)
	_, err := w.NewRule(admin.RuleAdd{Action: "hold", RuleMatch: admin.RuleMatch{All: true}})
	require.ErrorContains(t, err, "rules need cluster version 2")
	w.raise()
	w.do(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{DefaultDomain: "example.test"}})
	w.do(spool.KindPutAccount, &pb.PutAccount{
		Account: &pb.Account{Address: "archive@example.test", Password: "$argon2id$x"}, Create: true})
	order := uint32(7)
	for _, c := range []struct {
		in   admin.RuleAdd
		want *pb.Rule
	}{
		{admin.RuleAdd{RuleMatch: admin.RuleMatch{Domain: " *.Bücher.Example. "}},
			&pb.Rule{Domain: ".xn--bcher-kva.example"}},
		{admin.RuleAdd{RuleMatch: admin.RuleMatch{Domain: ".far.example"}}, &pb.Rule{Domain: ".far.example"}},
		{admin.RuleAdd{RuleMatch: admin.RuleMatch{Sender: "<>", User: "Alice"}},
			&pb.Rule{Sender: "<>", User: "alice@example.test"}},
		{admin.RuleAdd{RuleMatch: admin.RuleMatch{Sender: "<Ann@X.Example>", Recipient: "*@Y.Example"}},
			&pb.Rule{Sender: "ann@x.example", Recipient: "@y.example"}},
		{admin.RuleAdd{RuleMatch: admin.RuleMatch{Client: "192.0.2.77/24"}}, &pb.Rule{Client: "192.0.2.0/24"}},
		{admin.RuleAdd{RuleMatch: admin.RuleMatch{Client: "::ffff:192.0.2.7"}}, &pb.Rule{Client: "192.0.2.7/32"}},
		{admin.RuleAdd{RuleMatch: admin.RuleMatch{Client: "2001:db8::1"}}, &pb.Rule{Client: "2001:db8::1/128"}},
		{admin.RuleAdd{Action: "redirect", RuleMatch: admin.RuleMatch{All: true}, To: "SMTP:[hop.example]:25", Order: &order},
			&pb.Rule{Action: pb.RuleAction_RULE_REDIRECT, All: true, To: "smtp:hop.example:25", Order: 7}},
		{admin.RuleAdd{Action: "copy", RuleMatch: admin.RuleMatch{All: true}, To: "Archive"},
			&pb.Rule{Action: pb.RuleAction_RULE_COPY, All: true, To: "archive@example.test"}},
		{admin.RuleAdd{Action: "bounce", RuleMatch: admin.RuleMatch{All: true}, Reason: "Not now", ExpiresSeconds: 60},
			&pb.Rule{Action: pb.RuleAction_RULE_BOUNCE, All: true, Reason: "Not now",
				ExpiresMs: w.rep.Clock.Add(time.Minute).UnixMilli()}},
	} {
		if c.in.Action == "" {
			c.in.Action, c.want.Action = "hold", pb.RuleAction_RULE_HOLD
		}
		if c.want.Order == 0 {
			c.want.Order = 1000
		}
		got, err := w.NewRule(c.in)
		require.NoError(t, err, "%+v", c.in)
		require.Equal(t, c.want.String(), got.String())
	}
}

// TestRulesThatAreRefused: what no mail can match, what would match all by mistake, and what would write lines of its
// own into replies, reports and logs.
func TestRulesThatAreRefused(t *testing.T) {
	w := newWorld(t)
	w.raise()
	all := admin.RuleMatch{All: true}
	far := uint32(2000000)
	for _, c := range []struct {
		in  admin.RuleAdd
		say string
	}{
		{admin.RuleAdd{Action: "hold"}, "say so with --all"},
		{admin.RuleAdd{Action: "hold", RuleMatch: admin.RuleMatch{All: true, Domain: "x.example"}}, "either all"},
		{admin.RuleAdd{Action: "hold", RuleMatch: admin.RuleMatch{Site: "google"}}, "can not be about a site yet"},
		{admin.RuleAdd{Action: "none", RuleMatch: all}, "is no action"},
		{admin.RuleAdd{Action: "hold\x1b[2J", RuleMatch: all}, "is no action"},
		{admin.RuleAdd{Action: "hold", RuleMatch: admin.RuleMatch{Domain: "no domain"}}, "not the name of a domain"},
		{admin.RuleAdd{Action: "hold", RuleMatch: admin.RuleMatch{Domain: "*"}}, "a domain is missing"},
		{admin.RuleAdd{Action: "hold", RuleMatch: admin.RuleMatch{Domain: "x.example\r\nQUIT"}}, "not the name of a domain"},
		{admin.RuleAdd{Action: "hold", RuleMatch: admin.RuleMatch{Domain: "*.*.example"}}, "not the name of a domain"},
		{admin.RuleAdd{Action: "hold", RuleMatch: admin.RuleMatch{Sender: "ann"}}, "has no domain"},
		{admin.RuleAdd{Action: "hold", RuleMatch: admin.RuleMatch{Sender: "@"}}, "a domain is missing"},
		{admin.RuleAdd{Action: "hold", RuleMatch: admin.RuleMatch{Recipient: "<>"}}, "has no domain"},
		{admin.RuleAdd{Action: "hold", RuleMatch: admin.RuleMatch{Recipient: "a b@x.example"}}, "not a mail address"},
		{admin.RuleAdd{Action: "hold", RuleMatch: admin.RuleMatch{Client: "192.0.2.0/33"}}, "neither an IP address"},
		{admin.RuleAdd{Action: "hold", RuleMatch: admin.RuleMatch{Client: "fe80::1%eth0"}}, "neither an IP address"},
		{admin.RuleAdd{Action: "hold", RuleMatch: all, To: "smtp:x.example"}, "only a rule that redirects"},
		{admin.RuleAdd{Action: "redirect", RuleMatch: all}, "say where to"},
		{admin.RuleAdd{Action: "redirect", RuleMatch: all, To: "https://x.example"}, "https"},
		{admin.RuleAdd{Action: "copy", RuleMatch: all, To: "smtp:x.example"}, "smtp:x.example"},
		{admin.RuleAdd{Action: "discard", RuleMatch: all, Reason: "x"}, "give --why"},
		{admin.RuleAdd{Action: "bounce", RuleMatch: all, Reason: "no\r\n250 2.0.0 yes"}, "control characters"},
		{admin.RuleAdd{Action: "bounce", RuleMatch: all, Reason: "no\x1b[2J"}, "control characters"},
		{admin.RuleAdd{Action: "bounce", RuleMatch: all, Reason: "\u202eno"}, "control characters"},
		{admin.RuleAdd{Action: "bounce", RuleMatch: all, Reason: "\xff"}, "control characters"},
		{admin.RuleAdd{Action: "bounce", RuleMatch: all, Reason: "Grüße"}, "ASCII"},
		{admin.RuleAdd{Action: "bounce", RuleMatch: all, Reason: strings.Repeat("x", 201)}, "200 octets"},
		{admin.RuleAdd{Action: "hold", RuleMatch: all, ExpiresSeconds: 1 << 62}, "ten years"},
		{admin.RuleAdd{Action: "hold", RuleMatch: all, ExpiresSeconds: -1}, "ten years"},
		{admin.RuleAdd{Action: "hold", RuleMatch: all, Order: &far}, "at most"},
	} {
		_, err := w.NewRule(c.in)
		require.ErrorContains(t, err, c.say, "%+v", c.in)
		require.ErrorIs(t, err, admin.ErrInvalid, "%+v", c.in)
		require.False(t, strings.ContainsAny(err.Error(), "\r\n\x1b"), "%q", err)
	}
}

// TestRulesComeAndGo: with who made them and why; the audit log says what they were.
func TestRulesComeAndGo(t *testing.T) {
	w := newWorld(t)
	w.raise()
	ctx := context.Background()
	match := admin.RuleMatch{Domain: "far.example"}
	r, err := w.NewRule(admin.RuleAdd{Action: "suspend", RuleMatch: match, Reason: "later"})
	require.NoError(t, err)
	made, err := w.MakeRule(ctx, theBy, r)
	require.NoError(t, err)
	require.NotZero(t, made.ID)
	require.Equal(t, []string{"olga", "a test", "suspend"}, []string{made.Who, made.Why, made.Action})
	one, err := w.Rule(ctx, made.ID)
	require.NoError(t, err)
	require.Equal(t, made.Rule, *one)
	all, err := w.Rules(ctx)
	require.NoError(t, err)
	require.Equal(t, []admin.Rule{*one}, all)
	require.NoError(t, w.RemoveRule(ctx, theBy, made.ID))
	require.ErrorIs(t, w.RemoveRule(ctx, theBy, made.ID), admin.ErrNotFound)
	_, err = w.Rule(ctx, made.ID)
	require.ErrorIs(t, err, admin.ErrNotFound)
	var lines []string
	require.NoError(t, w.rep.View(func(v spool.View) error {
		return v.Audits(0, func(a *pb.Audit) bool { lines = append(lines, a.What); return true })
	}))
	require.Contains(t, lines[len(lines)-2], `: new, domain far.example, reason "later", order 1000`)
	require.Contains(t, lines[len(lines)-1], `: was suspend, domain far.example, reason "later", order 1000`)
}

// TestRulesThatCanNotWork: a copy to where nobody gets it is refused, and a cluster of version 1 says that it has none.
func TestRulesThatCanNotWork(t *testing.T) {
	w := newWorld(t)
	require.ErrorContains(t, w.RemoveRule(context.Background(), theBy, 7), "rules need cluster version 2")
	w.raise()
	w.do(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "example.test"}})
	copying := admin.RuleAdd{Action: "copy", RuleMatch: admin.RuleMatch{All: true}, To: "nobody@example.test"}
	_, err := w.NewRule(copying)
	require.ErrorContains(t, err, "no mail arrives at nobody@example.test: no such user")
	copying.To = "archive@far.test"
	_, err = w.NewRule(copying)
	require.NoError(t, err)
}
