package records

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/directory"
	"relay/node/rule"
	"relay/smtp/printable"
)

// Bounds of what an operator says of a rule.
const (
	maxReason   = 200 // octets
	maxRuleLife = 10 * 365 * 24 * time.Hour
)

// Rules implements admin.Rules.
func (rs *Records) Rules(context.Context) ([]admin.Rule, error) {
	all := []admin.Rule{}
	err := rs.replica.View(func(v spool.View) error {
		rules, err := v.Rules()
		for _, r := range rules {
			all = append(all, *ShownRule(r))
		}
		return err
	})
	return all, err
}

// Rule implements admin.Rules.
func (rs *Records) Rule(_ context.Context, id uint64) (one *admin.Rule, err error) {
	err = rs.replica.View(func(v spool.View) error {
		r, ok, err := v.Rule(id)
		if err == nil && !ok {
			err = NoRule(id)
		}
		one = ShownRule(r)
		return err
	})
	return one, err
}

// NoRule says that there is no such rule.
func NoRule(id uint64) error {
	return admin.Missing(fmt.Sprintf("there is no rule %d", id), "'relayctl rule ls' shows them")
}

// ShownRule is a rule as the API shows it.
func ShownRule(r *pb.Rule) *admin.Rule {
	one := &admin.Rule{
		ID: r.GetId(), Order: r.GetOrder(), Action: rule.Word(r.GetAction()), To: r.GetTo(), Reason: r.GetReason(),
		RuleMatch: admin.RuleMatch{
			Domain: rule.Domain(r), Sender: r.GetSender(), Recipient: r.GetRecipient(), Client: r.GetClient(),
			User: r.GetUser(), All: r.GetAll(),
		},
		Created: admin.AtMs(r.GetCreatedMs()), Who: r.GetWho(), Why: r.GetWhy(),
	}
	if r.GetExpiresMs() != 0 {
		one.Expires = admin.AtMs(r.ExpiresMs)
	}
	return one
}

// NewRule checks what is asked for and brings it into the form it is kept in.
func (rs *Records) NewRule(a admin.RuleAdd) (*pb.Rule, error) {
	if err := rs.canKeepRules(); err != nil {
		return nil, err
	}
	r := &pb.Rule{Order: admin.RuleOrder, Reason: a.Reason, All: a.All}
	action, known := pb.RuleAction_value["RULE_"+strings.ToUpper(a.Action)]
	r.Action = pb.RuleAction(action)
	if a.Order != nil {
		r.Order = *a.Order
	}
	life := time.Duration(min(a.ExpiresSeconds, int64(maxRuleLife/time.Second)+1)) * time.Second
	tells := a.Action == admin.RuleBounce || a.Action == admin.RuleSuspend
	switch {
	case !known || !slices.Contains(admin.RuleActions(), a.Action):
		return nil, admin.Invalid("%q is no action of a rule: give %s", printable.Text(a.Action, 64),
			strings.Join(admin.RuleActions(), ", "))
	case r.Order > admin.RuleOrderMost:
		return nil, admin.Invalid("the order of a rule is %d at most: the lowest that matches counts",
			admin.RuleOrderMost)
	case life < 0 || life > maxRuleLife:
		return nil, admin.Invalid("a rule ends after ten years at most, or does not end")
	case a.Reason != "" && !tells:
		return nil, admin.Invalid("a reason is for the sender, whom only a rule that bounces or suspends tells: " +
			"give --why for the audit log")
	case len(a.Reason) > maxReason || printable.Text(a.Reason, maxReason) != a.Reason:
		return nil, admin.Invalid("the reason is one line of text without control characters, of %d octets at most",
			maxReason)
	case strings.ContainsFunc(a.Reason, func(c rune) bool { return c > '~' }):
		return nil, admin.Invalid("write the reason in ASCII: it is part of a reply, and senders' programs show no more")
	}
	if life > 0 {
		r.ExpiresMs = rs.now().Add(life).UnixMilli()
	}
	if err := rs.matches(r, a.RuleMatch); err != nil {
		return nil, err
	}
	return r, rs.leads(r, a.To)
}

// matches reads what mail a rule is about.
func (rs *Records) matches(r *pb.Rule, m admin.RuleMatch) (err error) {
	given := m.Domain + m.Sender + m.Recipient + m.Client + m.User
	switch {
	case m.Site != "":
		return admin.Invalid("a rule can not be about a site yet: give each domain of it a rule")
	case given == "" && !m.All:
		return admin.Invalid("a rule about nothing would be one about all mail: say so with --all, or give a domain, " +
			"sender, recipient, client or user")
	case given != "" && m.All:
		return admin.Invalid("give either all, or what mail the rule is about")
	}
	if m.Domain != "" {
		name, below := strings.CutPrefix(strings.TrimPrefix(strings.TrimSpace(m.Domain), "*"), ".")
		if r.Domain, err = domainName(name); err != nil {
			return err
		}
		if below {
			r.Domain = "." + r.Domain
		}
	}
	if r.Sender, err = ruleAddress(m.Sender, true); err != nil {
		return err
	}
	if r.Recipient, err = ruleAddress(m.Recipient, false); err != nil {
		return err
	}
	if m.User != "" {
		if r.User, err = rs.Address(m.User); err != nil {
			return err
		}
	}
	if m.Client != "" {
		r.Client, err = network(m.Client)
	}
	return err
}

// leads reads where a rule leads to.
func (rs *Records) leads(r *pb.Rule, to string) (err error) {
	switch {
	case r.Action != pb.RuleAction_RULE_REDIRECT && r.Action != pb.RuleAction_RULE_COPY:
		if to != "" {
			return admin.Invalid("only a rule that redirects or copies leads somewhere")
		}
	case to == "":
		return admin.Invalid("say where to: redirect to a hop such as smtp:HOST, copy to an address")
	case r.Action == pb.RuleAction_RULE_REDIRECT:
		r.To, err = RouteTarget(to)
	default:
		if r.To, err = rs.Address(to); err == nil {
			err = rs.arrives(r.To)
		}
	}
	return err
}

// arrives refuses an address that leads nowhere now: what is copied to it would be lost, and only the log would say so.
func (rs *Records) arrives(address string) error {
	return rs.replica.View(func(v spool.View) error {
		_, _, err := directory.Resolve(v, address)
		var none interface{ Permanent() bool }
		if errors.As(err, &none) && none.Permanent() {
			return admin.Invalid("no mail arrives at %s: %s", address, err)
		}
		return err
	})
}

// ruleAddress reads an address, @domain or *@domain, or with null <>.
func ruleAddress(text string, null bool) (string, error) {
	text = strings.TrimSpace(text)
	domain, whole := strings.CutPrefix(strings.TrimPrefix(text, "*"), "@")
	switch {
	case text == "":
		return "", nil
	case text == "<>" && null:
		return text, nil
	case whole:
		name, err := domainName(domain)
		return "@" + name, err
	case !strings.Contains(text, "@"):
		return "", admin.Invalid("%s has no domain: give a whole address, or @domain for all of a domain",
			printable.Text(text, MaxName))
	}
	return mailAddress(strings.TrimSuffix(strings.TrimPrefix(text, "<"), ">"), "")
}

// network reads an IP address or a network.
func network(text string) (string, error) {
	text = strings.TrimSpace(text)
	if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" {
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()).String(), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return "", admin.Invalid("%s is neither an IP address nor a network such as 192.0.2.0/24",
			printable.Text(text, MaxName))
	}
	return p.Masked().String(), nil
}

// canKeepRules refuses rules in a cluster of version 1.
func (rs *Records) canKeepRules() error { return rs.atVersion2("rules") }

// atVersion2 refuses what needs the cluster's version 2.
func (rs *Records) atVersion2(what string) error {
	return rs.replica.View(func(v spool.View) error {
		c, _, err := v.Cluster()
		if err == nil && spool.VersionOf(c) < 2 {
			return admin.Conflict(what+" need cluster version 2, and this cluster has version 1",
				"install this version on all nodes, then run relayctl cluster upgrade")
		}
		return err
	})
}

// MakeRule proposes a rule that was checked.
func (rs *Records) MakeRule(ctx context.Context, by admin.By, r *pb.Rule) (*admin.RuleAdded, error) {
	res, err := rs.edit.Do(ctx, by, spool.KindPutRule, func(adm *pb.Admin) proto.Message {
		return &pb.PutRule{Admin: adm, Rule: r}
	})
	if err != nil {
		return nil, err
	}
	made, err := rs.Rule(ctx, res.Index)
	if err != nil { // it is gone again by now
		made = ShownRule(r)
		made.ID = res.Index
	}
	return &admin.RuleAdded{Rule: *made, Examples: []admin.QueueMessage{}}, nil
}

// RemoveRule implements admin.Rules.
func (rs *Records) RemoveRule(ctx context.Context, by admin.By, id uint64) error {
	if err := rs.canKeepRules(); err != nil {
		return err
	}
	_, err := rs.edit.Do(ctx, by, spool.KindDropRule, func(adm *pb.Admin) proto.Message {
		return &pb.DropRule{Admin: adm, Id: id}
	})
	return err
}
