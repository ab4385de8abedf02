package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/text/unicode/norm"

	"relay/node/admin"
	"relay/smtp/mailaddr"
)

func (a *app) recipientsCmd() *cobra.Command {
	return group("recipients", "Lists of the recipients of routed domains: list, add, remove, set",
		a.recipientsLs(), a.recipientsChange("add", "Add recipients to the list of a domain"),
		a.recipientsChange("rm", "Remove recipients from the list of a domain"), a.recipientsSet())
}

// listed calls do for each page of a domain's list.
func listed(ctx context.Context, client *admin.Client, domain string, do func(page []string)) error {
	for after := ""; ; {
		page, err := client.Recipients(ctx, domain, after, admin.MaxRecipients)
		if err != nil {
			return err
		}
		if do(page); len(page) < admin.MaxRecipients {
			return nil
		}
		after = page[len(page)-1]
	}
}

func (a *app) recipientsLs() *cobra.Command {
	return &cobra.Command{
		Use: "ls DOMAIN", Short: "List the recipients of a routed domain", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				all := []string{}
				err := listed(ctx, client, args[0], func(page []string) { all = append(all, page...) })
				if err != nil {
					return err
				}
				return a.emit(all, func() {
					t := a.table("RECIPIENT")
					for _, one := range all {
						t.Row(one)
					}
					t.Flush()
				})
			})
		},
	}
}

func (a *app) recipientsChange(verb, short string) *cobra.Command {
	file := ""
	c := &cobra.Command{
		Use: verb + " DOMAIN [ADDRESS…]", Short: short, Args: cobra.MinimumNArgs(1),
		Long: short + `: addresses, or their local parts. A tag behind a +
needs no entry of its own. The list counts by 'route set DOMAIN … --recipients
list', from any node's next RCPT on.`,
		RunE: func(c *cobra.Command, args []string) error {
			all := args[1:]
			if file != "" {
				more, err := readRecipients(file, a.stdin)
				if err != nil {
					return err
				}
				all = append(all, more...)
			}
			if len(all) == 0 {
				return usagef("give addresses, or a file of them with --file")
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				change := admin.RecipientChange{Add: all}
				if verb == "rm" {
					change = admin.RecipientChange{Remove: all}
				}
				return a.changeRecipients(ctx, client, args[0], change)
			})
		},
	}
	c.Flags().StringVar(&file, "file", "", "`FILE` with an address a line; - is standard input")
	return c
}

func (a *app) recipientsSet() *cobra.Command {
	return &cobra.Command{
		Use: "set DOMAIN FILE", Short: "Make the list of a domain what a file has", Args: cobra.ExactArgs(2),
		Long: `Set adds what FILE has, an address or a local part a line, and removes from the
list what it has not. - is standard input; lines that begin with # do not count.
Recipients that stay are known all the time.`,
		RunE: func(c *cobra.Command, args []string) error {
			all, err := readRecipients(args[1], a.stdin)
			if err != nil {
				return err
			}
			if len(all) == 0 {
				return usagef("%s has no address: remove the route, or set it without --recipients, to end the list's use", args[1])
			}
			wanted := map[string]bool{}
			for _, one := range all {
				local, err := localPart(one)
				if err != nil {
					return err
				}
				wanted[local] = true
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				return a.replaceRecipients(ctx, client, args[0], all, wanted)
			})
		},
	}
}

// replaceTries is how often a list is made what it should be, where somebody else changes it at that time.
const replaceTries = 5

// replaceRecipients makes the list of a domain what is wanted, and looks afterwards whether it is.
func (a *app) replaceRecipients(ctx context.Context, client *admin.Client, domain string, all []string,
	wanted map[string]bool) error {
	sum := uint64(0)
	for try := 0; ; try++ {
		change, there := admin.RecipientChange{}, map[string]bool{}
		err := listed(ctx, client, domain, func(page []string) {
			for _, one := range page {
				if local := one[:strings.LastIndexByte(one, '@')]; wanted[local] {
					there[local] = true
				} else {
					change.Remove = append(change.Remove, one)
				}
			}
		})
		switch {
		case err != nil:
			return err
		case try > 0 && len(change.Remove) == 0 && len(there) == len(wanted):
			return a.recipientsChanged(ctx, client, domain, sum)
		case try == replaceTries:
			return fmt.Errorf("the list of %s is not what the file has: somebody else changes it at the same time; "+
				"look at it with 'relayctl route recipients ls %s' and try again", domain, domain)
		}
		change.Add = all
		n, err := a.portions(ctx, client, domain, change)
		if sum += n; err != nil {
			return err
		}
	}
}

// localPart is that of a line of a list, in the form that the cluster keeps.
func localPart(text string) (string, error) {
	address := strings.ToLower(text)
	if !strings.Contains(address, "@") {
		address += "@x"
	}
	address, err := mailaddr.Parse(address)
	if err != nil {
		return "", usagef("%q is not an address: %w", text, err)
	}
	return norm.NFC.String(address[:strings.LastIndexByte(address, '@')]), nil
}

// changeRecipients changes a list, what comes first, and tells of it.
func (a *app) changeRecipients(ctx context.Context, client *admin.Client, domain string,
	c admin.RecipientChange) error {
	sum, err := a.portions(ctx, client, domain, c)
	if err != nil {
		return err
	}
	return a.recipientsChanged(ctx, client, domain, sum)
}

// portions changes a list in portions, and returns how many recipients came or went.
func (a *app) portions(ctx context.Context, client *admin.Client, domain string,
	c admin.RecipientChange) (sum uint64, err error) {
	portions := []admin.RecipientChange{}
	for part := range slices.Chunk(c.Add, admin.MaxRecipients) {
		portions = append(portions, admin.RecipientChange{Add: part})
	}
	for part := range slices.Chunk(c.Remove, admin.MaxRecipients) {
		portions = append(portions, admin.RecipientChange{Remove: part})
	}
	for i, part := range portions {
		n, err := client.ChangeRecipients(ctx, a.by(), domain, part)
		if err != nil && i > 0 {
			return sum, fmt.Errorf("%s changed, then it ended; the same command goes on: %w", count(sum, "recipient"), err)
		} else if err != nil {
			return sum, err
		}
		sum += n
	}
	return sum, nil
}

// recipientsChanged tells of a change of a list, and what the list does now.
func (a *app) recipientsChanged(ctx context.Context, client *admin.Client, domain string, sum uint64) error {
	if err := a.emit(admin.RecipientsChanged{Changed: sum}, func() {
		a.say("The list of %s is changed by %s.", domain, count(sum, "recipient"))
	}); err != nil {
		return err
	}
	routes, err := client.Routes(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(routes, func(r admin.Route) bool {
		return strings.EqualFold(r.Domain, domain) && r.Recipients != ""
	}) {
		a.note("the list is not used yet: 'relayctl route set %s TARGET --recipients list' does", domain)
		return nil
	}
	return a.warnIfEmpty(ctx, client, domain)
}

// readRecipients reads a file with an address a line.
func readRecipients(path string, stdin io.Reader) (all []string, err error) {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usagef("%w", err)
		}
		defer f.Close()
		in = f
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, line)
		}
	}
	return all, lines.Err()
}

// warnOfEmpty tells that nobody gets mail by a list without recipients.
func (a *app) warnOfEmpty(ctx context.Context, client *admin.Client, r admin.Route) error {
	if r.Recipients == "" {
		return nil
	}
	return a.warnIfEmpty(ctx, client, r.Domain)
}

func (a *app) warnIfEmpty(ctx context.Context, client *admin.Client, domain string) error {
	some, err := client.Recipients(ctx, domain, "", 1)
	if err == nil && len(some) == 0 {
		a.note("warning: the list of %s is empty, and all mail to it is refused: 'relayctl route recipients add %s ADDRESS…'",
			domain, domain)
	}
	return err
}
