package operator

import (
	"cmp"
	"math"
	"slices"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/rule"
	"relay/node/statelog"
)

// ruleCounts counts, or estimates as ageMatrix does, the recipients that standing rules decide on. Without rules it
// costs nothing.
type ruleCounts struct {
	set   *rule.Set
	now   time.Time
	of    spool.ID // whose message is read
	m     *pb.Message
	found map[ruledCell]float64
}

// ruledCell is a rule, and the state of a recipient's record. moves: the state is another one by the rule, and no rule
// on the whole domain says so, which the counters of domains tell.
type ruledCell struct {
	rule  uint64
	state pb.State
	moves bool
}

func newRuleCounts(set *rule.Set, now time.Time) *ruleCounts {
	return &ruleCounts{set: set, now: now, found: map[ruledCell]float64{}}
}

// count takes a recipient's record in.
func (c *ruleCounts) count(v spool.View, into map[ruledCell]int, id spool.ID, r *pb.Recipient) error {
	if c == nil || !c.set.Queues() || r.State != pb.State_QUEUED && r.State != pb.State_DEFERRED {
		return nil
	}
	if c.set.Deep() && (c.m == nil || c.of != id) {
		m, ok, err := v.Message(id)
		if err != nil || !ok {
			return err
		}
		c.of, c.m = id, m
	}
	one := c.set.Match(rule.Of(c.m, r.Address, r.Pass), c.now)
	if one == nil || one.Action == pb.RuleAction_RULE_REDIRECT && r.Route != "" {
		return nil
	}
	moves := rule.Parks(one) && c.set.Whole(spool.DomainOf(r.Address), c.now) == nil
	into[ruledCell{one.Id, r.State, moves}]++
	return nil
}

// add takes in what was counted of a slice, of which each stands for weight recipients.
func (c *ruleCounts) add(slice map[ruledCell]int, weight float64) {
	for cell, n := range slice {
		c.found[cell] += weight * float64(n)
	}
}

// tell puts the counts into stats: by rule, and into the states what rules on senders, clients and accounts keep.
func (c *ruleCounts) tell(stats *admin.QueueStats) {
	by := map[uint64]float64{}
	for cell, n := range c.found {
		by[cell.rule] += n
		if !cell.moves {
			continue
		}
		to := pb.State_SUSPENDED
		if one := c.rule(cell.rule); one.GetAction() == pb.RuleAction_RULE_HOLD {
			to = pb.State_HELD
		}
		from := statelog.StateWord(cell.state)
		moved := min(uint64(math.Round(n)), stats.States[from])
		if stats.States[from] -= moved; stats.States[from] == 0 {
			delete(stats.States, from)
		}
		if moved > 0 {
			stats.States[statelog.StateWord(to)] += moved
		}
	}
	for id, n := range by {
		stats.Rules = append(stats.Rules, admin.RuleCount{
			Rule: id, Action: rule.Word(c.rule(id).GetAction()), Recipients: uint64(math.Round(n)),
		})
	}
	slices.SortFunc(stats.Rules, func(a, b admin.RuleCount) int { return cmp.Compare(a.Rule, b.Rule) })
}

func (c *ruleCounts) rule(id uint64) *pb.Rule {
	all := c.set.Rules()
	if i := slices.IndexFunc(all, func(r *pb.Rule) bool { return r.Id == id }); i >= 0 {
		return all[i]
	}
	return nil
}
