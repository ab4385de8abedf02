package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"relay/node/admin"
)

func (a *app) suppressCmd() *cobra.Command {
	return group("suppress", "Addresses to which a domain's mail does not go: list, add, remove",
		a.suppressLs(), a.suppressAdd(), a.suppressRm())
}

func (a *app) suppressLs() *cobra.Command {
	q := admin.SuppressedQuery{Limit: 1000}
	c := &cobra.Command{
		Use: "ls", Short: "List the addresses, and what was said of them", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				all, err := client.Suppressed(ctx, q)
				if err != nil {
					return err
				}
				return a.emit(all, func() { a.suppressTable(all, q.Limit) })
			})
		},
	}
	c.Flags().StringVar(&q.Domain, "domain", "", "local `DOMAIN` of the senders")
	c.Flags().StringVar(&q.From, "from", "", "with --domain: the `ADDRESS` to begin with")
	c.Flags().IntVar(&q.Limit, "limit", q.Limit, "at most `NUMBER` addresses, 10000 at most")
	return c
}

func (a *app) suppressTable(all []admin.Suppressed, limit int) {
	if len(all) == 0 {
		a.say("No address is suppressed.")
		return
	}
	t := a.table("SENDERS", "ADDRESS", "SINCE", "ENDS", "BY", "SAID", "WHY").Matter("ADDRESS", "SENDERS", "ENDS", "SAID")
	for _, s := range all {
		by := s.Who
		if s.ID != "" {
			by = "message " + s.ID
		}
		t.Row(s.Domain, s.Address, s.Since, a.next(s.Expires), orDash(by), orDash(s.Reply), orDash(s.Why))
	}
	t.Flush()
	if last := all[len(all)-1]; len(all) == limit {
		a.note("there may be more: 'relayctl suppress ls --domain %s --from %s' goes on", clean(last.Domain),
			clean(last.Address))
	}
}

// noteSuppressed says that a list which grows no more is in force still.
func (a *app) noteSuppressed(ctx context.Context, client *admin.Client, domain string) {
	if all, err := client.Suppressed(ctx, admin.SuppressedQuery{Domain: domain, Limit: 1}); err == nil && len(all) > 0 {
		a.note("addresses that are on the list stay there until their time is over: 'relayctl suppress ls --domain %s' "+
			"shows them, 'suppress rm' lets mail to one go again", clean(domain))
	}
}

func (a *app) suppressAdd() *cobra.Command {
	var s admin.SuppressAdd
	var expires string
	c := &cobra.Command{
		Use: "add DOMAIN ADDRESS", Short: "Let mail of a domain's senders go to an address no more", Args: cobra.ExactArgs(2),
		Long: `Add has mail to an address refused with 5.1.1, without an attempt, where its
sender is of a local domain. 'relayctl domain set DOMAIN --suppress 30d' has that
happen by itself to addresses of which a host says that nobody has them.`,
		Example: `  relayctl suppress add example.com gone@elsewhere.example --expires 90d`,
		RunE: func(c *cobra.Command, args []string) error {
			s.Domain, s.Address = args[0], args[1]
			n, err := spanFlag(c.Flags().Changed("expires"), "expires", expires)
			if err != nil {
				return err
			}
			if n != nil {
				s.ExpiresSeconds = *n
			}
			return a.change(c, fmt.Sprintf("mail of %s goes to %s no more", s.Domain, s.Address),
				func(ctx context.Context, client *admin.Client) error { return client.Suppress(ctx, a.by(), s) })
		},
	}
	c.Flags().StringVar(&expires, "expires", "", "for a `TIME` such as 90d; as the domain says, or 30d, without")
	return c
}

func (a *app) suppressRm() *cobra.Command {
	return &cobra.Command{
		Use: "rm DOMAIN ADDRESS", Short: "Let mail of a domain's senders go to an address again", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return a.change(c, fmt.Sprintf("mail of %s goes to %s again", args[0], args[1]),
				func(ctx context.Context, client *admin.Client) error {
					return client.Unsuppress(ctx, a.by(), args[0], args[1])
				})
		},
	}
}
