package rule

import (
	"fmt"
	"strings"
	"time"

	pb "relay/cluster/spool/spoolpb"
)

// Word is the name of an action.
func Word(a pb.RuleAction) string { return strings.ToLower(strings.TrimPrefix(a.String(), "RULE_")) }

// Domain is the domain that a rule is about, as operators write it.
func Domain(r *pb.Rule) string {
	if strings.HasPrefix(r.GetDomain(), ".") {
		return "*" + r.Domain
	}
	return r.GetDomain()
}

// Note says in a line what a rule does, for the audit log.
func Note(r *pb.Rule) string {
	var all []string
	add := func(name, value string) {
		if value != "" {
			all = append(all, name+" "+value)
		}
	}
	add("domain", Domain(r))
	add("sender", r.GetSender())
	add("recipient", r.GetRecipient())
	add("client", r.GetClient())
	add("user", r.GetUser())
	if r.GetAll() {
		all = append(all, "all mail")
	}
	add("to", r.GetTo())
	if r.GetReason() != "" {
		add("reason", fmt.Sprintf("%q", r.Reason))
	}
	all = append(all, fmt.Sprintf("order %d", r.GetOrder()))
	if r.GetExpiresMs() != 0 {
		add("until", time.UnixMilli(r.ExpiresMs).UTC().Format(time.RFC3339))
	}
	return strings.Join(all, ", ")
}
