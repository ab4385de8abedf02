package outbound

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica"
	"relay/node/replica/replicatest"
	"relay/queue"
)

func (w *outboundWorld) do(t *testing.T, kind spool.Kind, h proto.Message) *pb.Result {
	t.Helper()
	res, err := replica.Propose(t.Context(), w.replica, kind, h)
	require.NoError(t, err)
	require.Equal(t, pb.Code_OK, res.Code, res.Text)
	return res
}

// ruledOutbound is a queue of a cluster that keeps rules.
func ruledOutbound(t *testing.T) *outboundWorld {
	w := newOutboundWorld(t)
	w.do(t, spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	w.do(t, spool.KindRaise, &pb.Raise{From: 1, To: 2})
	w.rules.stale.Store(true)
	return w
}

func (w *outboundWorld) rule(t *testing.T, r *pb.Rule) uint64 {
	id := w.do(t, spool.KindPutRule, &pb.PutRule{Rule: r}).Index
	require.NoError(t, w.reread())
	return id
}

// scanned is the one entry as a scan tells it.
func (w *outboundWorld) scanned(t *testing.T) (one queue.Waiting) {
	require.NoError(t, w.Scan(t.Context(), func(x queue.Waiting) { one = x }))
	return one
}

// loaded is the one recipient as an attempt gets it.
func (w *outboundWorld) loaded(t *testing.T) (*queue.Job, queue.Recipient) {
	owners := spool.Owners{}
	require.NoError(t, w.replica.View(func(v spool.View) (err error) { owners, err = v.Owners(); return err }))
	w.owners.Store(&owners)
	job, err := w.Load(t.Context(), w.id, []uint32{0})
	require.NoError(t, err)
	return job, job.Recipients[0]
}

// TestNoRuleCostsNothing: an attempt hears of rules only where some are, or were.
func TestNoRuleCostsNothing(t *testing.T) {
	w := ruledOutbound(t)
	require.NoError(t, w.reread())
	job, r := w.loaded(t)
	require.False(t, job.Ruled)
	require.Nil(t, r.Ruling, "not even an empty one")
	require.Nil(t, w.Rules())
	require.Nil(t, w.RulesAtHand())
	require.False(t, w.rules.changed.Load())
	id := w.rule(t, &pb.Rule{Action: pb.RuleAction_RULE_HOLD, All: true})
	require.True(t, w.rules.changed.Swap(false))
	w.do(t, spool.KindDropRule, &pb.DropRule{Id: id})
	require.NoError(t, w.reread())
	require.True(t, w.rules.changed.Load())
	job, r = w.loaded(t)
	require.True(t, job.Ruled, "the entry may be where a rule has put it")
	require.Equal(t, queue.Ruling{}, *r.Ruling)
}

// TestRulings: what each action makes of the entry, in the manager's memory and at an attempt.
func TestRulings(t *testing.T) {
	for _, c := range []struct {
		r      *pb.Rule
		scan   func(*queue.Waiting)
		ruling queue.Ruling
	}{
		{&pb.Rule{Action: pb.RuleAction_RULE_HOLD, Domain: "example.org"},
			func(w *queue.Waiting) { w.Parked = true }, queue.Ruling{Act: queue.Hold}},
		{&pb.Rule{Action: pb.RuleAction_RULE_SUSPEND, Sender: "@example.net", Reason: "they move"},
			func(w *queue.Waiting) { w.Suspended = true },
			queue.Ruling{Act: queue.Suspend, Reply: "4.3.2 not tried: suspended by the operator: they move"}},
		{&pb.Rule{Action: pb.RuleAction_RULE_REDIRECT, Recipient: "r@example.org", To: "smtp:hop.example"},
			func(w *queue.Waiting) { w.Route = "smtp:hop.example" },
			queue.Ruling{Act: queue.Redirect, Hop: "smtp:hop.example"}},
		{&pb.Rule{Action: pb.RuleAction_RULE_BOUNCE, All: true},
			func(w *queue.Waiting) { w.Ends, w.Next = true, time.Time{} },
			queue.Ruling{Act: queue.Refuse, Reply: "5.7.1 refused by the operator of this mail system"}},
		{&pb.Rule{Action: pb.RuleAction_RULE_BOUNCE, All: true, Reason: "5.7.9 not so"},
			func(w *queue.Waiting) { w.Ends, w.Next = true, time.Time{} },
			queue.Ruling{Act: queue.Refuse, Reply: "5.7.9 not so"}},
		{&pb.Rule{Action: pb.RuleAction_RULE_DISCARD, All: true},
			func(w *queue.Waiting) { w.Ends, w.Next = true, time.Time{} },
			queue.Ruling{Act: queue.Discard, Reply: "2.0.0 discarded by rule 5"}},
	} {
		w := ruledOutbound(t)
		want := w.scanned(t)
		c.ruling.Rule = w.rule(t, c.r)
		c.scan(&want)
		require.Equal(t, want, w.scanned(t), "%v", c.r)
		_, r := w.loaded(t)
		require.NotNil(t, r.Ruling)
		require.Equal(t, c.ruling, *r.Ruling)

		add := []queue.Waiting{{Ref: want.Ref, Domain: "example.org", Next: want.Next}}
		w.feedRuled(w.Rules(), w.routes.Load(), add)
		require.Equal(t, []bool{want.Parked, want.Suspended, want.Ends}, []bool{add[0].Parked, add[0].Suspended, add[0].Ends})
		require.Equal(t, want.Route, add[0].Route)
		counted := uint64(0)
		for _, n := range w.RuleCounts() {
			counted += n
		}
		require.EqualValues(t, 1, counted, "scans and attempts are not counted")
	}
}

// TestOperatorsComeFirst: a hop set by hand stays, and so does what an operator holds; released mail passes.
func TestOperatorsComeFirst(t *testing.T) {
	w := ruledOutbound(t)
	manage := func(a pb.Action, pass bool) {
		w.do(t, spool.KindManage, &pb.Manage{Action: a, Ids: [][]byte{w.id[:]}, Route: "smtp:hand.example", Pass: pass})
	}
	manage(pb.Action_REROUTE, false)
	redirect := w.rule(t, &pb.Rule{Action: pb.RuleAction_RULE_REDIRECT, All: true, To: "smtp:hop.example"})
	_, r := w.loaded(t)
	require.Equal(t, queue.Ruling{Via: "smtp:hand.example"}, *r.Ruling)
	w.do(t, spool.KindDropRule, &pb.DropRule{Id: redirect})
	w.rule(t, &pb.Rule{Action: pb.RuleAction_RULE_HOLD, All: true})
	manage(pb.Action_HOLD, false)
	require.True(t, w.scanned(t).Parked)
	manage(pb.Action_RELEASE, true)
	require.False(t, w.scanned(t).Parked)
	_, r = w.loaded(t)
	require.Zero(t, r.Ruling.Rule)
	w.rule(t, &pb.Rule{Action: pb.RuleAction_RULE_HOLD, All: true})
	require.True(t, w.scanned(t).Parked, "a rule that came later")
}

// timed is a replica whose time a test sets.
type timed struct {
	*waited
	at time.Time
}

func (r *timed) Now() time.Time { return r.at }

// TestRulesEndOnTime: at the instant that a rule names, whether or not a Sweep has come.
func TestRulesEndOnTime(t *testing.T) {
	w := ruledOutbound(t)
	clock := &timed{w.replica, replicatest.Start}
	w.Spool.replica = clock
	w.rule(t, &pb.Rule{Action: pb.RuleAction_RULE_HOLD, All: true,
		ExpiresMs: replicatest.Start.Add(time.Minute).UnixMilli()})
	require.InDelta(t, time.Minute, w.rulesEnd(), float64(time.Second))
	require.False(t, w.rulesEnded())
	require.True(t, w.scanned(t).Parked)
	clock.at = clock.at.Add(time.Minute)
	require.True(t, w.rulesEnded())
	require.Less(t, w.rulesEnd(), time.Second)
	require.False(t, w.scanned(t).Parked)
	require.NoError(t, w.reread())
	require.True(t, w.rules.changed.Load())
	require.False(t, w.rulesEnded(), "once")
	require.Equal(t, time.Hour, w.rulesEnd())
}

// TestRulesChangeByFeed: on the apply goroutine, before entries of later commands are told.
func TestRulesChangeByFeed(t *testing.T) {
	w := ruledOutbound(t)
	m := queue.New(queue.Config{Spool: w, Agent: nobody{}})
	w.do(t, spool.KindPutRule, &pb.PutRule{Rule: &pb.Rule{Action: pb.RuleAction_RULE_HOLD, All: true}})
	w.Feed(m, spool.Changes{Rules: true, Queued: []spool.Queued{{
		ID: spool.ID(w.id), Owner: w.epoch.Load(), Domain: "example.org", NextMs: replicatest.Start.UnixMilli(),
	}}})
	require.Equal(t, 1, m.Stats().Parked)
}

type nobody struct{}

func (nobody) Deliver(context.Context, *queue.Job) []queue.Verdict { return nil }

// watched calls after behind each View.
type watched struct {
	replica.Fenced
	after func()
}

func (b watched) View(f func(spool.View) error) error {
	err := b.Fenced.View(f)
	b.after()
	return err
}

// TestRulesThatChangeWhileTheyAreRead: they are read once more, by which the newest counts.
func TestRulesThatChangeWhileTheyAreRead(t *testing.T) {
	w := ruledOutbound(t)
	for i := range manyRules + 1 {
		w.do(t, spool.KindPutRule, &pb.PutRule{Rule: &pb.Rule{
			Action: pb.RuleAction_RULE_HOLD, Recipient: fmt.Sprintf("u%d@some.example", i)}})
	}
	require.NoError(t, w.reread())
	one := w.Spool.replica
	w.Spool.replica = watched{one, func() {
		w.Spool.replica = one
		w.do(t, spool.KindPutRule, &pb.PutRule{Rule: &pb.Rule{Action: pb.RuleAction_RULE_HOLD, All: true, Order: 1}})
		w.rulesChange()
	}}
	require.NoError(t, w.reread())
	require.Len(t, w.RulesAtHand().Rules(), manyRules+2)
}

// TestRuledLines: each recipient has a line, of a storm the first ten thousand do, and the rest is counted.
func TestRuledLines(t *testing.T) {
	w := ruledOutbound(t)
	core, logs := observer.New(zap.InfoLevel)
	w.log, w.rules.lines.some = zap.New(core), make(chan struct{}, 1)
	id := w.rule(t, &pb.Rule{Action: pb.RuleAction_RULE_HOLD, All: true})
	add := []queue.Waiting{{Ref: queue.Ref{ID: w.id}, Domain: "example.org"}}
	w.feedRuled(w.Rules(), w.routes.Load(), add)
	require.Zero(t, logs.Len(), "not on the apply goroutine")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, w.LogRuled(ctx))
	require.Equal(t, 1, logs.FilterMessage("ruled").FilterField(zap.Uint64("rule", id)).Len())
	for range ruledMost + 7 {
		w.rules.lines.put(ruledLine{id: w.id})
	}
	require.NoError(t, w.LogRuled(ctx))
	require.Equal(t, ruledMost+1, logs.FilterMessage("ruled").Len())
	require.Equal(t, 1, logs.FilterMessage("ruled more").FilterField(zap.Uint64("count", 7)).Len())
}
