package inbound

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/milter"
	"relay/node/plan"
	"relay/node/replica"
	"relay/node/rule"
)

// copied plans a message to far.test under a rule that copies what goes to one of its addresses.
func copied(t *testing.T, watched string, holdUntilMs int64) *intake {
	w := newWorld(t)
	m := newMailer(w, nil, "n1", "mx.example.test", 50, zap.NewNop())
	set := rule.Compile([]*pb.Rule{
		{Id: 7, Action: pb.RuleAction_RULE_COPY, Recipient: watched, To: "alice@example.test"}})
	m.rules = func() *rule.Set { return set }
	now := w.Now()
	in := &intake{mailer: m, id: replica.NewID(now), now: now, env: &envelope{
		sender: "s@remote.test", client: &pb.Client{}, rcpts: []plan.Recipient{
			{Address: "a@far.test", Targets: []directory.Target{{Recipient: "a@far.test"}}},
			{Address: "b@far.test", Targets: []directory.Target{{Recipient: "b@far.test"}}},
		}}}
	in.env.options.HoldUntilMs = holdUntilMs
	require.NoError(t, in.beginPlan(t.Context()))
	return in
}

// TestCopiesWaitAsTheMessageDoes: of what its sender wants delivered later nothing arrives before, no copy either.
func TestCopiesWaitAsTheMessageDoes(t *testing.T) {
	until := copied(t, "a@far.test", 0).now.UnixMilli() + 600000
	in := copied(t, "a@far.test", until)
	require.Len(t, in.plan.Copies, 1)
	for _, r := range append(in.plan.Recipients, in.plan.Copies[0].Recipients...) {
		require.Equal(t, until, r.NextMs, r.Address)
	}
}

// TestCopiesGoByTheRecipientsThatFiltersLeave: none for one that a filter takes away, and one for one that it adds. A
// body that has gone ahead has its copies already: they keep their ids, and no more are possible.
func TestCopiesGoByTheRecipientsThatFiltersLeave(t *testing.T) {
	in := copied(t, "a@far.test", 0)
	require.Len(t, in.plan.Copies, 1)
	kept := spool.ID(in.plan.Copies[0].Message.Id)
	require.NoError(t, in.readdress(t.Context(), &milter.Verdict{Drop: []string{"b@far.test"}}))
	require.Len(t, in.plan.Copies, 1)
	require.Equal(t, kept, spool.ID(in.plan.Copies[0].Message.Id))
	require.NoError(t, in.readdress(t.Context(),
		&milter.Verdict{Drop: []string{"a@far.test"}, Add: []string{"c@far.test"}}))
	require.Empty(t, in.plan.Copies)

	in = copied(t, "c@far.test", 0)
	require.Empty(t, in.plan.Copies)
	require.NoError(t, in.readdress(t.Context(), &milter.Verdict{Add: []string{"c@far.test"}}))
	require.Len(t, in.plan.Copies, 1)

	in = copied(t, "c@far.test", 0)
	in.state = bodyChunked
	require.ErrorIs(t, in.readdress(t.Context(), &milter.Verdict{Add: []string{"c@far.test"}}), replyFilterLarge)
}
