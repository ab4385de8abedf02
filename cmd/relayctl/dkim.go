package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"relay/node/admin"
)

func (a *app) dkimCmd() *cobra.Command {
	return group("dkim", "DKIM keys of local domains: list, add, rotate, remove", a.dkimLs(), a.dkimAdd(false), a.dkimAdd(true), a.dkimRm())
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
					t := a.table("NAME", "ALGORITHM", "SIGNS", "CREATED")
					for _, k := range all {
						signs := "yes"
						if k.Retired {
							signs = "no, retired"
						}
						t.row(k.Name, k.Algorithm, signs, clock(k.Created))
					}
					t.flush()
				})
			})
		},
	}
}

// dkimAdd makes a key; with rotate it takes the place of the older ones.
func (a *app) dkimAdd(rotate bool) *cobra.Command {
	in := admin.SignerAdd{Rotate: rotate}
	c := &cobra.Command{Use: "add DOMAIN", Short: "Make a key that signs mail from a domain", Args: cobra.ExactArgs(1)}
	if rotate {
		c.Use, c.Short = "rotate DOMAIN", "Make a new key, and let the older ones sign no more"
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		in.Domain = args[0]
		return a.do(c, func(ctx context.Context, client *admin.Client) error {
			k, err := client.AddSigner(ctx, a.by(), in)
			if err != nil {
				return err
			}
			return a.emit(k, func() {
				a.say("Mail from %s is signed with this key from now on. Put its TXT record into DNS:", clean(k.Domain))
				a.say("%s. IN TXT %s", clean(k.Name), zoneText(clean(k.Record)))
			})
		})
	}
	c.Flags().StringVar(&in.Selector, "selector", "", "`NAME` of the key in DNS (default: made of the date)")
	c.Flags().StringVar(&in.Algorithm, "algorithm", "rsa", "rsa or ed25519")
	return c
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
			return a.change(c, "key "+args[1]+" of "+args[0]+" is removed", func(ctx context.Context, client *admin.Client) error {
				return client.RemoveSigner(ctx, a.by(), args[0], args[1])
			})
		},
	}
}
