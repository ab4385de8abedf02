package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"relay/node/admin"
)

// done is what a change without a further answer says in JSON.
type done struct {
	OK   bool   `json:"ok"`
	What string `json:"what"`
}

// change runs a change that answers nothing but success.
func (a *app) change(c *cobra.Command, what string, f func(ctx context.Context, client *admin.Client) error) error {
	return a.do(c, func(ctx context.Context, client *admin.Client) error {
		if err := f(ctx, client); err != nil {
			return err
		}
		return a.done(what)
	})
}

// done says what was done.
func (a *app) done(what string) error {
	return a.emit(done{OK: true, What: what}, func() { a.say("%s", sentence(what)) })
}

// removed says what went or would go.
func (a *app) removed(r *admin.Removed, what string) error {
	return a.emit(r, func() {
		if r.DryRun {
			a.say("Nothing was changed. Without --dry-run %s %s goes:", what, clean(r.Name))
		} else {
			a.say("%s %s is removed.", strings.ToUpper(what[:1])+what[1:], clean(r.Name))
		}
		for _, e := range r.Effects {
			a.say("  %s", sentence(e))
		}
	})
}

func (a *app) domainCmd() *cobra.Command {
	return group("domain", "Local domains: list, add, change, remove", a.domainLs(), a.domainAdd(),
		a.domainSet(), a.domainRm())
}

func (a *app) domainLs() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the local domains", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				all, err := client.Domains(ctx)
				if err != nil {
					return err
				}
				return a.emit(all, func() {
					t := a.table("DOMAIN", ">USERS", "CATCH-ALL", "GREYLIST", "AUTH", "CREATED").
						Matter("DOMAIN", "USERS", "AUTH", "GREYLIST", "CATCH-ALL")
					for _, d := range all {
						t.Row(d.Name, d.Users, orDash(d.CatchAll), greylistWords(d.Greylist), orDash(d.AuthPolicy), d.Created)
					}
					t.Flush()
				})
			})
		},
	}
}

func (a *app) domainAdd() *cobra.Command {
	var d admin.Domain
	c := &cobra.Command{
		Use: "add NAME", Short: "Take mail for a domain", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			d.Name = args[0]
			if err := authPolicy(d.AuthPolicy); err != nil {
				return err
			}
			return a.change(c, "domain "+d.Name+" is local from now on", func(ctx context.Context, client *admin.Client) error {
				return client.AddDomain(ctx, a.by(), d)
			})
		},
	}
	c.Flags().StringVar(&d.CatchAll, "catch-all", "", "`ADDRESS` that gets mail to unknown local parts")
	c.Flags().StringVar(&d.AuthPolicy, "auth-policy", "", authPolicyUsage)
	return c
}

const authPolicyUsage = "what SPF, DKIM and DMARC do to mail from strangers: tag (default), refuse or none"

func authPolicy(text string) error {
	if !slices.Contains([]string{"", admin.AuthTag, admin.AuthRefuse, admin.AuthNone}, text) {
		return usagef("--auth-policy %q is not tag, refuse or none", text)
	}
	return nil
}

// greylistWords says how a domain greylists.
func greylistWords(seconds *int64) string {
	if seconds == nil {
		return "-"
	}
	return span(*seconds, "off")
}

func (a *app) domainSet() *cobra.Command {
	var catchAll, greylist, auth, suppress string
	c := &cobra.Command{
		Use: "set NAME", Short: "Change a local domain", Args: cobra.ExactArgs(1),
		Long: `Set changes what the flags name; the rest stays as it is.

--auth-policy says what becomes of mail that strangers send to the domain:
  tag     its Authentication-Results say what SPF, DKIM and DMARC found
  refuse  and it is refused where its author's domain wants that (DMARC p=reject;
          without a DMARC record, SPF -all)
  none    nothing is looked up`,
		RunE: func(c *cobra.Command, args []string) error {
			var s admin.DomainSet
			if c.Flags().Changed("catch-all") {
				s.CatchAll = &catchAll
			}
			err := authPolicy(auth)
			if err != nil {
				return err
			}
			if c.Flags().Changed("auth-policy") {
				s.AuthPolicy = &auth
			}
			if s.Greylist, err = delayFlag(c, "greylist", greylist); err != nil {
				return err
			}
			if s.Suppress, err = delayFlag(c, "suppress", suppress); err != nil {
				return err
			}
			if s.Suppress != nil {
				*s.Suppress = max(*s.Suppress, 0) // "default" is off
			}
			if s == (admin.DomainSet{}) {
				return usagef("nothing is to be changed")
			}
			return a.change(c, "domain "+args[0]+" is changed", func(ctx context.Context, client *admin.Client) error {
				if err := client.SetDomain(ctx, a.by(), args[0], s); err != nil {
					return err
				}
				if s.Suppress != nil && *s.Suppress == 0 {
					a.noteSuppressed(ctx, client, args[0])
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&catchAll, "catch-all", "", "`ADDRESS` that gets mail to unknown local parts; empty: none")
	c.Flags().StringVar(&auth, "auth-policy", "", authPolicyUsage)
	c.Flags().StringVar(&greylist, "greylist", "",
		"put strangers' first mail off for a `TIME` such as 1m; off; or default: as the settings say")
	c.Flags().StringVar(&suppress, "suppress", "",
		"for a `TIME` such as 30d its senders' mail goes to no address of which a host said that nobody has it; or off")
	return c
}

// delayFlag reads a span, "off", or "default", which is -1.
func delayFlag(c *cobra.Command, name, text string) (*int64, error) {
	switch {
	case !c.Flags().Changed(name):
		return nil, nil
	case text == "off":
		return new(int64(0)), nil
	case text == "default":
		return new(int64(-1)), nil
	}
	n, err := spanFlag(true, name, text)
	if err == nil && name == "greylist" && *n > longestGreylist {
		return nil, usagef("--greylist %s is longer than 1d, and senders do not come again after so long", text)
	}
	return n, err
}

const longestGreylist = 24 * 3600 // seconds

func (a *app) domainRm() *cobra.Command {
	var o admin.DropOptions
	c := &cobra.Command{
		Use: "rm NAME", Short: "Take no more mail for a domain", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				r, err := client.RemoveDomain(ctx, a.by(), args[0], o)
				if err != nil {
					return err
				}
				return a.removed(r, "domain")
			})
		},
	}
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would happen")
	return c
}

func (a *app) aliasCmd() *cobra.Command {
	return group("alias", "Aliases: list, set, remove", a.aliasLs(), a.aliasSet(), a.aliasRm())
}

func (a *app) aliasLs() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the aliases", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				all, err := client.Aliases(ctx)
				if err != nil {
					return err
				}
				return a.emit(all, func() {
					t := a.table("ALIAS", "OWNER", "TARGETS")
					for _, one := range all {
						t.Row(one.Address, orDash(one.Owner), strings.Join(one.Targets, " "))
					}
					t.Flush()
				})
			})
		},
	}
}

func (a *app) aliasSet() *cobra.Command {
	var owner string
	var replace bool
	c := &cobra.Command{
		Use: "set ADDRESS TARGET…", Short: "Lead an address to others", Args: cobra.MinimumNArgs(2),
		Long: `Lead an address to others. An alias goes before an account of the same address:
name the address itself among the targets to keep a copy in its mailbox, or give
--replace if all its mail is to go elsewhere.

A bare local part, of the alias as of a target, gets the cluster's default domain
('relayctl settings show'). There are no targets such as |program, /file or
:include: here.`,
		RunE: func(c *cobra.Command, args []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				args, err := whole(ctx, client, args...)
				if err != nil {
					return err
				}
				one := admin.Alias{Address: args[0], Targets: args[1:], Owner: owner, Replace: replace}
				if err := client.SetAlias(ctx, a.by(), one); err != nil {
					return err
				}
				if err := a.done("mail to " + args[0] + " goes to " + strings.Join(args[1:], ", ")); err != nil {
					return err
				}
				return a.warnOfNobody(ctx, client, args[0], args[1:])
			})
		},
	}
	c.Flags().StringVar(&owner, "owner", "",
		"`ADDRESS` that gets the bounces of list mail; without it, owner-ALIAS where that is an address here")
	c.Flags().BoolVar(&replace, "replace", false, "also where the address is an account, whose mailbox then gets no mail")
	return c
}

func (a *app) aliasRm() *cobra.Command {
	return &cobra.Command{
		Use: "rm ADDRESS", Short: "Remove an alias", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.changeAddress(c, "alias ", args[0], " is removed",
				func(ctx context.Context, client *admin.Client, address string) error {
					return client.RemoveAlias(ctx, a.by(), address)
				})
		},
	}
}
