package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"relay/cmd/internal/wording"
	"relay/cmd/relayctl/limits"
	"relay/cmd/relayctl/link"
	"relay/node/admin"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitFound  = 3 // a check found something wrong
)

// app is one run of the program.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time
	getenv         func(string) string
	tick           time.Duration // between looks while waiting

	output  string // table, json or yaml
	wide    bool   // tables show all, however wide
	fitted  bool   // a table was asked for by name: it fits a line, wherever it goes
	why     string
	link    link.Link
	started bool // flags and arguments were understood
	written *checked
}

// checked is standard output. It remembers that something could not be written.
type checked struct {
	io.Writer
	err error
}

func (c *checked) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	if err != nil && c.err == nil {
		c.err = fmt.Errorf("the output can not be written: %w", err)
	}
	return n, err
}

// usageError says that the command line can not be understood.
type usageError struct{ error }

// Unwrap lets errors.As find what is wrong with a file that was named.
func (u usageError) Unwrap() error { return u.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errFound is the error of a check that found something wrong; it was printed.
var errFound = errors.New("the check found something wrong")

func (a *app) run(ctx context.Context, args []string) int {
	a.written = &checked{Writer: a.stdout}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.written)
	root.SetErr(a.stderr)
	completion(root)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		err = a.written.err
	}
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errFound):
		return exitFound
	}
	var usage usageError
	refused, next := ofUsage(err)
	if !a.started || errors.As(err, &usage) || refused {
		text := oneLine(wording.Files(wording.Missing(err)))
		if !next {
			text += fmt.Sprintf("; see '%s --help'", cmd.CommandPath())
		}
		fmt.Fprintf(a.stderr, "relayctl: %s\n", text)
		return exitUsage
	}
	fmt.Fprintf(a.stderr, "relayctl: %s\n", oneLine(explain(ctx, err)))
	return exitFailed
}

// completion adds the command that writes shells' completion, to the output that
// root has now. A shell that it does not know is a mistake.
func completion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Args, c.RunE = cobra.ArbitraryArgs, onlyBelow
		}
	}
}

// explain adds the next step where only relayctl knows it.
func explain(ctx context.Context, err error) string {
	var none *admin.Unreachable
	switch {
	case ctx.Err() != nil:
		return "interrupted"
	case errors.As(err, &none):
		return unreachable(none)
	}
	return wording.Files(err)
}

// oneLine keeps an error on one line, whatever a server put into it.
func oneLine(s string) string { return clean(strings.Join(strings.Fields(s), " ")) }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "relayctl",
		Short: "Ask and steer a relay cluster",
		Long: `Relayctl asks and steers a relay cluster. Any node answers for the whole
cluster; when one is down the next one is asked.

It finds a node by --addr or RELAY_ADDR, else on this machine: 127.0.0.1:7180,
then a dev cluster at 12180, 12280 and 12380. The admin token comes from
--token, --token-file or RELAY_TOKEN; that of a node on this machine is found.

On a terminal tables fit the line by what matters, and ids are shortened to
their end, by which every command knows them; -o wide shows all, and so does
what goes to a file or a program. COLUMNS sets the width, -o table asks for it.

Exit codes: 0 done, 1 failed, 2 not understood or a value that is not taken, 3 a
check found something wrong.`,
		Example: `  relayctl status
  relayctl user add carol@example.test --password-stdin < password
  relayctl queue ls --state deferred --domain example.com
  relayctl queue hold --all --sender '@example.org' --dry-run
  relayctl trace 01JABCDEFGHJKMNPQRSTVWXYZ0`,
		Args:              cobra.ArbitraryArgs,
		RunE:              onlyBelow,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(c *cobra.Command, _ []string) error { return errors.Join(a.format(), filled(c)) },
	}
	root.SetFlagErrorFunc(wording.Flag)
	flags := root.PersistentFlags()
	flags.StringVarP(&a.output, "output", "o", "", "table, wide, json or yaml; default: table on a terminal, else wide")
	flags.StringVar(&a.why, "why", "", "why a change is made, for the audit log")
	a.link.Flags(root)
	parts := &limits.App{Do: a.do, Change: a.change, Emit: a.emit, Say: a.say, Table: a.table, By: a.by, Usage: usagef,
		Group: group}
	root.AddCommand(a.statusCmd(), a.nodeCmd(), a.clusterCmd(), a.domainCmd(), a.userCmd(), a.aliasCmd(), a.routeCmd(),
		a.ruleCmd(), a.suppressCmd(), limits.Limit(parts), limits.Site(parts), a.dkimCmd(), a.settingsCmd(),
		a.queueCmd(), a.traceCmd(), a.mailboxCmd(), a.sendCmd(), a.eventsCmd(),
		a.auditCmd(), a.verifyCmd(), a.doctorCmd(), a.versionCmd())
	a.marked(root)
	return root
}

// format reads --output.
func (a *app) format() error {
	switch a.output {
	case "json", "yaml":
		return nil
	case "", "table", "wide":
		a.wide, a.fitted = a.output == "wide", a.output == "table"
		a.output = "table"
		return nil
	}
	return usagef("the output %q is not table, wide, json or yaml", a.output)
}

// narrowing marks a flag without which a command is about more.
const narrowing = "narrowing"

// narrow marks flags that say what a command is about: given, they must not be empty.
func narrow(c *cobra.Command, flags ...string) {
	for _, name := range flags {
		_ = c.Flags().SetAnnotation(name, narrowing, []string{"true"})
	}
}

// filled refuses an empty value of a flag that narrows: a shell's variable that is not set must not come to mean all.
func filled(c *cobra.Command) (err error) {
	c.Flags().Visit(func(f *pflag.Flag) {
		if f.Annotations[narrowing] != nil && strings.TrimSpace(f.Value.String()) == "" && err == nil {
			err = usagef("--%s is empty, as from a variable that is not set: leave it out if all are meant", f.Name)
		}
	})
	return err
}

// marked notes when a command begins: an error before that is the library's word on
// flags and arguments.
func (a *app) marked(c *cobra.Command) {
	if c.Args != nil && len(c.Commands()) == 0 {
		c.Args = wording.Form(c.Args)
	}
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			a.started = true
			return run(c, args)
		}
	}
	for _, below := range c.Commands() {
		a.marked(below)
	}
}

// exclusive refuses two flags at once.
func exclusive(c *cobra.Command, one, other string) error {
	if c.Flags().Changed(one) && c.Flags().Changed(other) {
		return usagef("--%s and --%s exclude each other", one, other)
	}
	return nil
}

// group is a command that only has others below it.
func group(use, short string, below ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: onlyBelow}
	c.AddCommand(below...)
	return c
}

// onlyBelow helps whoever names no command, or one that is not there.
func onlyBelow(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	c.SuggestionsMinimumDistance = 2
	text := fmt.Sprintf("unknown command %q for %q", args[0], c.CommandPath())
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		text += ", did you mean " + near[0] + "?"
	}
	return usagef("%s", text)
}

// by is the change as the audit log will show it.
func (a *app) by() admin.By { return admin.By{Why: a.why} }

// do runs f with a client.
func (a *app) do(c *cobra.Command, f func(ctx context.Context, client *admin.Client) error) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	defer client.Close()
	return f(c.Context(), client)
}

// say writes a sentence for people; with -o json or yaml stdout stays for data.
func (a *app) say(format string, args ...any) {
	if a.output == "table" {
		fmt.Fprintf(a.written, format+"\n", args...)
	}
}

// note writes a hint beside the output.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.stderr, format+"\n", args...)
}

// wait lets one tick pass.
func (a *app) wait(ctx context.Context) error {
	timer := time.NewTimer(a.tick)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
