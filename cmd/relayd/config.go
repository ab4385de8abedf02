package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"relay/node/config"
)

func newConfig() *cobra.Command {
	cmd := group(&cobra.Command{Use: "config", Short: "check a configuration, or print the default"})
	cmd.AddCommand(&cobra.Command{
		Use:   "check FILE",
		Short: "name every mistake of a file with its line (exit code 3 if there are any)",
		Args:  cobra.ExactArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return checkConfig(cmd, args[0]) },
	}, &cobra.Command{
		Use:   "default",
		Short: "print the annotated default",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(cmd.OutOrStdout(), config.Default())
			return err
		},
	})
	return cmd
}

func checkConfig(cmd *cobra.Command, path string) error {
	cfg, err := config.Load(path)
	var invalid *config.Invalid
	if errors.As(err, &invalid) {
		for _, p := range invalid.Problems {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", path, p)
		}
		return &exitError{
			exitWrong, fmt.Errorf("%s has %s; mend it and check again", path, count(len(invalid.Problems), "mistake")),
		}
	}
	if err != nil {
		return err
	}
	for _, w := range append(cfg.Warnings(), config.Unknown(os.Environ())...) {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: warning: %s\n", path, w)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is good\n", path)
	return nil
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
