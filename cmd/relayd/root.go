package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"relay/cmd/internal/wording"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // it was tried and did not work
	exitUsage  = 2 // the command line makes no sense
	exitWrong  = 3 // a check found something wrong
)

// exitError carries an exit code other than exitFailed out of a command.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usage marks an error as bad usage.
func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// run executes one command line and returns its exit code. It is main without
// the process: tests call it with their own streams.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	started := false // whether a command began, or its line was refused
	root := newRoot(&started)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	code := exitUsage
	if started {
		code = exitFailed
	}
	var e *exitError
	if errors.As(err, &e) {
		code = e.code
	}
	if code == exitUsage {
		err = wording.Missing(err)
	}
	text := "relayd: " + oneLine(err)
	if code == exitUsage {
		text += fmt.Sprintf("; '%s --help' shows how", cmd.CommandPath())
	}
	fmt.Fprintln(stderr, text)
	return code
}

func newRoot(started *bool) *cobra.Command {
	root := &cobra.Command{
		Use:   "relayd",
		Short: "a clustered mail relay: SMTP in and out, POP3, one replicated spool",
		Long: `relayd is one node of a mail relay. A handful of equal nodes keep one
replicated spool: a 250 means that a majority of them has the message on disk.

Try it:   relayd dev
Set up:   relayd init --config FILE, then relayd run --config FILE
Grow:     relayctl node token, then relayd join --config FILE --token T ADDR`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	group(root)
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(newDev(), newInit(), newJoin(), newRun(), newConfig(),
		newRecover(), newVersion(), newCompletion(root))
	mark(root, started)
	root.SetFlagErrorFunc(wording.Flag)
	return root
}

// mark notes when any command below cmd begins: an error before that is one of usage.
func mark(cmd *cobra.Command, started *bool) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*started = true
			return run(cmd, args)
		}
	}
	if cmd.Args != nil && len(cmd.Commands()) == 0 {
		cmd.Args = wording.Form(cmd.Args)
	}
	for _, sub := range cmd.Commands() {
		mark(sub, started)
	}
}

// group makes a command that only has sub-commands refuse anything else.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		text := fmt.Sprintf("there is no command %q", cmd.CommandPath()+" "+args[0])
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			text += "; did you mean " + strings.Join(near, " or ") + "?"
		}
		return usage("%s", text)
	}
	return cmd
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintln(cmd.OutOrStdout(), "relayd", version())
		},
	}
}

func newCompletion(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:       "completion bash|zsh|fish",
		Short:     "print a shell completion script",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(cmd.OutOrStdout(), true)
			case "zsh":
				return root.GenZshCompletion(cmd.OutOrStdout())
			default:
				return root.GenFishCompletion(cmd.OutOrStdout(), true)
			}
		},
	}
}
