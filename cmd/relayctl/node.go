package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

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
			if err := between("uses", uses, 1, 100); err != nil {
				return err
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
	var yes bool
	c := &cobra.Command{
		Use: "rm ID", Short: "Take a node out of the cluster for good", Args: cobra.ExactArgs(1),
		Long: `Rm takes a node out of the cluster for good. Before it takes one that runs, or
the leader, it says what that cuts, and asks; without a terminal it needs --yes.`,
		RunE: func(c *cobra.Command, args []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				if !yes && !o.DryRun {
					if err := a.askRemoval(ctx, client, args[0], o); err != nil {
						return err
					}
				}
				n, err := client.Remove(ctx, a.by(), args[0], o)
				if err != nil {
					return err
				}
				return a.emit(n, func() {
					a.showChange(n)
					if !n.DryRun {
						a.note("its disk has the key of the cluster's CA: where it may come into other hands, run 'relayctl " +
							"cluster rotate-ca'")
					}
				})
			})
		},
	}
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would happen")
	c.Flags().BoolVar(&o.Force, "force", false, "even where quorum is lost")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask, though the node runs or leads")
	return c
}

// askRemoval asks whether a node that runs is to be taken out. It returns nil
// where the answer is yes, and for a node that is dead.
func (a *app) askRemoval(ctx context.Context, client *admin.Client, id string, o admin.RemoveOptions) error {
	n, err := nodeOf(ctx, client, id)
	if err != nil || n.State == admin.NodeDead && n.Role != admin.RoleLeader {
		return err
	}
	o.DryRun = true
	change, err := client.Remove(ctx, a.by(), id, o)
	if err != nil {
		return err
	}
	what := n.State
	if n.Role == admin.RoleLeader {
		what += ", and leads the cluster"
	}
	a.note("%s is %s. If it is taken out:", clean(id), clean(what))
	for _, e := range change.Effects {
		a.note("  %s", clean(sentence(e)))
	}
	return a.confirm("Take it out for good? [y/N] ")
}

// confirm asks a person, and returns nil where the answer is yes.
func (a *app) confirm(question string) error {
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return usagef("there is no terminal to ask; say --yes to do it")
	}
	fmt.Fprint(a.stderr, question)
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return errors.New("nothing was changed")
}

func (a *app) nodeDrain() *cobra.Command {
	var dryRun, wait bool
	var timeout, notice string
	c := &cobra.Command{
		Use: "drain ID", Short: "Take a node out of service, so that it can be stopped", Args: cobra.ExactArgs(1),
		Long: `Drain takes a node out of service: at once it is not ready for load balancers;
when the notice is over it refuses new clients; open SMTP connections end after
their transaction, POP3 sessions may finish; its queue and the leadership move to
others. The node stays drained, also when it is started again, until
'relayctl node undrain'.`,
		RunE: func(c *cobra.Command, args []string) error {
			limit, err := parseAge(timeout)
			if err != nil {
				return usagef("--timeout: %w", err)
			}
			o := admin.DrainOptions{DryRun: dryRun}
			if o.Notice, err = parseAge(notice); err != nil {
				return usagef("--notice: %w", err)
			}
			if o.Notice > 10*time.Minute {
				return usagef("--notice is at most 10m, not %s", notice)
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				n, err := client.Drain(ctx, a.by(), args[0], o)
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
	c.Flags().StringVar(&notice, "notice", "5s", "how long new clients are still served, so that balancers can look away")
	return c
}

// drained waits until a node has neither clients nor work, and says how far it is.
func (a *app) drained(ctx context.Context, client *admin.Client, change *admin.NodeChange, limit time.Duration) error {
	short, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	told, begun := "", false
	for {
		s, n, err := statusOf(short, client, change.ID)
		switch {
		case err != nil && short.Err() == nil:
			told = a.progress(told, "asking again: %v", err)
		case err == nil && n.Drained:
			return a.safe(s, n, change)
		case err == nil && begun && n.State == admin.NodeAlive:
			return fmt.Errorf("%s is in service again: somebody has ended its drain, see 'relayctl audit'", n.ID)
		case err == nil:
			begun = begun || n.State == admin.NodeDraining
			told = a.progress(told, "%s", remains(n))
		}
		if a.wait(short) != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%s is not drained after %s; it goes on draining, 'relayctl node ls' shows how far it is",
				change.ID, age(limit))
		}
	}
}

// remains says what a node has that is being drained.
func remains(n admin.Node) string {
	if n.SilentSeconds > 0 {
		return fmt.Sprintf("%s does not answer, so that nobody knows what it still has", n.ID)
	}
	text := fmt.Sprintf("%s still has %s, %s and %s", n.ID, plural(n.Owned, "recipient", "recipients"),
		count(n.SMTPSessions, "SMTP connection"), count(n.POP3Sessions, "POP3 session"))
	if n.Role == admin.RoleLeader {
		text += ", and leads"
	}
	return text
}

// safe says that a node can be stopped, and what becomes of the cluster then.
func (a *app) safe(s *admin.Status, n admin.Node, change *admin.NodeChange) error {
	text := fmt.Sprintf("%s is %s and safe to stop", n.ID, n.State)
	if n.State == admin.NodeDrained && s.MayFail == 0 && n.Role != admin.RoleNonVoter {
		text += ", but while it is stopped the cluster takes no mail: too few of its nodes are up then"
	}
	change.Effects = append(change.Effects, text)
	return a.emit(change, func() { a.say("%s.", clean(text)) })
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
	_, n, err := statusOf(ctx, client, id)
	return n, err
}

// statusOf returns the status, and what it says of one node.
func statusOf(ctx context.Context, client *admin.Client, id string) (*admin.Status, admin.Node, error) {
	s, err := client.Status(ctx)
	if err != nil {
		return nil, admin.Node{}, err
	}
	for _, n := range s.Nodes {
		if n.ID == id {
			return s, n, nil
		}
	}
	return nil, admin.Node{}, admin.NotFound("node", id)
}

func (a *app) nodeUndrain() *cobra.Command {
	var dryRun bool
	c := &cobra.Command{
		Use: "undrain ID", Short: "Let a drained node work again", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				n, err := client.Drain(ctx, a.by(), args[0], admin.DrainOptions{Off: true, DryRun: dryRun})
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
				n, err := client.Transfer(ctx, a.by(), append(args, "")[0])
				if err != nil {
					return err
				}
				return a.emit(n, func() { a.showChange(n) })
			})
		},
	}
}
