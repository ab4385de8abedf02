// Package limits has the commands of relayctl on limits and sites.
package limits

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"relay/cmd/relayctl/table"
	"relay/node/admin"
	"relay/queue/limit"
	"relay/queue/site"
)

// App is what the commands use of the program.
type App struct {
	Do     func(c *cobra.Command, f func(ctx context.Context, client *admin.Client) error) error
	Change func(c *cobra.Command, what string, f func(ctx context.Context, client *admin.Client) error) error
	Emit   func(v any, table func()) error
	Say    func(format string, args ...any)
	Table  func(heads ...string) *table.Table
	By     func() admin.By
	Usage  func(format string, args ...any) error
	Group  func(use, short string, below ...*cobra.Command) *cobra.Command
}

// Limit is the command limit with those below it.
func Limit(a *App) *cobra.Command {
	return a.Group("limit", "Limits on what goes to a site, a domain or a route: list, set, remove",
		a.limitLs(), a.limitSet(), a.limitRm())
}

// limitRow is one limit as it is shown.
type limitRow struct {
	Key           string `json:"key"`
	Connections   int    `json:"connections"`
	PerConnection int    `json:"per_connection"`
	Rate          string `json:"rate"`
	Recipients    string `json:"recipients"`
	Burst         int    `json:"burst"`
}

func (a *App) limitLs() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the limits", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.Do(c, func(ctx context.Context, client *admin.Client) error {
				s, err := client.Settings(ctx)
				if err != nil {
					return err
				}
				all := make([]limitRow, 0, len(s.Limits))
				for _, text := range s.Limits {
					l, err := limit.Parse(text)
					if err != nil { // of a newer node
						l.Key = text
					}
					all = append(all, limitRow{l.Key, l.Connections, l.PerConnection, l.Rate.String(), l.Recipients.String(), l.Burst})
				}
				return a.Emit(all, func() { a.showLimits(all) })
			})
		},
	}
}

func (a *App) showLimits(all []limitRow) {
	if len(all) == 0 {
		a.Say("There is no limit.")
		return
	}
	t := a.Table("KEY", ">CONNECTIONS", ">PER CONNECTION", ">RATE", ">RECIPIENTS", ">BURST").
		Matter("KEY", "CONNECTIONS", "RATE")
	dash := func(s string) string { return cmp.Or(s, "-") }
	count := func(n int) string {
		if n == 0 {
			return "-"
		}
		return strconv.Itoa(n)
	}
	for _, l := range all {
		t.Row(l.Key, count(l.Connections), count(l.PerConnection), dash(l.Rate), dash(l.Recipients), count(l.Burst))
	}
	t.Flush()
}

func (a *App) limitSet() *cobra.Command {
	var values limitRow
	c := &cobra.Command{
		Use: "set KEY", Short: "Limit what the whole cluster sends to a site, a domain or a route", Args: cobra.ExactArgs(1),
		Long: `Set limits what all nodes of the cluster together send to KEY: site:NAME,
domain:NAME, or route:TARGET as 'relayctl route ls' shows it. site:* (domain:*,
route:*) holds for each one that has no limit of its own. What is not named
stays as it is; 0 takes a bound away.

A site is where many domains receive their mail, such as google or outlook:
'relayctl site ls' lists those that have a name, and others are named after
their MX hosts. Mail that goes by a route has no site, and no domain's limit.

A rate is spread evenly: in any span of time go at most what it brings, and the
burst. Idle connections count. A node that is paused keeps its connections for
five minutes at most.`,
		Example: `  relayctl limit set site:google --connections 20 --rate 50/s
  relayctl limit set domain:example.com --rate 1000/h --per-connection 10`,
		RunE: func(c *cobra.Command, args []string) error {
			key := args[0]
			return a.Change(c, "the limit of "+key+" is set", func(ctx context.Context, client *admin.Client) error {
				_, err := ChangeSettings(ctx, client, a.By, func(s *admin.Settings) (err error) {
					s.Limits, err = a.into(c, &values, key, s.Limits)
					return err
				})
				return err
			})
		},
	}
	c.Flags().IntVar(&values.Connections, "connections", 0, "`NUMBER` of connections open at a time, idle ones too")
	c.Flags().IntVar(&values.PerConnection, "per-connection", 0, "`NUMBER` of messages over one connection")
	c.Flags().StringVar(&values.Rate, "rate", "", "messages, `N/s`, N/m, N/h or N/d")
	c.Flags().StringVar(&values.Recipients, "recipients", "", "recipients of messages, `N/s`, N/m, N/h or N/d")
	c.Flags().IntVar(&values.Burst, "burst", 0, "`NUMBER` at once; default: what a quarter of a second brings, at least 2")
	return c
}

// into puts what was named into the limit of a key.
func (a *App) into(c *cobra.Command, v *limitRow, key string, all []string) ([]string, error) {
	if c.Flags().NFlag() == 0 {
		return nil, a.Usage("nothing is to be limited: give --connections, --per-connection, --rate or --recipients")
	}
	i := slices.IndexFunc(all, func(text string) bool { return keyOf(text) == strings.ToLower(key) })
	if i < 0 {
		i, all = len(all), append(all, key)
	}
	words := strings.Fields(all[i])
	for name, value := range map[string]string{
		"connections": strconv.Itoa(v.Connections), "per-connection": strconv.Itoa(v.PerConnection), "rate": v.Rate,
		"recipients": v.Recipients, "burst": strconv.Itoa(v.Burst),
	} {
		if !c.Flags().Changed(name) {
			continue
		}
		words = slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(w, name+"=") })
		if value != "" && value != "0" {
			words = append(words, name+"="+value)
		}
	}
	l, err := limit.Parse(strings.Join(words, " "))
	if err != nil {
		return nil, a.Usage("%v", err)
	}
	all[i] = l.String()
	return all, nil
}

// keyOf is what a limit, or a site, in the settings is called.
func keyOf(text string) string {
	key, _, _ := strings.Cut(text, " ")
	return strings.ToLower(key)
}

func (a *App) limitRm() *cobra.Command {
	return &cobra.Command{
		Use: "rm KEY", Short: "Take a limit away", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.Change(c, "the limit of "+args[0]+" is gone", func(ctx context.Context, client *admin.Client) error {
				_, err := ChangeSettings(ctx, client, a.By, func(s *admin.Settings) (err error) {
					s.Limits, err = a.without(s.Limits, args[0], "limit", "limit")
					return err
				})
				return err
			})
		},
	}
}

// without takes the one of a name out of a list of the settings.
func (a *App) without(all []string, name, what, verb string) ([]string, error) {
	left := slices.DeleteFunc(slices.Clone(all), func(text string) bool { return keyOf(text) == strings.ToLower(name) })
	if len(left) == len(all) {
		return nil, a.Usage("there is no %s %s of your own: 'relayctl %s ls' lists them", what, name, verb)
	}
	if left == nil {
		left = []string{}
	}
	return left, nil
}

// Site is the command site with those below it.
func Site(a *App) *cobra.Command {
	return a.Group("site", "Receivers that many domains share, by their MX hosts: list, set, remove",
		a.siteLs(), a.siteSet(), a.siteRm())
}

// siteRow is one site as it is shown.
type siteRow struct {
	Name     string   `json:"name"`
	Suffixes []string `json:"mx_suffixes"`
	BuiltIn  bool     `json:"built_in"`
}

func (a *App) siteLs() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the sites that have a name", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.Do(c, func(ctx context.Context, client *admin.Client) error {
				s, err := client.Settings(ctx)
				if err != nil {
					return err
				}
				table, err := site.Parse(s.Sites)
				if err != nil {
					return err
				}
				own := func(name string) bool {
					return slices.ContainsFunc(s.Sites, func(text string) bool { return keyOf(text) == name })
				}
				var all []siteRow
				for _, row := range table.Rows() {
					words := strings.Fields(row)
					all = append(all, siteRow{words[0], words[1:], !own(words[0])})
				}
				return a.Emit(all, func() {
					t := a.Table("SITE", "MADE BY", "MX SUFFIXES").Matter("SITE", "MX SUFFIXES")
					for _, one := range all {
						by := "you"
						if one.BuiltIn {
							by = "built in"
						}
						t.Row(one.Name, by, strings.Join(one.Suffixes, " "))
					}
					t.Flush()
				})
			})
		},
	}
}

func (a *App) siteSet() *cobra.Command {
	var suffixes []string
	c := &cobra.Command{
		Use: "set NAME", Short: "Name the domains whose MX hosts all end so", Args: cobra.ExactArgs(1),
		Long: `Set gives the domains whose MX hosts all end with one of the suffixes one name.
They share the limits of the site, and nothing else. A name that is built in is
replaced; without suffixes it is taken away.`,
		Example: `  relayctl site set bigco --mx-suffix mx.bigco.example --mx-suffix mx.bigco.example.net`,
		RunE: func(c *cobra.Command, args []string) error {
			return a.Change(c, "the site "+args[0]+" is set", func(ctx context.Context, client *admin.Client) error {
				_, err := ChangeSettings(ctx, client, a.By, func(s *admin.Settings) (err error) {
					s.Sites = slices.DeleteFunc(s.Sites, func(text string) bool { return keyOf(text) == strings.ToLower(args[0]) })
					s.Sites = append(s.Sites, strings.ToLower(strings.Join(append([]string{args[0]}, suffixes...), " ")))
					if _, err := site.Parse(s.Sites); err != nil {
						return a.Usage("%v", err)
					}
					return nil
				})
				return err
			})
		},
	}
	c.Flags().StringSliceVar(&suffixes, "mx-suffix", nil, "`END` of the names of MX hosts; once for each")
	return c
}

func (a *App) siteRm() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME", Short: "Take a site of your own away; a built-in one of that name is back", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.Change(c, "the site "+args[0]+" is gone", func(ctx context.Context, client *admin.Client) error {
				_, err := ChangeSettings(ctx, client, a.By, func(s *admin.Settings) (err error) {
					s.Sites, err = a.without(s.Sites, args[0], "site", "site")
					return err
				})
				return err
			})
		},
	}
}
