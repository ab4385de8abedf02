package operator

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

func (w *world) rule(r admin.RuleAdd) *admin.RuleAdded {
	made, err := w.AddRule(context.Background(), theBy, r)
	require.NoError(w.t, err)
	return made
}

func newRuledWorld(t testing.TB) *world {
	w := newWorld(t)
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	return w
}

// TestQueueShowsWhatRulesDo: states, which rule, why, and what ends it; counts of whole destinations; release lets mail
// pass, and a rule that comes later holds it again.
func TestQueueShowsWhatRulesDo(t *testing.T) {
	w := newRuledWorld(t)
	ctx := context.Background()
	id := w.accept("s@remote.test", "a@far.test", "b@other.test")
	w.accept("s@remote.test", "c@far.test")
	hold := w.rule(admin.RuleAdd{Action: "hold", RuleMatch: admin.RuleMatch{Domain: "far.test"}, ExpiresSeconds: 3600})
	suspend := w.rule(admin.RuleAdd{Action: "suspend", RuleMatch: admin.RuleMatch{Sender: "@remote.test"}})

	d, err := w.Message(ctx, id.String())
	require.NoError(t, err)
	require.Equal(t, []string{admin.StateHeld, admin.StateSuspended},
		[]string{d.Recipients[0].State, d.Recipients[1].State})
	require.Equal(t, []uint64{hold.ID, suspend.ID}, []uint64{d.Recipients[0].Rule, d.Recipients[1].Rule})
	why := strings.Join(d.Why, "\n")
	require.Contains(t, why, fmt.Sprintf("a@far.test: held by rule %d (domain far.test, order 1000, until ", hold.ID))
	require.Contains(t, why, "of olga, because: a test; it goes on at ")
	require.Contains(t, why, fmt.Sprintf("b@other.test: suspended by rule %d", suspend.ID))
	require.Contains(t, why, "it goes on when the rule is removed, or by 'relayctl queue release")

	held, _, err := w.Queue(ctx, admin.QueuePage{Filter: admin.QueueFilter{State: admin.StateHeld}, Limit: 10})
	require.NoError(t, err)
	require.Len(t, held, 2)
	stats, err := w.Stats(ctx)
	require.NoError(t, err)
	require.Equal(t, map[string]uint64{"held": 2, "suspended": 1}, stats.States)
	require.Equal(t, []admin.RuleCount{
		{Rule: hold.ID, Action: "hold", Recipients: 2}, {Rule: suspend.ID, Action: "suspend", Recipients: 1},
	}, stats.Rules)
	retry, err := w.Manage(ctx, theBy, admin.QueueAction{Action: admin.ActionRetry, IDs: []string{id.String()}})
	require.NoError(t, err)
	require.Zero(t, retry.Changed, "a retry is no release")

	for range 2 { // the second time there is nothing to release
		_, err = w.Manage(ctx, theBy, admin.QueueAction{Action: admin.ActionRelease, IDs: []string{id.String()}})
		require.NoError(t, err)
	}
	d, err = w.Message(ctx, id.String())
	require.NoError(t, err)
	require.Equal(t, []string{admin.StateQueued, admin.StateQueued},
		[]string{d.Recipients[0].State, d.Recipients[1].State})
	again := w.rule(admin.RuleAdd{Action: "hold", RuleMatch: admin.RuleMatch{All: true}})
	test, err := w.TestRules(ctx, admin.RuleEnvelope{ID: id.String()})
	require.NoError(t, err)
	require.Equal(t, again.ID, test.Results[0].Rule.ID)
	w.pass(2 * time.Hour)
	test, err = w.TestRules(ctx, admin.RuleEnvelope{Sender: "x@y.test", Recipient: "q@far.test"})
	require.NoError(t, err)
	require.Equal(t, again.ID, test.Results[0].Rule.ID, "the first is over")
}

// TestRulesAreTestedByWhatIsThere: mistakes are told, not answered with no rule.
func TestRulesAreTestedByWhatIsThere(t *testing.T) {
	w := newRuledWorld(t)
	for _, e := range []admin.RuleEnvelope{
		{}, {ID: "nonsense"}, {ID: "01JABCDEFGHJKMNPQRSTVWXYZ0"}, {ID: "x", Sender: "y"}, {Recipient: "a b"},
		{Recipient: "x@y.test", Sender: "no address@"}, {Recipient: "x@y.test", User: "@"},
		{Recipient: "x@y.test", Client: "mail.y.test"},
	} {
		_, err := w.TestRules(context.Background(), e)
		require.Error(t, err, "%+v", e)
	}
}

// TestDryRunsOfRulesTellTheTruth: a rule decides on what its dry run counted, with whatever rules beside it.
func TestDryRunsOfRulesTellTheTruth(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newRuledWorld(t)
		pick := func(of ...string) string { return rapid.SampledFrom(of).Draw(rt, "x") }
		for range rapid.IntRange(0, 6).Draw(rt, "mail") {
			w.accept(pick("s@remote.test", "t@else.test"), pick("a@far.test", "b@other.test"),
				pick("c@far.test", "d@sub.far.test"))
		}
		add := func() admin.RuleAdd {
			order := uint32(rapid.IntRange(1, 3).Draw(rt, "order"))
			r := admin.RuleAdd{Action: pick("hold", "suspend", "bounce", "discard"), Order: &order, RuleMatch: admin.RuleMatch{
				Domain: pick("", "far.test", "*.far.test"), Sender: pick("", "@remote.test"), Recipient: pick("", "a@far.test")}}
			r.All = r.RuleMatch == admin.RuleMatch{}
			return r
		}
		for range rapid.IntRange(0, 3).Draw(rt, "rules") {
			w.rule(add())
		}
		last := add()
		dry := last
		dry.DryRun = true
		would := w.rule(dry)
		made := w.rule(last)
		recipients, messages := uint64(0), uint64(0)
		for _, m := range pages(rt, w.Operator, admin.QueuePage{Limit: 3}) {
			n := uint64(0)
			for _, r := range m.Recipients {
				if r.Rule == made.ID {
					n++
				}
			}
			if recipients += n; n > 0 {
				messages++
			}
		}
		require.Equal(rt, []uint64{messages, recipients}, []uint64{would.Messages, would.Recipients})
		require.Len(rt, would.Examples, int(min(messages, ruleExamples)))
	})
}

// TestReleaseLeavesWhatNoRuleKeeps: of a message that rules hold in part the other recipients wait as before.
func TestReleaseLeavesWhatNoRuleKeeps(t *testing.T) {
	w := newRuledWorld(t)
	id := w.accept("s@remote.test", "a@far.test", "b@other.test")
	w.rule(admin.RuleAdd{Action: "hold", RuleMatch: admin.RuleMatch{Domain: "far.test"}})
	ctx := context.Background()
	_, err := w.Manage(ctx, theBy, admin.QueueAction{Action: admin.ActionRelease, IDs: []string{id.String()}})
	require.NoError(t, err)
	d, err := w.Trace(ctx, id.String())
	require.NoError(t, err)
	var released []string
	for _, e := range d.Events {
		if e.What == "released" {
			released = append(released, e.Recipient)
		}
	}
	require.Equal(t, []string{"a@far.test"}, released)
}
