package operator

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/records"
	"relay/node/rule"
	"relay/node/wording"
	"relay/smtp/printable"
)

// ruleExamples is how many messages a dry run of a rule shows.
const ruleExamples = 10

// AddRule implements admin.Rules.
func (o *Operator) AddRule(ctx context.Context, by admin.By, a admin.RuleAdd) (*admin.RuleAdded, error) {
	r, err := o.NewRule(a)
	switch {
	case err != nil:
		return nil, err
	case a.DryRun:
		return o.wouldDo(ctx, r)
	}
	return o.MakeRule(ctx, by, r)
}

// readRules compiles the rules of a view, and one more that may come.
func readRules(v spool.View, more *pb.Rule) (*rule.Set, error) {
	all, err := v.Rules()
	if more != nil {
		at := slices.IndexFunc(all, func(r *pb.Rule) bool { return r.Order > more.Order })
		if at < 0 {
			at = len(all)
		}
		all = slices.Insert(all, at, more)
	}
	return rule.Compile(all), err
}

// wouldDo goes through the queue as if a rule were there: what rules before it decide on is not counted.
func (o *Operator) wouldDo(ctx context.Context, r *pb.Rule) (*admin.RuleAdded, error) {
	r.Id = math.MaxUint64 // newer than any release
	out := &admin.RuleAdded{Rule: *records.ShownRule(r), DryRun: true, Examples: []admin.QueueMessage{}}
	out.ID = 0
	if r.Action == pb.RuleAction_RULE_COPY {
		return out, nil // of what waits nothing is copied
	}
	s, err := o.newScan(ctx, admin.QueueFilter{})
	if err != nil {
		return nil, err
	}
	err = o.Replica.View(func(v spool.View) (err error) { s.rules, err = readRules(v, r); return err })
	if err != nil {
		return nil, err
	}
	for from, more := (spool.ID{}), true; more; {
		if ctx.Err() != nil {
			return nil, admin.Unknown("the request ended before the whole queue was gone through")
		}
		budget := scanStep
		var found []*waitingMail
		if found, from, more, err = o.step(s, from, scanStep, &budget); err != nil {
			return nil, err
		}
		for _, one := range found {
			decided(out, one.mail, r.Id)
		}
	}
	return out, nil
}

// decided counts what a rule decides on of a message.
func decided(out *admin.RuleAdded, m admin.QueueMessage, id uint64) {
	m.Recipients = slices.DeleteFunc(m.Recipients, func(r admin.QueueRecipient) bool { return r.Rule != id })
	if len(m.Recipients) == 0 {
		return
	}
	out.Messages++
	out.Recipients += uint64(len(m.Recipients))
	out.Bytes += m.Size
	if len(out.Examples) < ruleExamples {
		for i := range m.Recipients {
			m.Recipients[i].Rule = 0 // it has no number yet
		}
		out.Examples = append(out.Examples, m)
	}
}

// TestRules implements admin.Rules.
func (o *Operator) TestRules(ctx context.Context, e admin.RuleEnvelope) (*admin.RuleTest, error) {
	given := e.Sender + e.Recipient + e.Client + e.User
	switch {
	case e.ID != "" && given != "":
		return nil, admin.Invalid("give either the id of a message, or an envelope")
	case e.ID != "":
		return o.testMessage(ctx, e.ID)
	case e.Recipient == "":
		return nil, admin.Invalid("an envelope needs a recipient")
	}
	one := &rule.Envelope{Recipient: e.Recipient, Client: e.Client}
	var err error
	if sender := strings.TrimSuffix(strings.TrimPrefix(e.Sender, "<"), ">"); sender != "" {
		if one.Sender, err = o.Address(sender); err != nil {
			return nil, err
		}
	}
	if one.Recipient, err = o.Address(e.Recipient); err != nil {
		return nil, err
	}
	if e.User != "" {
		if one.User, err = o.Address(e.User); err != nil {
			return nil, err
		}
	}
	if e.Client != "" && !rule.IsClient(e.Client) {
		return nil, admin.Invalid("%s is not the IP address of a client", printable.Text(e.Client, 64))
	}
	out := &admin.RuleTest{}
	err = o.Replica.View(func(v spool.View) error {
		set, err := readRules(v, nil)
		out.Results = append(out.Results, tested(set, one, o.Now()))
		return err
	})
	return out, err
}

// testMessage asks the rules about the recipients of a message that waits.
func (o *Operator) testMessage(ctx context.Context, text string) (*admin.RuleTest, error) {
	id, err := o.message(ctx, text)
	if err != nil {
		return nil, err
	}
	out := &admin.RuleTest{Results: []admin.RuleResult{}}
	err = o.Replica.View(func(v spool.View) error {
		set, err := readRules(v, nil)
		if err != nil {
			return err
		}
		m, ok, err := v.Message(id)
		if err != nil || !ok {
			return admin.NotFound("message", id.String())
		}
		return v.Recipients(id, func(_ uint32, r *pb.Recipient) {
			out.Results = append(out.Results, tested(set, rule.Of(m, r.Address, r.Pass), o.Now()))
		})
	})
	return out, err
}

func tested(set *rule.Set, e *rule.Envelope, now time.Time) admin.RuleResult {
	out := admin.RuleResult{Recipient: e.Recipient}
	if r := set.Match(e, now); r != nil {
		out.Rule = records.ShownRule(r)
	}
	if r := set.Copy(e, now); r != nil {
		out.Copy = records.ShownRule(r)
	}
	return out
}

// underRule has a recipient be as the rules make it, unless it is being tried or held by an operator.
func (s *queueScan) underRule(seen *admin.QueueRecipient, r *pb.Recipient) {
	if s.rules == nil || seen.State != admin.StateQueued && seen.State != admin.StateDeferred {
		return
	}
	one := s.rules.Match(rule.Of(s.ruled, r.Address, r.Pass), s.now)
	switch {
	case one == nil:
		return
	case one.Action == pb.RuleAction_RULE_REDIRECT && r.Route != "":
		return
	case one.Action == pb.RuleAction_RULE_HOLD:
		seen.State = admin.StateHeld
	case one.Action == pb.RuleAction_RULE_SUSPEND:
		seen.State = admin.StateSuspended
	}
	seen.Rule = one.Id
}

// rulesLook reads the message that the recipients to come are of, where rules look at it.
func (s *queueScan) rulesLook(v spool.View, id spool.ID) (err error) {
	s.ruled = nil
	if s.rules.Deep() {
		s.ruled, _, err = v.Message(id)
	}
	return err
}

// ruleWords says in a sentence what a rule does with a recipient, and what ends that.
func (d *messageDetail) ruleWords(id uint64) string {
	one := d.rules[id]
	if one == nil {
		return ""
	}
	does := map[pb.RuleAction]string{
		pb.RuleAction_RULE_HOLD: "held", pb.RuleAction_RULE_SUSPEND: "suspended", pb.RuleAction_RULE_REDIRECT: "redirected",
		pb.RuleAction_RULE_BOUNCE: "to be bounced", pb.RuleAction_RULE_DISCARD: "to be discarded",
	}[one.Action]
	text := fmt.Sprintf("%s by rule %d (%s)", does, id, rule.Note(one))
	if one.Who != "" {
		text += " of " + one.Who
	}
	if one.Why != "" {
		text += ", because: " + one.Why
	}
	switch {
	case !rule.Parks(one):
		return text + "."
	case one.ExpiresMs != 0:
		text += fmt.Sprintf("; it goes on at %s", wording.Instant(time.UnixMilli(one.ExpiresMs), d.now))
	default:
		text += "; it goes on when the rule is removed"
	}
	return text + fmt.Sprintf(", or by 'relayctl queue release %s'.", d.id)
}
