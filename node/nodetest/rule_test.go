package nodetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

// addRule makes a rule at a node, once the cluster keeps rules.
func (c *Cluster) addRule(t *testing.T, m *Member, r admin.RuleAdd) *admin.RuleAdded {
	t.Helper()
	c.Eventually(20*time.Second, "no cluster version 2", func() bool {
		s, err := m.Client().Status(within(t, 5*time.Second))
		return err == nil && s.ClusterVersion >= 2
	})
	made, err := m.Client().AddRule(within(t, 20*time.Second), admin.By{Who: "ann", Why: "a test"}, r)
	require.NoError(t, err)
	return made
}

// waits is the message as a node's queue shows it; empty where nothing of it waits.
func (m *Member) waits(t *testing.T, id string) (state string, rule uint64, why string) {
	d, err := m.Client().Message(within(t, 5*time.Second), id)
	if err != nil {
		return "", 0, err.Error()
	}
	return d.Recipients[0].State, d.Recipients[0].Rule, strings.Join(d.Why, " ")
}

// TestRulesOutliveTheLeader: a rule holds what waits and what comes at all nodes; no mail goes, and nothing is tried,
// when the leader dies and others take over what it had, or when it is back. The end of the rule lets all go, once.
func TestRulesOutliveTheLeader(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: Quick()})
	leader := c.Leader()
	rule := c.addRule(t, c.Nodes[0], admin.RuleAdd{
		Action: admin.RuleHold, RuleMatch: admin.RuleMatch{Domain: "*.held.example", Sender: "@example.test"}})
	var ids []string
	for i, m := range c.Nodes {
		to, letter := fmt.Sprintf("x%d@a.held.example", i), Letter(fmt.Sprint("held", i))
		ids = append(ids, m.MustSend("alice@example.test", to, letter))
		m.MustSend("alice@example.test", fmt.Sprintf("y%d@far.example", i), Letter(fmt.Sprint("goes", i)))
	}
	require.NoError(t, c.Sink.Wait(within(t, 30*time.Second), 3))
	held := func(n int) {
		t.Helper()
		for _, m := range c.Up() {
			for _, id := range ids {
				c.Eventually(20*time.Second, m.ID+" does not show that it is held", func() bool {
					state, by, _ := m.waits(t, id)
					return state == admin.StateHeld && by == rule.ID
				})
			}
		}
		require.Len(t, c.Sink.Got(), n)
	}
	held(3)
	_, _, why := c.Nodes[1].waits(t, ids[0])
	require.Contains(t, why, fmt.Sprintf("held by rule %d", rule.ID))
	require.Contains(t, why, "of admin, because: a test")

	leader.Kill()
	c.Eventually(30*time.Second, "nobody took over", func() bool {
		for _, id := range ids {
			d, err := c.Up()[0].Client().Message(within(t, 5*time.Second), id)
			if err != nil || d.Owner == "" || d.Owner == leader.ID {
				return false
			}
		}
		return true
	})
	id := c.Up()[1].MustSend("alice@example.test", "new@a.held.example", Letter("held3"))
	ids = append(ids, id)
	c.Up()[0].MustSend("alice@example.test", "z@far.example", Letter("goes3"))
	require.NoError(t, c.Sink.Wait(within(t, 30*time.Second), 4))
	held(4)
	// A rule that was made while the node was away counts for it, too.
	missed := c.addRule(t, c.Up()[0], admin.RuleAdd{
		Action: admin.RuleSuspend, RuleMatch: admin.RuleMatch{Recipient: "@missed.example"}})
	leader.Start()
	leader.WaitReady()
	c.WaitHealthy()
	held(4)
	id = leader.MustSend("alice@example.test", "x@missed.example", Letter("missed"))
	c.Eventually(20*time.Second, "the node does not go by it", func() bool {
		state, by, _ := leader.waits(t, id)
		return state == admin.StateSuspended && by == missed.ID
	})
	require.Len(t, c.Sink.Got(), 4)
	for _, m := range ids {
		require.Equal(t, "accepted", c.timeline(t, m), "nothing was written and nothing tried")
	}

	require.NoError(t, leader.Client().RemoveRule(within(t, 20*time.Second), admin.By{Who: "ann"}, rule.ID))
	require.NoError(t, c.Sink.Wait(within(t, 30*time.Second), 8))
	c.Verify()
	seen := map[string]int{}
	for _, d := range c.Sink.Got() {
		seen[SubjectOf(d.Body)]++
	}
	for i := range 4 {
		require.Equal(t, 1, seen[fmt.Sprint("held", i)], "%v", seen)
	}
}

// TestRulesActOnce: each action, on what waits already and on what comes.
func TestRulesActOnce(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	n := c.Nodes[0]
	add := func(r admin.RuleAdd) uint64 { return c.addRule(t, n, r).ID }
	send := func(to string) string { return n.MustSend("alice@example.test", to, Letter(to)) }
	hold := add(admin.RuleAdd{Action: admin.RuleHold, RuleMatch: admin.RuleMatch{All: true}})
	one, two, three := send("x@bounce.example"), send("x@discard.example"), send("x@suspend.example")
	state := func(id, want string) {
		t.Helper()
		c.Eventually(20*time.Second, "not "+want, func() bool { s, _, _ := n.waits(t, id); return s == want })
	}
	state(three, admin.StateHeld)

	first := uint32(1)
	early := func(action, domain, to, reason string) admin.RuleAdd {
		match := admin.RuleMatch{Domain: domain}
		return admin.RuleAdd{Action: action, RuleMatch: match, To: to, Reason: reason, Order: &first}
	}
	dry := early(admin.RuleBounce, "bounce.example", "", "5.7.9 not like this")
	dry.DryRun = true
	would := c.addRule(t, n, dry)
	require.EqualValues(t, 1, would.Messages)
	require.Equal(t, one, would.Examples[0].ID)
	state(one, admin.StateHeld)
	dry.DryRun = false
	add(dry)
	c.Eventually(20*time.Second, "no bounce",
		func() bool { return strings.Contains(c.timeline(t, one), "bounced notified") })
	add(early(admin.RuleDiscard, "discard.example", "", ""))
	c.Eventually(20*time.Second, "not discarded", func() bool { return c.timeline(t, two) == "accepted deleted" })
	trace, err := n.Client().Trace(within(t, 5*time.Second), two)
	require.NoError(t, err)
	require.Contains(t, trace.Events[1].Host, "rule ")
	add(early(admin.RuleSuspend, "suspend.example", "", "later"))
	state(three, admin.StateSuspended)

	subjects := func() map[string]int {
		s, err := n.Subjects("alice")
		require.NoError(t, err)
		return s
	}
	c.Eventually(20*time.Second, "no report", func() bool { return len(subjects()) == 1 })
	test, err := n.Client().TestRules(within(t, 5*time.Second), admin.RuleEnvelope{ID: three})
	require.NoError(t, err)
	require.Equal(t, admin.RuleSuspend, test.Results[0].Rule.Action)

	// Of what is released both rules are passed; then all goes.
	released, err := n.Client().Manage(within(t, 10*time.Second), admin.By{Who: "ann"},
		admin.QueueAction{Action: admin.ActionRelease, IDs: []string{three}})
	require.NoError(t, err)
	require.Equal(t, 1, released.Changed)
	require.NoError(t, c.Sink.Wait(within(t, 30*time.Second), 1))
	c.Eventually(20*time.Second, "not delivered", func() bool {
		return c.timeline(t, three) == "accepted released delivered"
	})

	other := NewSink(t, "127.0.0.1:0")
	add(early(admin.RuleRedirect, "away.example", "smtp:"+other.Addr, ""))
	add(early(admin.RuleCopy, "away.example", "bob@example.test", ""))
	four := send("x@away.example")
	require.NoError(t, other.Wait(within(t, 30*time.Second), 1))
	c.Eventually(20*time.Second, "not delivered", func() bool { return c.timeline(t, four) == "accepted delivered" })
	trace, err = n.Client().Trace(within(t, 5*time.Second), four)
	require.NoError(t, err)
	require.Contains(t, trace.Events[1].Host, strings.TrimPrefix(other.Addr, "127.0.0.1"))
	require.NoError(t, n.Client().RemoveRule(within(t, 20*time.Second), admin.By{}, hold))
	c.Eventually(20*time.Second, "no copy, or more than one", func() bool {
		s, err := n.Subjects("bob")
		return err == nil && s["x@away.example"] == 1 && len(s) == 1
	})
	audit, err := n.Client().Audit(within(t, 5*time.Second), admin.AuditQuery{Limit: 1})
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("rule rm %d: was hold, all mail, order 1000", hold), audit[0].What)
	c.Verify()
}

// TestRulesEndByThemselves: what a rule held goes when its time is over, though no Sweep has come yet.
func TestRulesEndByThemselves(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	n := c.Nodes[0]
	c.addRule(t, n, admin.RuleAdd{Action: admin.RuleHold, RuleMatch: admin.RuleMatch{All: true}, ExpiresSeconds: 2})
	id := n.MustSend("alice@example.test", "x@far.example", Letter("later"))
	require.NoError(t, c.Sink.Wait(within(t, 30*time.Second), 1))
	require.Contains(t, c.timeline(t, id), "accepted")
}
