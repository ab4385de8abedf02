package spool_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

func hold(domain string, order uint32) *pb.PutRule {
	return &pb.PutRule{
		Admin: &pb.Admin{Who: "ann", Why: "they asked"},
		Rule:  &pb.Rule{Order: order, Action: pb.RuleAction_RULE_HOLD, Domain: domain},
	}
}

func (r *replica) rules() (ids []uint64) {
	all, err := r.view().Rules()
	require.NoError(r.t, err)
	for _, one := range all {
		ids = append(ids, one.Id)
	}
	require.EqualValues(r.t, len(all), r.counter(spool.CountRules))
	return ids
}

// TestRulesAreKeptInOrder: the lowest order first, then the oldest; who made a rule and why stays with it.
func TestRulesAreKeptInOrder(t *testing.T) {
	r := newReplicaAt2(t)
	late := r.do(spool.KindPutRule, hold("a.example", 1000)).Index
	later := r.do(spool.KindPutRule, hold("b.example", 1000)).Index
	early := r.do(spool.KindPutRule, hold("c.example", 10)).Index
	require.Equal(t, []uint64{early, late, later}, r.rules())
	one, ok, err := r.view().Rule(late)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, []string{"ann", "they asked"}, []string{one.Who, one.Why})
	require.NotZero(t, one.CreatedMs)
	require.Equal(t, pb.Code_OK, r.do(spool.KindDropRule, &pb.DropRule{Id: late}).Code)
	require.Equal(t, pb.Code_MISSING, r.do(spool.KindDropRule, &pb.DropRule{Id: late}).Code)
	require.Equal(t, []uint64{early, later}, r.rules())
	again := hold("d.example", 1)
	again.Admin.Request = []byte("0123456789abcdef")
	first := r.do(spool.KindPutRule, again)
	require.Equal(t, first.Index, r.do(spool.KindPutRule, again).Index, "a request sent twice makes one rule")
	require.Len(t, r.rules(), 3)
}

// TestRulesThatSayNothing are refused, whoever proposes them.
func TestRulesThatSayNothing(t *testing.T) {
	v1 := newReplica(t)
	require.Equal(t, pb.Code_INVALID, v1.do(spool.KindPutRule, hold("a.example", 1)).Code, "of version 1")
	r := newReplicaAt2(t)
	for name, change := range map[string]func(*pb.Rule){
		"nothing to match":            func(r *pb.Rule) { r.Domain = "" },
		"all, and something to match": func(r *pb.Rule) { r.All = true },
		"no action":                   func(r *pb.Rule) { r.Action = pb.RuleAction_RULE_NONE },
		"an unknown action":           func(r *pb.Rule) { r.Action = 99 },
		"to nowhere":                  func(r *pb.Rule) { r.Action = pb.RuleAction_RULE_REDIRECT },
		"a hold that leads somewhere": func(r *pb.Rule) { r.To = "smtp:x" },
		"over at once":                func(r *pb.Rule) { r.ExpiresMs = 1 },
		"two lines for the sender":    func(r *pb.Rule) { r.Reason = "no\r\n250 yes" },
		"too long":                    func(r *pb.Rule) { r.Reason = strings.Repeat("x", 9000) },
	} {
		h := hold("a.example", 1)
		change(h.Rule)
		require.Equal(t, pb.Code_INVALID, r.do(spool.KindPutRule, h).Code, name)
	}
	require.Equal(t, pb.Code_INVALID, r.do(spool.KindPutRule, &pb.PutRule{}).Code)
	require.Empty(t, r.rules())
}

// TestRulesEnd: a Sweep ends those whose time is over, where it may judge by ages, and the audit log names them.
func TestRulesEnd(t *testing.T) {
	r := newReplicaAt2(t)
	r.pass(time.Second)
	put := func(in time.Duration) uint64 {
		h := hold("a.example", 1)
		if in > 0 {
			h.Rule.ExpiresMs = r.clock() + in.Milliseconds()
		}
		return r.do(spool.KindPutRule, h).Index
	}
	short, long, forGood := put(10*time.Second), put(30*time.Second), put(0)
	sweep := func(ages bool) { r.do(spool.KindSweep, &pb.Sweep{Limit: 100, Ages: ages}) }
	sweep(true)
	require.Equal(t, []uint64{short, long, forGood}, r.rules())
	r.pass(15 * time.Second)
	sweep(false)
	require.Len(t, r.rules(), 3, "the clocks do not agree")
	sweep(true)
	require.Equal(t, []uint64{long, forGood}, r.rules())
	r.pass(30 * time.Second)
	sweep(true)
	require.Equal(t, []uint64{forGood}, r.rules())
	var lines []string
	require.NoError(t, r.view().Audits(0, func(a *pb.Audit) bool {
		lines = append(lines, a.Who+": "+a.What)
		return true
	}))
	require.Contains(t, lines, fmt.Sprintf("cluster: rule rm %d", short))
	require.Contains(t, lines, fmt.Sprintf("cluster: rule rm %d", long))
	require.Contains(t, lines, fmt.Sprintf("ann: rule add hold, rule %d", short))
}

// TestReleasedMailPassesRules: a Manage that releases with pass marks entries that no operator holds, too.
func TestReleasedMailPassesRules(t *testing.T) {
	r := newReplicaAt2(t)
	epoch := r.register("n1", "x")
	id := spool.ID{1}
	r.do(spool.KindAccept, acceptOf(id, epoch, []string{"x@far.example"}), []byte("body"))
	release := &pb.Manage{Action: pb.Action_RELEASE, Ids: [][]byte{id[:]}, Admin: &pb.Admin{Who: "ann"}}
	require.Equal(t, pb.Code_MISSING, r.do(spool.KindManage, release).Code)
	release.Pass = true
	res := r.do(spool.KindManage, release)
	require.Equal(t, pb.Code_OK, res.Code)
	one, _, err := r.view().Recipient(id, 0)
	require.NoError(t, err)
	require.Equal(t, res.Index, one.Pass)
	require.Equal(t, pb.State_QUEUED, one.State)
}
