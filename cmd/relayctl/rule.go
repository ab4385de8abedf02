package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relay/node/admin"
)

func (a *app) ruleCmd() *cobra.Command {
	return group("rule", "Standing rules for waiting and future mail: list, add, test, remove",
		a.ruleLs(), a.ruleShow(), a.ruleAdd(), a.ruleTest(), a.ruleRm())
}

func (a *app) ruleLs() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the rules in the order in which they count", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				all, err := client.Rules(ctx)
				if err != nil {
					return err
				}
				return a.emit(all, func() {
					if len(all) == 0 {
						a.say("There is no rule.")
						return
					}
					t := a.table(">ORDER", ">ID", "ACTION", "MAIL", "TO", "ENDS", "BY", "REASON", "WHY").
						Matter("ID", "ACTION", "MAIL", "ENDS", "ORDER", "TO")
					for _, r := range all {
						t.Row(r.Order, r.ID, r.Action, ruleMail(r.RuleMatch), orDash(r.To), a.ruleEnds(r), orDash(r.Who),
							orDash(r.Reason), orDash(r.Why))
					}
					t.Flush()
				})
			})
		},
	}
}

// ruleMail says what mail a rule is about.
func ruleMail(m admin.RuleMatch) string {
	var all []string
	for _, one := range []struct{ name, value string }{
		{"domain", m.Domain}, {"sender", m.Sender}, {"recipient", m.Recipient}, {"client", m.Client}, {"user", m.User},
	} {
		if one.value != "" {
			all = append(all, one.name+" "+one.value)
		}
	}
	if len(all) == 0 {
		return "all"
	}
	return strings.Join(all, ", ")
}

func (a *app) ruleEnds(r admin.Rule) string {
	if r.Expires.IsZero() {
		return "-"
	}
	return a.next(r.Expires)
}

func ruleID(text string) (uint64, error) {
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, usagef("%q is not the number of a rule: 'relayctl rule ls' shows them", text)
	}
	return id, nil
}

func (a *app) ruleShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show one rule", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := ruleID(args[0])
			if err != nil {
				return err
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				r, err := client.Rule(ctx, id)
				if err != nil {
					return err
				}
				return a.emit(r, func() { a.showRule(*r) })
			})
		},
	}
}

func (a *app) showRule(r admin.Rule) {
	ends := "never"
	if !r.Expires.IsZero() {
		ends = clock(r.Expires) + " (" + a.next(r.Expires) + ")"
	}
	a.fields("id", fmt.Sprint(r.ID), "order", fmt.Sprint(r.Order), "action", r.Action, "mail", ruleMail(r.RuleMatch),
		"to", orDash(r.To), "reason", orDash(r.Reason), "ends", ends, "made", clock(r.Created)+" by "+orDash(r.Who),
		"why", orDash(r.Why))
}

// ruleFlags are those of rule add.
type ruleFlags struct {
	admin.RuleAdd
	order   string
	expires string
}

func (a *app) ruleAdd() *cobra.Command {
	var f ruleFlags
	c := &cobra.Command{
		Use: "add " + strings.Join(admin.RuleActions(), "|"), Short: "Make a rule for waiting and future mail",
		Args: cobra.ExactArgs(1), ValidArgs: admin.RuleActions(),
		Long: `Add makes a rule. Of the rules that match a message for a recipient the first
counts, as 'rule ls' lists them: the lowest --order, then the oldest.

  hold      keeps mail, however long; the sender is not told
  suspend   keeps mail, which ages: the sender hears of the delay, and of the
            failure when its time is over
  redirect  sends mail by another hop (--to, as in 'route set')
  bounce    gives mail back to the sender, with --reason
  discard   throws mail away; its history says so
  copy      sends a copy of mail that is taken in from now on to an address (--to);
            other rules hold for the mail as if the copy were not made

All that is given must be so: --domain and --sender is mail to that domain from
that sender. A rule about all mail wants --all. 'queue show' says which rule
keeps a message, and 'queue release' lets it pass the rules that are there.`,
		Example: `  relayctl rule add hold --domain example.com --expires 2h --why "they move their servers"
  relayctl rule add bounce --sender '@news.example' --reason "we do not want this" --dry-run
  relayctl rule add redirect --domain '*.example.org' --to smtp:backup.example.org
  relayctl rule add copy --user alice@example.test --to archive@example.test`,
		RunE: func(c *cobra.Command, args []string) error {
			in, err := f.rule(c, args[0])
			if err != nil {
				return err
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				r, err := client.AddRule(ctx, a.by(), in)
				if err != nil {
					return err
				}
				return a.emit(r, func() { a.showAdded(r) })
			})
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.Domain, "domain", "", "domain of the recipient, or *.example.com for all below")
	fl.StringVar(&f.Site, "site", "", "not offered yet: name the domains")
	fl.StringVar(&f.Sender, "sender", "", "address, @domain, or <> for the null path")
	fl.StringVar(&f.Recipient, "recipient", "", "address or @domain, as the mail is sent on")
	fl.StringVar(&f.Client, "client", "", "address or network of the client that handed it in")
	fl.StringVar(&f.User, "user", "", "account that handed it in")
	fl.BoolVar(&f.All, "all", false, "all mail")
	fl.StringVar(&f.To, "to", "", "the `HOP` or address that the mail, or the copy, goes to")
	fl.StringVar(&f.order, "order", "", "`NUMBER` of which the lowest that matches counts; 1000")
	fl.StringVar(&f.expires, "expires", "", "the rule ends after so long, such as 2h or 1d")
	fl.StringVar(&f.Reason, "reason", "", "text for the sender, with bounce and suspend")
	fl.BoolVar(&f.DryRun, "dry-run", false, "only say what of the waiting mail it would decide on")
	narrow(c, "domain", "site", "sender", "recipient", "client", "user")
	return c
}

// rule reads the flags.
func (f *ruleFlags) rule(c *cobra.Command, action string) (admin.RuleAdd, error) {
	in := f.RuleAdd
	if in.Action = action; !slices.Contains(admin.RuleActions(), action) {
		return in, usagef("%q is not one of %s", action, strings.Join(admin.RuleActions(), ", "))
	}
	if in.Site != "" {
		return in, usagef("rules can not name a site yet: give --domain for each of its domains")
	}
	if c.Flags().Changed("order") {
		n, err := strconv.ParseUint(f.order, 10, 32)
		if err != nil || n > admin.RuleOrderMost {
			return in, usagef("--order is a number from 0 to %d, of which the lowest that matches counts", admin.RuleOrderMost)
		}
		in.Order = new(uint32(n))
	}
	if f.expires != "" {
		d, err := parseAge(f.expires)
		if err != nil {
			return in, usagef("--expires: %w", err)
		}
		if in.ExpiresSeconds = int64(d / time.Second); in.ExpiresSeconds == 0 {
			return in, usagef("--expires %q is no time at all", f.expires)
		}
	}
	return in, nil
}

func (a *app) showAdded(r *admin.RuleAdded) {
	if !r.DryRun {
		a.say("Rule %d is made: %s %s.", r.ID, r.Action, clean(ruleMail(r.RuleMatch)))
		return
	}
	if r.Action == admin.RuleCopy {
		a.say("Nothing was changed. A rule that copies changes nothing of what waits.")
		return
	}
	end := "."
	if len(r.Examples) > 0 {
		end = ":"
	}
	a.say("Nothing was changed. Without --dry-run the rule would decide on %s to %s (%s) of what waits%s",
		count(r.Messages, "message"), count(r.Recipients, "recipient"), size(r.Bytes), end)
	if len(r.Examples) == 0 {
		return
	}
	t := a.queueTable()
	for _, m := range r.Examples {
		a.queueRows(t, m)
	}
	t.Flush()
	if more := r.Messages - uint64(len(r.Examples)); more > 0 {
		a.say("… and %d more.", more)
	}
}

func (a *app) ruleTest() *cobra.Command {
	var e admin.RuleEnvelope
	c := &cobra.Command{
		Use: "test [ID]", Short: "Say which rule holds for a waiting message, or for an envelope",
		Args: cobra.MaximumNArgs(1),
		Example: `  relayctl rule test --sender ann@example.test --recipient bob@example.com
  relayctl rule test ABCDEF01`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				if e != (admin.RuleEnvelope{}) {
					return usagef("give either the id of a message, or an envelope by flags")
				}
				if err := checkID(args[0]); err != nil {
					return err
				}
				e.ID = args[0]
			} else if e.Recipient == "" {
				return usagef("give the id of a waiting message, or an envelope with --recipient")
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				r, err := client.TestRules(ctx, e)
				if err != nil {
					return err
				}
				return a.emit(r, func() { a.showTested(r) })
			})
		},
	}
	fl := c.Flags()
	fl.StringVar(&e.Sender, "sender", "", "reverse-path; <> or nothing: the null path")
	fl.StringVar(&e.Recipient, "recipient", "", "`ADDRESS` that the mail is for")
	fl.StringVar(&e.Client, "client", "", "IP address of the client")
	fl.StringVar(&e.User, "user", "", "account that hands it in")
	return c
}

func (a *app) showTested(r *admin.RuleTest) {
	if len(r.Results) == 0 {
		a.say("Nothing of it waits any more.")
		return
	}
	t := a.table("RECIPIENT", ">RULE", "ACTION", "MAIL", "TO", "ENDS", "COPY TO").
		Matter("RECIPIENT", "RULE", "ACTION", "MAIL", "ENDS")
	for _, one := range r.Results {
		copied := "-"
		if one.Copy != nil {
			copied = fmt.Sprintf("%s (rule %d)", one.Copy.To, one.Copy.ID)
		}
		if one.Rule == nil {
			t.Row(one.Recipient, "-", "none", "-", "-", "-", copied)
			continue
		}
		t.Row(one.Recipient, one.Rule.ID, one.Rule.Action, ruleMail(one.Rule.RuleMatch), orDash(one.Rule.To),
			a.ruleEnds(*one.Rule), copied)
	}
	t.Flush()
}

func (a *app) ruleRm() *cobra.Command {
	return &cobra.Command{
		Use: "rm ID", Short: "Remove a rule; what it keeps goes on", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := ruleID(args[0])
			if err != nil {
				return err
			}
			return a.change(c, fmt.Sprintf("rule %d is removed", id), func(ctx context.Context, client *admin.Client) error {
				return client.RemoveRule(ctx, a.by(), id)
			})
		},
	}
}
