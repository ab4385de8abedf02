package admintest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"relay/node/admin"
)

// Rules implements admin.Rules.
func (f *Fake) Rules(context.Context) ([]admin.Rule, error) {
	unlock, err := f.ask("Rules")
	if err != nil {
		return nil, err
	}
	defer unlock()
	return slices.Clone(f.rules), nil
}

// Rule implements admin.Rules.
func (f *Fake) Rule(_ context.Context, id uint64) (*admin.Rule, error) {
	unlock, err := f.ask("Rule")
	if err != nil {
		return nil, err
	}
	defer unlock()
	for _, r := range f.rules {
		if r.ID == id {
			return &r, nil
		}
	}
	return nil, noRule(id)
}

func noRule(id uint64) error {
	return admin.Missing(fmt.Sprintf("there is no rule %d", id), "'relayctl rule ls' shows them")
}

// AddRule implements admin.Rules. It knows domains, recipients and all.
func (f *Fake) AddRule(_ context.Context, by admin.By, a admin.RuleAdd) (*admin.RuleAdded, error) {
	unlock, _, err := f.change("AddRule", by, "rule add %s dry=%t", a.Action, a.DryRun)
	if err != nil {
		return nil, err
	}
	defer unlock()
	given := a.RuleMatch
	given.All = false
	switch {
	case a.Site != "":
		return nil, admin.Invalid("a rule can not be about a site yet: give each domain of it a rule")
	case a.All == (given != admin.RuleMatch{}):
		return nil, admin.Invalid("a rule about nothing would be one about all mail: say so with --all, or give a domain, " +
			"sender, recipient, client or user")
	case strings.ContainsFunc(a.Reason, func(c rune) bool { return c < ' ' }):
		return nil, admin.Invalid("the reason is one line of text without control characters, of 200 octets at most")
	}
	order := uint32(admin.RuleOrder)
	if a.Order != nil {
		order = *a.Order
	}
	r := admin.Rule{Order: order, Action: a.Action, RuleMatch: a.RuleMatch, To: a.To, Reason: a.Reason, Created: f.at(0),
		Who: by.Who, Why: by.Why}
	if a.ExpiresSeconds > 0 {
		r.Expires = f.at(time.Duration(a.ExpiresSeconds) * time.Second)
	}
	out := &admin.RuleAdded{DryRun: a.DryRun, Examples: []admin.QueueMessage{}}
	if a.DryRun {
		r.Created = admin.Time{}
		for _, m := range f.queue {
			if m, ok := (admin.QueueFilter{Domain: r.Domain, Recipient: r.Recipient}).Pick(m); ok {
				out.Messages++
				out.Recipients += uint64(len(m.Recipients))
				out.Bytes += m.Size
				out.Examples = append(out.Examples, m)
			}
		}
	} else {
		r.ID = uint64(4711 + len(f.rules))
		f.rules = append(f.rules, r)
		slices.SortStableFunc(f.rules, func(a, b admin.Rule) int { return cmp.Compare(a.Order, b.Order) })
	}
	out.Rule = r
	return out, nil
}

// RemoveRule implements admin.Rules.
func (f *Fake) RemoveRule(_ context.Context, by admin.By, id uint64) error {
	unlock, _, err := f.change("RemoveRule", by, "rule rm %d", id)
	if err != nil {
		return err
	}
	defer unlock()
	at := slices.IndexFunc(f.rules, func(r admin.Rule) bool { return r.ID == id })
	if at < 0 {
		return noRule(id)
	}
	f.rules = slices.Delete(f.rules, at, at+1)
	return nil
}

// TestRules implements admin.Rules. It knows domains.
func (f *Fake) TestRules(_ context.Context, e admin.RuleEnvelope) (*admin.RuleTest, error) {
	unlock, err := f.ask("TestRules")
	if err != nil {
		return nil, err
	}
	defer unlock()
	out := &admin.RuleTest{Results: []admin.RuleResult{}}
	to := []string{e.Recipient}
	if e.ID != "" {
		to = nil
		for _, m := range f.queue {
			for _, r := range m.Recipients {
				if strings.HasSuffix(m.ID, e.ID) {
					to = append(to, r.Address)
				}
			}
		}
	}
	for _, address := range to {
		one := admin.RuleResult{Recipient: address}
		for _, r := range f.rules {
			switch _, domain, _ := strings.Cut(address, "@"); {
			case r.Domain != domain && !r.All:
			case r.Action == admin.RuleCopy && one.Copy == nil:
				one.Copy = &r
			case r.Action != admin.RuleCopy && one.Rule == nil:
				one.Rule = &r
			}
		}
		out.Results = append(out.Results, one)
	}
	return out, nil
}

// countRule counts a recipient under the rule that decides on it. It knows domains.
func (f *Fake) countRule(s *admin.QueueStats, domain string) {
	at := slices.IndexFunc(f.rules, func(r admin.Rule) bool {
		return r.Action != admin.RuleCopy && (r.All || r.Domain == domain)
	})
	if at < 0 {
		return
	}
	one := admin.RuleCount{Rule: f.rules[at].ID, Action: f.rules[at].Action, Recipients: 1}
	if i := slices.IndexFunc(s.Rules, func(c admin.RuleCount) bool { return c.Rule == one.Rule }); i >= 0 {
		s.Rules[i].Recipients++
		return
	}
	s.Rules = append(s.Rules, one)
}
