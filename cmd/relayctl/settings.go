package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"relay/cmd/relayctl/danger"
	"relay/cmd/relayctl/limits"
	"relay/node/admin"
)

func (a *app) settingsCmd() *cobra.Command {
	return group("settings", "Settings of the whole cluster: show, set", a.settingsShow(), a.settingsSet())
}

func (a *app) settingsShow() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show the settings", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				s, err := client.Settings(ctx)
				if err != nil {
					return err
				}
				return a.emit(s, func() { a.fields(settingsWords(s)...) })
			})
		},
	}
}

// settingsWords are names and values; where nothing was set the default stands.
func settingsWords(s *admin.Settings) []string {
	bytes := "4.0 GB"
	if s.HistoryBytes > 0 {
		bytes = size(s.HistoryBytes)
	}
	words := []string{
		"default domain", orDash(s.DefaultDomain), "queue lifetime", span(s.ExpireSeconds, "5d"),
		"first retry", span(s.RetryFirstSeconds, "5m"), "longest wait", span(s.RetryMaxSeconds, "4h"),
		"history", span(s.HistorySeconds, "3d"), "history bound", bytes, "greylist", span(s.Greylist, "off"),
	}
	audit := "64 MB"
	if s.AuditBytes > 0 {
		audit = size(s.AuditBytes)
	}
	words = append(words, retryWords(s)...)
	words = append(words, "from check", cmp.Or(s.FromCheck, "unsigned"))
	words = append(words, "audit log", span(s.AuditSeconds, "400d"), "audit bound", audit)
	trust := strconv.Itoa(int(s.GreylistTrust))
	switch {
	case s.GreylistTrust == 0:
		trust = "5"
	case s.GreylistTrust < 0:
		trust = "never"
	}
	records := "200000"
	if s.GreylistRecords > 0 {
		records = strconv.Itoa(int(s.GreylistRecords))
	}
	for i, rule := range s.ReplyRules {
		words = append(words, fmt.Sprintf("reply rule %d", i+1), rule)
	}
	return append(words, "greylist window", span(s.GreylistWindow, "8h"), "greylist life", span(s.GreylistLife, "36d"),
		"greylist trust", trust, "greylist exempt", orDash(strings.Join(s.GreylistExempt, " ")), "greylist records", records)
}

// settingsFlags are the values as they were typed.
type settingsFlags struct {
	spans  map[string]*string
	bytes  string
	audit  string
	domain string
	trust  int32
	exempt []string
	most   uint32
	from   string
	rules  []string
	retry  retryFlags
}

func (a *app) settingsSet() *cobra.Command {
	f := settingsFlags{spans: map[string]*string{}}
	c := &cobra.Command{
		Use: "set", Short: "Change settings; what is not named stays", Args: cobra.NoArgs,
		Long: `Set changes settings of the whole cluster; what is not named stays as it is.
0 brings a default back. What does more than it seems to is warned of, and set.
Times are such as 30s, 5m, 4h, 5d or 2w.`,
		Example: `  relayctl settings set --greylist 1m --greylist-exempt 192.0.2.0/24`,
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().NFlag() == 0 {
				return usagef("nothing is to be changed")
			}
			return a.change(c, "the settings are changed", func(ctx context.Context, client *admin.Client) error {
				s, err := limits.ChangeSettings(ctx, client, a.by, func(s *admin.Settings) error { return f.put(c, s) })
				if err != nil {
					return err
				}
				a.warn(danger.Settings(s, c.Flags().Changed))
				return nil
			})
		},
	}
	for _, one := range [...][2]string{
		{"expire", "how long the queue tries"}, {"retry-first", "wait after the first failure"},
		{"retry-max", "longest wait"},
		{"history", "how long history outlives a message"}, {"audit", "how long the audit log is kept"},
		{"greylist", "how long strangers' first mail is put off; off: not"},
		{"greylist-window", "for how long a retry is waited for"},
		{"greylist-life", "how long who came again is known after its last mail"},
	} {
		f.spans[one[0]] = c.Flags().String(one[0], "", "`TIME`: "+one[1])
	}
	c.Flags().StringVar(&f.bytes, "history-bytes", "", "`SIZE` of all finished history")
	c.Flags().StringVar(&f.audit, "audit-bytes", "", "`SIZE` of the audit log")
	c.Flags().StringVar(&f.domain, "default-domain", "", "`DOMAIN` that completes bare local parts")
	c.Flags().StringVar(&f.from, "from-check", "",
		"`refuse|unsigned|off`: what becomes of accounts' mail whose From is not theirs")
	_ = c.RegisterFlagCompletionFunc("from-check",
		cobra.FixedCompletions([]string{"refuse", "unsigned", "off"}, cobra.ShellCompDirectiveNoFileComp))
	c.Flags().StringArrayVar(&f.rules, "reply-rule", nil,
		"what a host's reply means, '`CLASS [CODE] [x.y.z] [WORDS]`', before the built-in table; once for each, all anew")
	f.retry.add(c)
	c.Flags().Int32Var(&f.trust, "greylist-trust", 0,
		"`NUMBER` of a network's senders that came again before all its mail passes; -1: never")
	c.Flags().StringSliceVar(&f.exempt, "greylist-exempt", nil, "`NETWORK`s that are not greylisted; empty: none")
	c.Flags().Uint32Var(&f.most, "greylist-records", 0, "`NUMBER` of senders and networks to remember")
	return c
}

// put changes what was named.
func (f *settingsFlags) put(c *cobra.Command, s *admin.Settings) error {
	into := map[string]*int64{
		"expire": &s.ExpireSeconds, "retry-first": &s.RetryFirstSeconds, "retry-max": &s.RetryMaxSeconds,
		"history":  &s.HistorySeconds,
		"audit":    &s.AuditSeconds,
		"greylist": &s.Greylist, "greylist-window": &s.GreylistWindow, "greylist-life": &s.GreylistLife,
	}
	for name, text := range f.spans {
		n, err := delayFlag(c, name, *text)
		if err != nil {
			return err
		}
		if n != nil {
			*into[name] = max(*n, 0)
		}
	}
	given := c.Flags().Changed
	for name, one := range map[string]struct {
		text string
		into *uint64
	}{"history-bytes": {f.bytes, &s.HistoryBytes}, "audit-bytes": {f.audit, &s.AuditBytes}} {
		if !given(name) {
			continue
		}
		n, err := parseSize(one.text)
		if err != nil {
			return usagef("--%s: %w", name, err)
		}
		*one.into = n
	}
	if given("default-domain") {
		s.DefaultDomain = f.domain
	}
	if given("from-check") {
		switch f.from {
		case "refuse", "unsigned", "off":
			s.FromCheck = f.from
		default:
			return usagef("--from-check %q is not refuse, unsigned or off", f.from)
		}
	}
	if given("reply-rule") {
		s.ReplyRules = slices.DeleteFunc(append([]string{}, f.rules...),
			func(rule string) bool { return strings.TrimSpace(rule) == "" })
	}
	if err := f.retry.put(c, s); err != nil {
		return err
	}
	if given("greylist-trust") {
		s.GreylistTrust = f.trust
	}
	if given("greylist-exempt") {
		s.GreylistExempt = f.exempt
	}
	if given("greylist-records") {
		s.GreylistRecords = f.most
	}
	return nil
}
