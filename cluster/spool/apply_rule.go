package spool

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	pb "relay/cluster/spool/spoolpb"
)

// Bounds of standing rules.
const (
	MaxRules    = 10000   // in a cluster
	maxRuleSize = 8 << 10 // octets of one
	ruleSweep   = 100     // rules that one Sweep ends
)

func keyRule(id uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, sizeNumber), kRule), id)
}

// putRule makes a standing rule. Mail is matched where it is delivered, and never in Apply: a rule that comes or goes
// rewrites no queue entry.
func (t *tx) putRule(h *pb.PutRule) *pb.Result {
	r := h.GetRule()
	given := r.GetDomain() != "" || r.GetSender() != "" || r.GetRecipient() != "" || r.GetClient() != "" ||
		r.GetUser() != ""
	_, known := pb.RuleAction_name[int32(r.GetAction())]
	needs := r.GetAction() == pb.RuleAction_RULE_REDIRECT || r.GetAction() == pb.RuleAction_RULE_COPY
	switch {
	case !t.at(2):
		return t.refuse(pb.Code_INVALID, "the cluster is of version 1")
	case !known || r.GetAction() == pb.RuleAction_RULE_NONE:
		return t.refuse(pb.Code_INVALID, "a rule needs an action")
	case given == r.All:
		return t.refuse(pb.Code_INVALID, "a rule needs something to match, or all")
	case needs != (r.To != ""):
		return t.refuse(pb.Code_INVALID, "a rule that redirects or copies, and no other, says where to")
	case strings.ContainsFunc(r.To+r.Reason, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return t.refuse(pb.Code_INVALID, "a rule has no control characters")
	case r.ExpiresMs != 0 && r.ExpiresMs <= t.clock:
		return t.refuse(pb.Code_INVALID, "the rule would be over at once")
	case t.counters[CountRules] >= MaxRules:
		return t.refuse(pb.Code_INVALID, "there are %d rules, and no more may be: remove some with 'relayctl rule rm'",
			MaxRules)
	}
	r.Id, r.CreatedMs, r.Who, r.Why = t.index, t.clock, h.Admin.GetWho(), h.Admin.GetWhy()
	if size, err := marshal.Marshal(r); err != nil || len(size) > maxRuleSize {
		return t.refuse(pb.Code_INVALID, "a rule has %d octets at most", maxRuleSize)
	}
	t.write(keyRule(r.Id), r)
	t.count(CountRules, 1)
	t.ruleEnds(r)
	t.changes.Rules = true
	return t.ok()
}

// ruleEnds remembers when a Sweep has to look at the rules.
func (s *state) ruleEnds(r *pb.Rule) {
	if r.ExpiresMs != 0 && (s.rulesEnd == 0 || r.ExpiresMs < s.rulesEnd) {
		s.rulesEnd = r.ExpiresMs
	}
}

func (t *tx) dropRule(h *pb.DropRule) *pb.Result {
	if t.get(keyRule(h.Id)) == nil {
		return t.refuse(pb.Code_MISSING, "there is no rule %d: 'relayctl rule ls' shows them", h.Id)
	}
	t.endRule(keyRule(h.Id))
	return t.ok()
}

func (t *tx) endRule(k []byte) {
	t.del(k)
	t.count(CountRules, -1)
	t.changes.Rules = true
}

// sweepRules ends rules whose time is over; nodes stop obeying them by themselves. One line of the audit log names
// all that end together.
func (t *tx) sweepRules(limit int, res *pb.Result) {
	if t.rulesEnd == 0 || t.rulesEnd > t.clock {
		return
	}
	t.rulesEnd = 0
	var ended []string
	t.scan([]byte{kRule}, 0, func(k, v []byte) {
		var r pb.Rule
		if !t.unmarshal(k, v, &r) || r.ExpiresMs == 0 {
			return
		}
		if r.ExpiresMs > t.clock || len(ended) == min(limit, ruleSweep) {
			t.ruleEnds(&r)
			return
		}
		t.endRule(k)
		ended = append(ended, fmt.Sprint(r.Id))
		res.Count++
	})
	if len(ended) > 0 {
		t.audit(&pb.Admin{Who: "cluster", Why: "the time they were given is over"}, "rule rm "+strings.Join(ended, " "))
	}
}

// ruleWords says what a rule does in the audit log: its details are in the note.
func ruleWords(r *pb.Rule) string {
	return fmt.Sprintf("%s, rule %d", strings.ToLower(strings.TrimPrefix(r.GetAction().String(), "RULE_")), r.GetId())
}

// Rules returns the standing rules in the order in which they count.
func (v View) Rules() ([]*pb.Rule, error) {
	all, err := list(v.R, []byte{kRule}, func() *pb.Rule { return new(pb.Rule) })
	slices.SortStableFunc(all, func(a, b *pb.Rule) int { return int(int64(a.Order) - int64(b.Order)) })
	return all, err
}

// Rule returns one standing rule.
func (v View) Rule(id uint64) (*pb.Rule, bool, error) { return load(v.R, keyRule(id), new(pb.Rule)) }
