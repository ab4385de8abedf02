package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"relay/node/admin"
)

func (a *app) nodeCmd() *cobra.Command {
	return group("node", "Members: list, join token, remove, drain, transfer",
		a.nodeLs(), a.nodeToken(), a.nodeRm(), a.nodeDrain(), a.nodeUndrain(), a.nodeTransfer())
}

func (a *app) nodeLs() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the nodes", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				s, err := client.Status(ctx)
				if err != nil {
					return err
				}
				return a.emit(s.Nodes, func() { a.showNodes(s.Nodes) })
			})
		},
	}
}

func (a *app) nodeToken() *cobra.Command {
	var uses int
	var ttl string
	c := &cobra.Command{
		Use: "token", Short: "Make a token with which a node may join", Args: cobra.NoArgs,
		Long: `Token makes a secret that lets new nodes into the cluster. It goes to standard
output alone, so that a script can take it; how to use it goes to standard error.`,
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := parseAge(ttl)
			if err != nil || d < time.Second {
				return usagef("--ttl %q is not a time span such as \"1h\"", ttl)
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				t, err := client.Token(ctx, a.by(), admin.TokenRequest{Uses: uses, TTLSeconds: int64(d / time.Second)})
				if err != nil {
					return err
				}
				return a.emit(t, func() {
					a.say("%s", clean(t.Token))
					a.note("good for %s until %s; on the new node run:\n  relayd join --config FILE --token %s %s",
						plural(uint64(max(t.Uses, 0)), "node", "nodes"), clock(t.Expires), clean(t.Token), clean(t.Address))
				})
			})
		},
	}
	c.Flags().IntVar(&uses, "uses", 1, "how many nodes may join with it")
	c.Flags().StringVar(&ttl, "ttl", "1h", "how long it is valid")
	return c
}

// showChange says what a step of membership did or would do.
func (a *app) showChange(n *admin.NodeChange) {
	if n.DryRun {
		a.say("Nothing was changed. This would happen:")
	}
	for _, e := range n.Effects {
		a.say("%s", sentence(e))
	}
}

func (a *app) nodeRm() *cobra.Command {
	var o admin.RemoveOptions
	c := &cobra.Command{
		Use: "rm ID", Short: "Take a node out of the cluster for good", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				n, err := client.Remove(ctx, a.by(), args[0], o)
				if err != nil {
					return err
				}
				return a.emit(n, func() {
					a.showChange(n)
					if !n.DryRun {
						a.note("its disk has the key of the cluster's CA: where it may come into other hands, run 'relayctl cluster rotate-ca'")
					}
				})
			})
		},
	}
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would happen")
	c.Flags().BoolVar(&o.Force, "force", false, "even where quorum is lost")
	return c
}

func (a *app) nodeDrain() *cobra.Command {
	var dryRun, wait bool
	var timeout string
	c := &cobra.Command{
		Use: "drain ID", Short: "Have a node hand over its work, so that it can be stopped", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			limit, err := parseAge(timeout)
			if err != nil {
				return usagef("--timeout: %w", err)
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				n, err := client.Drain(ctx, a.by(), args[0], false, dryRun)
				if err != nil {
					return err
				}
				if wait && !dryRun {
					return a.drained(ctx, client, n, limit)
				}
				return a.emit(n, func() { a.showChange(n) })
			})
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would happen")
	c.Flags().BoolVar(&wait, "wait", false, "wait until it is safe to stop the node")
	c.Flags().StringVar(&timeout, "timeout", "10m", "how long to wait")
	return c
}

// drained waits until a node owns nothing, and says how far it is.
func (a *app) drained(ctx context.Context, client *admin.Client, change *admin.NodeChange, limit time.Duration) error {
	short, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	told := ""
	for {
		n, err := nodeOf(short, client, change.ID)
		switch {
		case err != nil && short.Err() == nil:
			told = a.progress(told, "asking again: %v", err)
		case err == nil && (n.State == admin.NodeDrained || n.State == admin.NodeDead):
			change.Effects = append(change.Effects, fmt.Sprintf("%s is %s and safe to stop", n.ID, n.State))
			return a.emit(change, func() { a.say("%s is %s and safe to stop.", n.ID, n.State) })
		case err == nil:
			told = a.progress(told, "%s still has %s and %s", n.ID, plural(n.Owned, "recipient", "recipients"), count(n.POP3Sessions, "POP3 session"))
		}
		if a.wait(short) != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%s is not drained after %s; it goes on draining, 'relayctl node ls' shows how far it is", change.ID, age(limit))
		}
	}
}

// progress notes a line if it is new.
func (a *app) progress(told, format string, args ...any) string {
	text := clean(fmt.Sprintf(format, args...))
	if text != told {
		a.note("%s", text)
	}
	return text
}

func nodeOf(ctx context.Context, client *admin.Client, id string) (admin.Node, error) {
	s, err := client.Status(ctx)
	if err != nil {
		return admin.Node{}, err
	}
	for _, n := range s.Nodes {
		if n.ID == id {
			return n, nil
		}
	}
	return admin.Node{}, admin.NotFound("node", id)
}

func (a *app) nodeUndrain() *cobra.Command {
	var dryRun bool
	c := &cobra.Command{
		Use: "undrain ID", Short: "Let a drained node work again", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				n, err := client.Drain(ctx, a.by(), args[0], true, dryRun)
				if err != nil {
					return err
				}
				return a.emit(n, func() { a.showChange(n) })
			})
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would happen")
	return c
}

func (a *app) nodeTransfer() *cobra.Command {
	return &cobra.Command{
		Use: "transfer [ID]", Short: "Move leadership to a node, or to any other", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				n, err := client.Transfer(ctx, a.by(), first(append(args, "")...))
				if err != nil {
					return err
				}
				return a.emit(n, func() { a.showChange(n) })
			})
		},
	}
}
