package outbound

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/rule"
	"relay/queue"
)

// rules are the standing rules as this node goes by them. No entry is rewritten when one comes or goes: mail is
// matched when it enters the queue's memory (Feed, Scan) and once more before it is tried (Load).
type rules struct {
	set     atomic.Pointer[rule.Set] // nil: there are none
	had     atomic.Bool              // there were some since the start
	stale   atomic.Bool              // they are to be read again
	changed atomic.Bool              // and the manager has not been told yet
	reading sync.Mutex
	ends    time.Time // when the first that lasts no longer ends; reading guards it
	met     [pb.RuleAction_RULE_COPY + 1]atomic.Uint64
	lines   ruledLines
}

// Rules are the standing rules that this node goes by now; nil: there are none.
func (o *Spool) Rules() *rule.Set { return o.rules.set.Load() }

// RulesAtHand are the same for mail that comes in, also before the first Refresh.
func (o *Spool) RulesAtHand() *rule.Set {
	if o.rules.stale.Load() {
		if err := o.reread(); err != nil {
			o.log.Error("cannot read the rules", zap.Error(err))
		}
	}
	return o.Rules()
}

// RuleCounts are how many recipients of new mail rules on the queue have decided on here, by action.
func (o *Spool) RuleCounts() map[string]uint64 {
	all := map[string]uint64{}
	for i := range o.rules.met {
		if a := pb.RuleAction(i); a != pb.RuleAction_RULE_NONE && a != pb.RuleAction_RULE_COPY {
			all[rule.Word(a)] = o.rules.met[i].Load()
		}
	}
	return all
}

// reread reads the rules again.
func (o *Spool) reread() error {
	o.rules.reading.Lock()
	defer o.rules.reading.Unlock()
	o.rules.stale.Store(false) // before they are read: of a change meanwhile rulesChange says so once more
	var all []*pb.Rule
	err := o.replica.View(func(v spool.View) (err error) { all, err = v.Rules(); return err })
	if err != nil {
		o.rules.stale.Store(true)
		return err
	}
	set := rule.Compile(all)
	o.rules.ends = set.Ends(o.replica.Now())
	if set != nil || o.rules.set.Load() != nil {
		o.rules.had.Store(true)
		o.rules.set.Store(set)
		o.rules.changed.Store(true)
	}
	return nil
}

// manyRules is how many rules are not read again on the apply goroutine.
const manyRules = 1000

// rulesChange reads the rules again on the apply goroutine: a rule holds for all mail that is accepted behind it. Many
// are left to Refresh, some milliseconds later, so that making them one by one holds up no mail.
func (o *Spool) rulesChange() {
	if len(o.Rules().Rules()) > manyRules {
		o.rules.stale.Store(true)
		return
	}
	if err := o.reread(); err != nil {
		o.log.Error("cannot read the rules", zap.Error(err))
	}
}

// rulesEnd is how long it is until the next rule ends; at most an hour.
func (o *Spool) rulesEnd() time.Duration {
	o.rules.reading.Lock()
	defer o.rules.reading.Unlock()
	if o.rules.ends.IsZero() {
		return time.Hour
	}
	return min(max(o.rules.ends.Sub(o.replica.Now()), 0)+time.Millisecond, time.Hour)
}

// rulesEnded reports whether a rule has ended since the rules were read.
func (o *Spool) rulesEnded() bool {
	o.rules.reading.Lock()
	defer o.rules.reading.Unlock()
	return !o.rules.ends.IsZero() && !o.replica.Now().Before(o.rules.ends)
}

// ruling is what the rules make of a recipient; nil: none of them holds for it. A hop that was set by hand is not
// changed, and mail for a mailbox goes nowhere else.
func (o *Spool) ruling(set *rule.Set, m *pb.Message, r *pb.Recipient) *queue.Ruling {
	one := set.Match(rule.Of(m, r.Address, r.Pass), o.replica.Now())
	if one == nil {
		return nil
	}
	made := &queue.Ruling{Rule: one.Id}
	switch one.Action {
	case pb.RuleAction_RULE_HOLD:
		made.Act = queue.Hold
	case pb.RuleAction_RULE_SUSPEND:
		made.Act, made.Reply = queue.Suspend, "4.3.2 not tried: suspended by the operator"+prefixed(": ", one.Reason)
	case pb.RuleAction_RULE_REDIRECT:
		if r.Route != "" {
			return nil
		}
		made.Act, made.Hop = queue.Redirect, one.To
	case pb.RuleAction_RULE_BOUNCE:
		made.Act, made.Reply = queue.Refuse, refusal(one.Reason)
	case pb.RuleAction_RULE_DISCARD:
		made.Act, made.Reply = queue.Discard, fmt.Sprintf("2.0.0 discarded by rule %d", one.Id)
	default:
		return nil
	}
	return made
}

func prefixed(mark, text string) string {
	if text == "" {
		return ""
	}
	return mark + text
}

// refusal is the reply that a rule gives in place of a host.
func refusal(reason string) string {
	if reason == "" {
		return "5.7.1 refused by the operator of this mail system"
	}
	if strings.HasPrefix(reason, "5.") { // with an enhanced code of its own
		return reason
	}
	return "5.7.1 " + reason
}

// rulingOf is ruling for an entry whose message is read only where rules look at it.
func (o *Spool) rulingOf(set *rule.Set, last *lastMessage, id spool.ID, r *pb.Recipient) (*queue.Ruling, error) {
	var m *pb.Message
	if set.Deep() {
		var err error
		if m, err = last.read(id); m == nil {
			return nil, err
		}
	}
	return o.ruling(set, m, r), nil
}

// place has an entry be where the rules want it. A rule that ends mail, or leads it elsewhere, and is newer than what
// happened to the entry last, makes it due at once.
func place(w *queue.Waiting, r *pb.Recipient, is *queue.Ruling) {
	switch is.Act {
	case queue.Hold:
		w.Parked = true
	case queue.Suspend:
		w.Suspended = true
	case queue.Refuse, queue.Discard:
		w.Ends, w.Next = true, time.Time{}
	case queue.Redirect:
		w.Route = is.Hop
		if r.Changed < is.Rule && r.Attempts > 0 {
			w.Next = time.Time{}
		}
	}
}

// scanRuled has an entry of a scan be where the rules want it. last is the message of the entry before.
func (o *Spool) scanRuled(set *rule.Set, last *lastMessage, w *queue.Waiting, r *pb.Recipient) error {
	if w.Parked {
		return nil
	}
	is, err := o.rulingOf(set, last, spool.ID(w.ID), r)
	if is != nil {
		place(w, r, is)
	}
	return err
}

// feedRuled has new entries be where the rules, and the routes for some senders, want them; Load decides on those whose
// record can not be read.
func (o *Spool) feedRuled(set *rule.Set, routes *routeTable, add []queue.Waiting) {
	err := o.replica.View(func(v spool.View) error {
		last := lastMessage{v: v}
		for i := range add {
			w := &add[i]
			if set.Queues() && !w.Parked {
				if err := o.feedOne(v, set, &last, w); err != nil {
					return err
				}
			}
			if err := routes.choose(&last, w); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		o.log.Warn("cannot match new mail with the rules and routes, they are asked once more before it is tried",
			zap.Error(err))
	}
}

func (o *Spool) feedOne(v spool.View, set *rule.Set, last *lastMessage, w *queue.Waiting) error {
	r, ok, err := v.Recipient(spool.ID(w.ID), w.Recipient)
	if err != nil || !ok {
		return err
	}
	is, err := o.rulingOf(set, last, spool.ID(w.ID), r)
	if is != nil {
		o.meets(w, r, is)
	}
	return err
}

func (o *Spool) meets(w *queue.Waiting, r *pb.Recipient, is *queue.Ruling) {
	place(w, r, is)
	if r.State != pb.State_QUEUED || r.Pass != 0 {
		return
	}
	o.rules.met[actionOf(is.Act)].Add(1)
	o.rules.lines.put(ruledLine{w.ID, r.Address, is.Rule, rule.Word(actionOf(is.Act))})
}

func actionOf(a queue.Act) pb.RuleAction {
	switch a {
	case queue.Hold:
		return pb.RuleAction_RULE_HOLD
	case queue.Suspend:
		return pb.RuleAction_RULE_SUSPEND
	case queue.Redirect:
		return pb.RuleAction_RULE_REDIRECT
	case queue.Refuse:
		return pb.RuleAction_RULE_BOUNCE
	}
	return pb.RuleAction_RULE_DISCARD
}
