package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"relay/node/admin"
)

func (a *app) dkimCmd() *cobra.Command {
	return group("dkim", "DKIM keys of local domains: list, add, rotate, remove", a.dkimLs(), a.dkimAdd(false),
		a.dkimAdd(true), a.dkimActivate(), a.dkimRm())
}

func (a *app) dkimLs() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the keys and their DNS records", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				all, err := client.Signers(ctx)
				if err != nil {
					return err
				}
				return a.emit(all, func() {
					t := a.table("NAME", "ALGORITHM", "SIGNS", "CREATED").Matter("NAME", "SIGNS")
					for _, k := range all {
						signs := "yes"
						switch {
						case k.Waiting:
							signs = "waits for DNS"
						case k.Retired:
							signs = "no, retired"
						}
						t.Row(k.Name, k.Algorithm, signs, k.Created)
					}
					t.Flush()
				})
			})
		},
	}
}

// dkimAdd makes a key; with rotate it takes the place of the older ones.
func (a *app) dkimAdd(rotate bool) *cobra.Command {
	in := admin.SignerAdd{Rotate: rotate, Wait: rotate}
	c := &cobra.Command{Use: "add DOMAIN", Short: "Make a key that signs mail from a domain", Args: cobra.ExactArgs(1)}
	if rotate {
		c.Use, c.Short = "rotate DOMAIN", "Make a new key that signs once its record is in DNS, in place of the older one"
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		in.Domain = args[0]
		if in.Algorithm != "rsa" && in.Algorithm != "ed25519" {
			return usagef("--algorithm %q is neither rsa nor ed25519", in.Algorithm)
		}
		return a.do(c, func(ctx context.Context, client *admin.Client) error {
			k, err := client.AddSigner(ctx, a.by(), in)
			if err != nil {
				return err
			}
			return a.emit(k, func() {
				if k.Waiting {
					a.say("The older key signs until the record of this one is in DNS; the cluster looks for it every minute. " +
						"Put it there:")
				} else {
					a.say("Mail from %s is signed with this key from now on. Put its TXT record into DNS:", clean(k.Domain))
				}
				a.say("%s. IN TXT %s", clean(k.Name), zoneText(clean(k.Record)))
				if k.Waiting {
					a.say("'relayctl dkim activate %s' lets it sign at once.", clean(k.Domain))
					return
				}
				a.adviseDNS(ctx, client, clean(k.Domain))
			})
		})
	}
	c.Flags().StringVar(&in.Selector, "selector", "", "`NAME` of the key in DNS (default: made of the date)")
	c.Flags().StringVar(&in.Algorithm, "algorithm", "rsa", "rsa or ed25519")
	return c
}

// adviseDNS shows the other records that a domain's mail needs.
func (a *app) adviseDNS(ctx context.Context, client *admin.Client, domain string) {
	a.say("\nMail to and from %s also needs these, if they are not there:", domain)
	hosts := []string{"mx1.example.com"}
	if s, err := client.Status(ctx); err == nil && len(s.Nodes) > 0 {
		hosts = hosts[:0]
		for _, n := range s.Nodes {
			hosts = append(hosts, clean(n.Hostname))
		}
	}
	for _, h := range hosts {
		a.say("%s. IN MX 10 %s.", domain, h)
	}
	a.say(`%s. IN TXT "v=spf1 mx -all"`, domain)
	a.say(`_dmarc.%s. IN TXT "v=DMARC1; p=none; rua=mailto:postmaster@%s"`, domain, domain)
	a.say("Once reports show nothing unexpected, raise p=none to p=quarantine, then p=reject.")
}

func (a *app) dkimActivate() *cobra.Command {
	return &cobra.Command{
		Use: "activate DOMAIN [SELECTOR]", Short: "Let a key that waits sign at once, in place of the older one",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				selectors := args[1:]
				if len(selectors) == 0 {
					all, err := client.Signers(ctx)
					if err != nil {
						return err
					}
					for _, k := range all {
						if k.Waiting && strings.EqualFold(k.Domain, args[0]) {
							selectors = append(selectors, k.Selector)
						}
					}
				}
				if len(selectors) == 0 {
					return fmt.Errorf("no key of %s waits: 'relayctl dkim rotate %s' makes one, 'relayctl dkim ls' lists them",
						args[0], args[0])
				}
				for _, s := range selectors {
					k, err := client.ActivateSigner(ctx, a.by(), args[0], s)
					if err != nil {
						return err
					}
					if err := a.emit(k, func() {
						a.say("Mail from %s is signed with key %s from now on.", clean(k.Domain), clean(k.Selector))
					}); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

// zoneText writes the text of a TXT record for a zone file. One of its strings
// holds 255 octets at most (RFC 1035 section 3.3.14); readers join them.
func zoneText(record string) string {
	var parts []string
	for len(record) > 255 {
		parts, record = append(parts, record[:255]), record[255:]
	}
	return `"` + strings.Join(append(parts, record), `" "`) + `"`
}

func (a *app) dkimRm() *cobra.Command {
	return &cobra.Command{
		Use: "rm DOMAIN SELECTOR", Short: "Remove a key", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return a.change(c, "key "+args[1]+" of "+args[0]+" is removed",
				func(ctx context.Context, client *admin.Client) error {
					return client.RemoveSigner(ctx, a.by(), args[0], args[1])
				})
		},
	}
}
