package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"relay/node/admin"
)

func (a *app) routeCmd() *cobra.Command {
	return group("route", "Routes of remote mail: list, set, remove", a.routeLs(), a.routeSet(), a.routeRm(),
		a.recipientsCmd())
}

func (a *app) routeLs() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the routes", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				all, err := client.Routes(ctx)
				if err != nil {
					return err
				}
				return a.emit(all, func() {
					a.routeTable(all)
				})
			})
		},
	}
}

// routeColumns are the columns of a list of routes; all but the first two are there where some route has something.
var routeColumns = []struct {
	head string
	cell func(admin.Route) string
}{
	{"DOMAIN", func(r admin.Route) string { return r.Domain }},
	{"TARGET", routeTargets},
	{"FROM", func(r admin.Route) string { return r.From }},
	{"LOGIN", func(r admin.Route) string { return r.Login }},
	{"TLS", routeTLS},
	{"USER", func(r admin.Route) string { return r.User }},
	{"FALLBACK", func(r admin.Route) string { return r.Fallback }},
	{"SOURCE", func(r admin.Route) string { return strings.Join(r.Sources, ",") }},
	{"RECIPIENTS", routeRecipients},
	{"NO EHLO", func(r admin.Route) string { return strings.Join(r.NoEHLO, ",") }},
}

func (a *app) routeTable(all []admin.Route) {
	var heads []string
	var cells []func(admin.Route) string
	for i, c := range routeColumns {
		if i < 2 || slices.ContainsFunc(all, func(r admin.Route) bool { return c.cell(r) != "" }) {
			heads, cells = append(heads, c.head), append(cells, c.cell)
		}
	}
	t := a.table(heads...)
	for _, r := range all {
		var row []any
		for _, cell := range cells {
			row = append(row, orDash(cell(r)))
		}
		t.Row(row...)
	}
	t.Flush()
}

// routeRecipients says by what the recipients of a route's domain are known, where anyone may send to them.
func routeRecipients(r admin.Route) string {
	if r.Callout {
		return "callout"
	}
	return r.Recipients
}

// routeTargets lists the targets of a route, with their weights where they have some.
func routeTargets(r admin.Route) string {
	all := append([]string{r.Target}, r.More...)
	for i, w := range r.Weights {
		all[i] += fmt.Sprintf(" (%d)", w)
	}
	return strings.Join(all, ", ")
}

// routeTLS says in a word or two how a route uses TLS.
func routeTLS(r admin.Route) string {
	var words []string
	if r.TLS != "" {
		words = append(words, r.TLS)
	}
	if r.ImplicitTLS {
		words = append(words, "implicit")
	}
	if r.ClientCert != "" {
		words = append(words, "certificate")
	}
	return strings.Join(words, ", ")
}

// routeFiles are what route set reads of files.
type routeFiles struct{ ca, cert, key, oauth string }

func (f routeFiles) read(r *admin.Route) error {
	for _, one := range []struct {
		option, path string
		into         *string
	}{{"--tls-ca", f.ca, &r.TLSCA}, {"--client-cert", f.cert, &r.ClientCert}, {"--client-key", f.key, &r.ClientKey},
		{"--oauth", f.oauth, &r.Password}} {
		if one.path == "" {
			continue
		}
		text, err := os.ReadFile(one.path)
		if err != nil {
			return usagef("%s: %w", one.option, err)
		}
		*one.into = string(text)
	}
	return nil
}

const routeSetHelp = `Set says where mail to a domain goes: mx, smtp:HOST[:PORT], lmtp:HOST:PORT
or discard. The most specific domain wins; '*' is all remote mail.

Of several targets one is tried first by lot, as often as --weight says (3,1:
three of four times the first one), the others follow. What none of them takes
or refuses for good goes to --fallback, which is also for mx, and so does all
mail while they refuse the login; it gets neither login nor certificate.
--source names addresses to connect from, of which each node uses its own; mail
waits at nodes that have none of them.

A hop that announces what it cannot do is used without it by --no-ehlo
PIPELINING or the like. That holds for every route with the same target (each
domain has its own for mx).

By --tls a route uses TLS in another way than [delivery] tls says: none,
opportunistic, encrypt (always, with any certificate), verify (always, with a
certificate for the host's name, of a CA of the system or of --tls-ca), dane
(always, with a certificate that the host's TLSA records name) or fingerprint
(always, with a certificate or public key of --fingerprint). Mail waits where
the host does not meet it. Without --tls, TLSA records of the domain's mail
hosts count where DNSSEC secures them. --implicit-tls begins with TLS, at port
465 where the target names none. Of two routes to one target the stricter
holds.

By --from and --login a route is for some mail only: that of a sender (an
address, @DOMAIN without those below it, or <> for bounces), that which an
account has handed in, or both. The recipient's domain comes first: a route of
a more specific domain wins whatever else it says. Among routes of one domain
the one with account and sender wins, then the one with the account, the
sender's address, the sender's domain, and at last that for all; where none of
them fits, the next domain's are looked at. A sender counts where an account or
a trusted client has handed the mail in: what strangers call themselves leads
their mail nowhere. Reports of the relay's own have the sender <>.

By --callout mail to the domain itself is taken from anyone, as that to local
domains is. The target is asked for each recipient before the client gets its
250, so that what it does not know is refused and not returned later. Answers
are kept for a while: a yes for an hour, a no for five minutes. By --recipients
list 'relayctl route recipients' says which there are: anyone may send to them,
and nobody to others, who are refused at once (550 5.1.1).

By --client-cert and --client-key the relay shows a certificate to hosts that
ask for one. The key is kept as passwords are, and stays in the same way.

By --user the relay logs in at the host, by SCRAM-SHA-256, PLAIN or LOGIN, with
the password on the first line of standard input (--password-stdin). Without a
new password the present one stays, for the same user and target. It is kept
sealed, and never shown. It goes only over TLS that is verified: --tls encrypt
or fingerprint ask for less or other proof, and --tls none, or a host on
loopback, lets it go in clear. A login that is refused makes the mail wait, or
take the fallback, and status and doctor tell of it; it is tried again after a
minute, later after a quarter of an hour, and at once after route set, or for
mail of the route that queue retry names. Each route with --user has limits and
back-off of its own.

By --oauth the relay fetches access tokens, and logs in by OAUTHBEARER or
XOAUTH2. The file has token_url, client_id, client_secret and scope (Microsoft
365: scope https://outlook.office365.com/.default), or refresh_token, too; or it
is the file of a Google service account that may speak for --user. It is kept
as passwords are.`

func (a *app) routeSet() *cobra.Command {
	var r admin.Route
	var files routeFiles
	var weights []uint
	var p password
	cmd := &cobra.Command{
		Use:     "set DOMAIN|'*' TARGET…",
		Short:   "Say where mail to a domain goes",
		Long:    routeSetHelp,
		Args:    cobra.MinimumNArgs(2),
		Example: "  relayctl route set '*' smtp:smtp.example.net:587 --user relay@example.net --password-stdin < password",
		RunE: func(c *cobra.Command, args []string) error {
			for _, w := range weights {
				r.Weights = append(r.Weights, uint32(min(w, math.MaxUint32)))
			}
			if err := a.routeSecrets(&r, files, &p); err != nil {
				return err
			}
			return a.setRoute(c, r, args)
		},
	}
	routeFlags(cmd, &r, &files)
	cmd.Flags().UintSliceVar(&weights, "weight", nil, "how often each target is tried first, such as 3,1")
	cmd.Flags().BoolVar(&p.stdin, "password-stdin", false, "read the password of --user from standard input")
	return cmd
}

// routeSecrets reads what a route has from files and from standard input.
func (a *app) routeSecrets(r *admin.Route, files routeFiles, p *password) (err error) {
	r.OAuth = files.oauth != ""
	switch {
	case r.OAuth && p.stdin:
		return usagef("--oauth and --password-stdin exclude each other")
	case p.stdin && r.User == "":
		return usagef("--password-stdin goes with --user: give the name to log in as")
	case p.stdin:
		if r.Password, err = p.read(a); err != nil {
			return err
		}
	}
	return files.read(r)
}

// setRoute sets a route, and warns of what may not be meant.
func (a *app) setRoute(c *cobra.Command, r admin.Route, args []string) error {
	r.Domain, r.Target, r.More = args[0], args[1], args[2:]
	done := "mail to " + r.Domain + ofSenders(r.RouteSenders) + " goes by " + strings.Join(args[1:], ", ")
	return a.change(c, done, func(ctx context.Context, client *admin.Client) error {
		if err := client.SetRoute(ctx, a.by(), r); err != nil {
			return err
		}
		if r.User != "" && r.TLS == "none" {
			a.note("warning: by --tls none the password of %s goes to %s in clear, for everybody on the way to read",
				r.User, r.Target)
		}
		if err := errors.Join(a.warnOfEmpty(ctx, client, r), a.warnOfStranger(ctx, client, r)); err != nil {
			return err
		}
		return a.warnOfLocal(ctx, client, r.Domain)
	})
}

func routeFlags(c *cobra.Command, r *admin.Route, files *routeFiles) {
	f := c.Flags()
	f.StringSliceVar(&r.NoEHLO, "no-ehlo", nil, "EHLO keywords of the hop that do not count, such as PIPELINING,CHUNKING")
	f.StringVar(&r.TLS, "tls", "", "none, opportunistic, encrypt, verify, dane or fingerprint")
	f.StringVar(&files.ca, "tls-ca", "", "file with certificates in PEM that count in place of the system's (verify)")
	f.StringSliceVar(&r.Fingerprints, "fingerprint", nil, "SHA-256 of a certificate or public key, in hexadecimal")
	f.BoolVar(&r.ImplicitTLS, "implicit-tls", false, "TLS from the first octet on")
	f.StringVar(&r.User, "user", "", "`NAME` to log in as at the host")
	f.StringVar(&files.cert, "client-cert", "", "file with a certificate in PEM to show to hosts that ask for one")
	f.StringVar(&files.oauth, "oauth", "", "file with a credential in JSON for access tokens")
	f.StringVar(&files.key, "client-key", "", "file with its key in PEM")
	f.StringVar(&r.Fallback, "fallback", "", "`TARGET` for mail that the others do not take: smtp:HOST[:PORT]")
	f.BoolVar(&r.Callout, "callout", false, "take mail to DOMAIN from anyone, for recipients that the target takes")
	f.StringVar(&r.Recipients, "recipients", "", "list: take mail to DOMAIN from anyone, for what route recipients lists")
	senderFlags(c, &r.RouteSenders)
	f.StringSliceVar(&r.Sources, "source", nil, "`ADDRESSES` to connect from, of which each node uses its own")
}

// warnOfStranger tells that no account hands in the mail that a route is for.
func (a *app) warnOfStranger(ctx context.Context, client *admin.Client, r admin.Route) error {
	if r.Login == "" {
		return nil
	}
	_, err := client.User(ctx, r.Login)
	if errors.Is(err, admin.ErrNotFound) {
		a.note("warning: there is no account %s yet, whose mail this route is for; 'relayctl user ls' lists them", r.Login)
		return nil
	}
	return err
}

// warnOfLocal tells that a route has no effect: mail to a local domain goes into
// its mailboxes.
func (a *app) warnOfLocal(ctx context.Context, client *admin.Client, domain string) error {
	all, err := client.Domains(ctx)
	if err != nil {
		return err
	}
	for _, d := range all {
		if strings.EqualFold(d.Name, domain) {
			a.note("warning: %s is a local domain: its mail goes into mailboxes, and this route is not used; "+
				"'relayctl route rm %s' removes the route, 'relayctl domain rm %s' the domain", d.Name, d.Name, d.Name)
		}
	}
	return nil
}

func (a *app) routeRm() *cobra.Command {
	var of admin.RouteSenders
	c := &cobra.Command{
		Use: "rm DOMAIN|'*'", Short: "Remove a route", Args: cobra.ExactArgs(1),
		Long: `Rm removes the route of a domain that is for all senders, or the one that --from
and --login name. What waits goes as the other routes say.`,
		RunE: func(c *cobra.Command, args []string) error {
			done := "route " + args[0] + ofSenders(of) + " is removed"
			return a.change(c, done, func(ctx context.Context, client *admin.Client) error {
				return client.RemoveRoute(ctx, a.by(), args[0], of)
			})
		},
	}
	senderFlags(c, &of)
	return c
}

func senderFlags(c *cobra.Command, of *admin.RouteSenders) {
	c.Flags().StringVar(&of.From, "from", "", "only for mail of this `SENDER`: address, @DOMAIN, or <> for bounces")
	c.Flags().StringVar(&of.Login, "login", "", "only for mail that this `USER` has handed in")
	narrow(c, "from", "login")
}

// ofSenders says whose mail a route is for.
func ofSenders(of admin.RouteSenders) (text string) {
	if of.From != "" {
		text = " from " + of.From
	}
	if of.Login != "" {
		text += " of " + of.Login
	}
	return text
}
