package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"relay/cmd/relayctl/danger"
	"relay/node/admin"
)

func (a *app) userCmd() *cobra.Command {
	return group("user", "Accounts: list, add, import, change, remove",
		a.userLs(), a.userAdd(), a.userImport(), a.userPasswd(), a.userSet(), a.userShow(), a.userRm())
}

func (a *app) userLs() *cobra.Command {
	var domain string
	c := &cobra.Command{
		Use: "ls", Short: "List the accounts", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				all, err := client.Users(ctx, domain)
				if err != nil {
					return err
				}
				return a.emit(all, func() {
					t := a.table("ADDRESS", "NAME", ">MESSAGES", ">SIZE", ">QUOTA", "STATE").Matter("ADDRESS",
						"STATE", "SIZE", "QUOTA")
					for _, u := range all {
						t.Row(u.Address, orDash(u.Name), u.Messages, size(u.Bytes), quota(u.QuotaBytes, u.QuotaMessages),
							enabled(u.Disabled))
					}
					t.Flush()
				})
			})
		},
	}
	c.Flags().StringVar(&domain, "domain", "", "only accounts of this domain")
	return c
}

// quota says what a mailbox may hold; 0 is no limit.
func quota(octets, messages uint64) string {
	var limits []string
	if octets > 0 {
		limits = append(limits, size(octets))
	}
	if messages > 0 {
		limits = append(limits, count(int(min(messages, math.MaxInt)), "message"))
	}
	return orDash(strings.Join(limits, ", "))
}

func enabled(disabled bool) string {
	if disabled {
		return "disabled"
	}
	return "enabled"
}

func (a *app) userShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ADDRESS", Short: "Show one account", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				u, err := client.User(ctx, args[0])
				if err != nil {
					return err
				}
				return a.emit(u, func() { a.showUser(u) })
			})
		},
	}
}

func (a *app) showUser(u *admin.User) {
	list := func(s []string) string { return orDash(strings.Join(s, " ")) }
	number := func(n uint64) string {
		if n == 0 {
			return "no limit"
		}
		return fmt.Sprint(n)
	}
	a.fields(
		"address", u.Address,
		"name", orDash(u.Name),
		"state", enabled(u.Disabled),
		"created", clock(u.Created),
		"mailbox", count(u.Messages, "message")+", "+size(u.Bytes),
		"quota", strings.ReplaceAll(quota(u.QuotaBytes, 0), "-", "no limit")+", messages: "+number(u.QuotaMessages),
		"aliases", list(u.Aliases),
		"may send as", list(u.Senders),
		"sends a day", number(u.SendLimitDay),
		"retention", span(u.Retention, "for ever"),
		"login delay", span(u.LoginDelay, "none"),
		"sessions", map[bool]string{true: "shared", false: "one at a time"}[u.Shared],
	)
}

func span(n int64, none string) string {
	if n == 0 {
		return none
	}
	return seconds(n)
}

// fields writes names and values in two columns.
func (a *app) fields(pairs ...string) {
	width := 0
	for i := 0; i < len(pairs); i += 2 {
		width = max(width, len(pairs[i]))
	}
	for i := 0; i < len(pairs); i += 2 {
		a.say("%-*s  %s", width, pairs[i], clean(pairs[i+1]))
	}
}

// password holds the flags that say where a password comes from. It never
// comes from the arguments, which every user of the machine can see.
type password struct{ stdin, hashed bool }

func (p *password) flags(c *cobra.Command) {
	c.Flags().BoolVar(&p.stdin, "password-stdin", false, "read the password from standard input")
	c.Flags().BoolVar(&p.hashed, "hashed", false,
		"what is read is a hash: argon2id ($argon2id$), bcrypt ($2b$) or crypt ($6$, $5$, $1$)")
}

// read asks for the password, twice on a terminal.
func (p *password) read(a *app) (string, error) {
	if p.stdin {
		line, err := bufio.NewReader(io.LimitReader(a.stdin, 4096)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("the password can not be read: %w", err)
		}
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return "", errors.New("there is no password on standard input; write it there on one line")
		}
		return line, nil
	}
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return "", usagef("there is no terminal to ask for the password; give it with --password-stdin")
	}
	once, err := a.prompt(f, "Password: ")
	if err != nil {
		return "", err
	}
	again, err := a.prompt(f, "Once more: ")
	switch {
	case err != nil:
		return "", err
	case once != again:
		return "", errors.New("the passwords differ; try again")
	case once == "":
		return "", errors.New("the password is empty; try again")
	}
	return once, nil
}

func (a *app) prompt(f *os.File, text string) (string, error) {
	fmt.Fprint(a.stderr, text)
	data, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(a.stderr)
	return string(data), err
}

func (a *app) userAdd() *cobra.Command {
	var u admin.UserAdd
	var p password
	var limit string
	c := &cobra.Command{
		Use: "add ADDRESS", Short: "Add an account with a mailbox", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			u.Address = args[0]
			if u.QuotaBytes, err = parseSize(limit); err != nil {
				return usagef("--quota: %w", err)
			}
			secret, err := p.read(a)
			if err != nil {
				return err
			}
			u.Password = secret
			if p.hashed {
				u.Password, u.PasswordHash = "", secret
			}
			return a.changeAddress(c, "user ", u.Address, " is added",
				func(ctx context.Context, client *admin.Client, address string) error {
					u.Address = address
					return client.AddUser(ctx, a.by(), u)
				})
		},
	}
	p.flags(c)
	c.Flags().StringVar(&u.Name, "name", "", "the person's name")
	c.Flags().StringVar(&limit, "quota", "0", "most octets in the mailbox, such as 1GB; 0: no limit")
	c.Flags().Uint64Var(&u.QuotaMessages, "quota-messages", 0, "most messages in the mailbox; 0: no limit")
	return c
}

func (a *app) userPasswd() *cobra.Command {
	var p password
	c := &cobra.Command{
		Use: "passwd ADDRESS", Short: "Set a password", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			secret, err := p.read(a)
			if err != nil {
				return err
			}
			set := admin.UserSet{Password: &secret}
			if p.hashed {
				set = admin.UserSet{PasswordHash: &secret}
			}
			return a.changeAddress(c, "the password of ", args[0], " is set",
				func(ctx context.Context, client *admin.Client, address string) error {
					return client.SetUser(ctx, a.by(), address, set)
				})
		},
	}
	p.flags(c)
	return c
}

// userFlags are the changeable parts of an account, as given.
type userFlags struct {
	name, quota, retention, loginDelay string
	quotaMessages, sendLimit           uint64
	senders                            []string
	shared, enable, disable            bool
}

func (a *app) userSet() *cobra.Command {
	var f userFlags
	c := &cobra.Command{
		Use: "set ADDRESS", Short: "Change an account", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			set, err := f.changes(c)
			if err != nil {
				return err
			}
			return a.changeAddress(c, "user ", args[0], " is changed",
				func(ctx context.Context, client *admin.Client, address string) error {
					err := client.SetUser(ctx, a.by(), address, set)
					if err == nil {
						a.warn(danger.User(address, set))
					}
					return err
				})
		},
	}
	c.Flags().StringVar(&f.name, "name", "", "the person's name")
	c.Flags().StringVar(&f.quota, "quota", "0", "most octets in the mailbox, such as 1GB; 0: no limit")
	c.Flags().Uint64Var(&f.quotaMessages, "quota-messages", 0, "most messages in the mailbox; 0: no limit")
	c.Flags().Uint64Var(&f.sendLimit, "send-limit", 0, "most recipients a day; 0: no limit")
	c.Flags().StringVar(&f.retention, "retention", "0", "how long mail stays, such as 30d; 0: for ever")
	c.Flags().StringVar(&f.loginDelay, "login-delay", "0", "least time between POP3 logins; 0: none")
	c.Flags().StringArrayVar(&f.senders, "sender", nil,
		"further `ADDRESS` it may send as; all that are to stay must be given, '' for none")
	c.Flags().BoolVar(&f.shared, "shared", false, "allow several POP3 sessions at once (--shared=false: one)")
	c.Flags().BoolVar(&f.enable, "enable", false, "let it log in and get mail")
	c.Flags().BoolVar(&f.disable, "disable", false, "refuse its logins and its mail")
	return c
}

// changes takes the flags that were given; the others leave the account as it is.
func (f *userFlags) changes(c *cobra.Command) (s admin.UserSet, err error) {
	given := c.Flags().Changed
	if err := exclusive(c, "enable", "disable"); err != nil {
		return s, err
	}
	if given("name") {
		s.Name = &f.name
	}
	if given("quota") {
		n, err := parseSize(f.quota)
		if err != nil {
			return s, usagef("--quota: %w", err)
		}
		s.QuotaBytes = &n
	}
	if given("quota-messages") {
		s.QuotaMessages = &f.quotaMessages
	}
	if given("send-limit") {
		s.SendLimitDay = &f.sendLimit
	}
	if s.Retention, err = spanFlag(given("retention"), "retention", f.retention); err != nil {
		return s, err
	}
	if s.LoginDelay, err = spanFlag(given("login-delay"), "login-delay", f.loginDelay); err != nil {
		return s, err
	}
	if given("sender") {
		senders := append([]string{}, addresses(f.senders)...)
		s.Senders = &senders
	}
	if given("shared") {
		s.Shared = &f.shared
	}
	if f.enable || f.disable {
		s.Disabled = &f.disable
	}
	if s == (admin.UserSet{}) {
		return s, usagef("nothing is to be changed")
	}
	return s, nil
}

func spanFlag(given bool, name, text string) (*int64, error) {
	if !given {
		return nil, nil
	}
	d, err := parseAge(text)
	if err != nil {
		return nil, usagef("--%s: %w", name, err)
	}
	if d > longestKept {
		return nil, usagef("--%s %s is longer than 10 years; 0 is the default", name, text)
	}
	n := int64(d / time.Second)
	return &n, nil
}

// longestKept is the longest span that the cluster keeps.
const longestKept = 10 * 365 * 24 * time.Hour

func (a *app) userRm() *cobra.Command {
	var o admin.DropOptions
	c := &cobra.Command{
		Use: "rm ADDRESS", Short: "Remove an account and its mailbox", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				r, err := client.RemoveUser(ctx, a.by(), args[0], o)
				if err != nil {
					return err
				}
				return a.removed(r, "user")
			})
		},
	}
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would happen")
	return c
}
