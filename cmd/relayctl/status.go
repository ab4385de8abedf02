package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relay/node/admin"
)

func (a *app) statusCmd() *cobra.Command {
	var wait string
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the cluster on one screen",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if wait == "" {
				return a.do(c, a.status)
			}
			limit, err := parseAge(wait)
			if err != nil {
				return usagef("--wait: %w", err)
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error { return a.statusWait(ctx, client, limit) })
		},
	}
	c.Flags().StringVar(&wait, "wait", "", "wait so many `SECONDS` until the cluster is healthy")
	return c
}

func (a *app) status(ctx context.Context, client *admin.Client) error {
	s, err := client.Status(ctx)
	if err != nil {
		return err
	}
	return a.emit(s, func() { a.showStatus(s) })
}

// statusWait asks again and again; a node that does not answer may be starting.
func (a *app) statusWait(ctx context.Context, client *admin.Client, limit time.Duration) error {
	short, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last *admin.Status
	var lastErr error
	for {
		s, err := client.Status(short)
		if err == nil {
			last, lastErr = s, nil
			if s.Healthy {
				return a.emit(s, func() { a.showStatus(s) })
			}
		} else if short.Err() == nil {
			lastErr = err
		}
		if a.wait(short) == nil {
			continue
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case lastErr != nil:
			return fmt.Errorf("the cluster is not healthy after %s: %w", age(limit), lastErr)
		case last == nil:
			return fmt.Errorf("no node answered within %s; look whether one runs, or name one with --addr or RELAY_ADDR",
				age(limit))
		}
		if err := a.emit(last, func() { a.showStatus(last) }); err != nil {
			return err
		}
		return fmt.Errorf("the cluster is not healthy after %s; 'relayctl status' says what is wrong", age(limit))
	}
}

func (a *app) showStatus(s *admin.Status) {
	health, leader := "is healthy", "no node leads"
	if !s.Healthy {
		health = "needs attention"
	}
	if s.Leader != "" {
		leader = fmt.Sprintf("%s leads in term %d", s.Leader, s.Term)
	}
	a.say("Cluster %s %s; %s.", clean(s.Cluster), health, clean(leader))
	a.say("%s", mayFail(s))
	for _, p := range s.Problems {
		a.say("  ! %s", clean(p))
	}
	for _, p := range s.Advice {
		a.say("  * %s", clean(p))
	}
	if s.Rotation != "" {
		a.say("  %s", clean(s.Rotation))
	}
	if s.Upgrade != "" {
		a.say("  %s", clean(s.Upgrade))
	}
	a.say("")
	a.showNodes(s.Nodes)
	a.say("\nQueue: %s to %s, %s.", count(s.Queue.Messages, "message"), count(s.Queue.Recipients, "recipient"),
		size(s.Queue.Bytes))
	if s.HistorySpan > 0 {
		text := "History: the oldest message in it ended " + seconds(s.HistorySpan) + " ago"
		if s.HistoryLasts > 0 {
			text += "; at the rate so far it lasts " + seconds(s.HistoryLasts)
		}
		a.say("%s.", text)
	}
}

// mayFail says how many nodes may fail, and what happens then.
func mayFail(s *admin.Status) string {
	switch {
	case len(s.Nodes) == 1:
		return "It is a single node: no other takes over from it."
	case s.MayFail == 0:
		return "No node may fail: the cluster would stop taking mail."
	}
	text := fmt.Sprintf("%s may fail", plural(uint64(max(s.MayFail, 0)), "node", "nodes"))
	if s.FailoverSeconds > 0 {
		text += fmt.Sprintf("; others take over within %.3gs", s.FailoverSeconds)
	}
	return text + "."
}

func (a *app) showNodes(nodes []admin.Node) {
	t := a.table("NODE", "STATE", "ROLE", "VERSION", ">APPLIED", ">LAG", ">OWNED", ">POP3", ">SMTP", ">DISK FREE",
		">UP", "HOSTNAME").
		Matter("NODE", "STATE", "ROLE", "LAG", "OWNED", "POP3", "SMTP", "DISK FREE")
	for _, n := range nodes {
		applied, lag, pop3, smtp, up := fmt.Sprint(n.Applied), fmt.Sprint(n.Lag), fmt.Sprint(n.POP3Sessions),
			fmt.Sprint(n.SMTPSessions), seconds(n.UptimeSeconds)
		if n.SilentSeconds > 0 { // nobody knows
			applied, lag = "-", "-"
		}
		if n.SilentSeconds > 0 || n.UptimeSeconds == 0 && n.DiskTotal == 0 { // it has not said them in time
			pop3, smtp, up = "-", "-", "-"
		}
		t.Row(n.ID, stateOf(n), n.Role, orDash(n.Version), applied, lag, n.Owned, pop3, smtp, disk(n), up, orDash(n.Hostname))
	}
	t.Flush()
}

// stateOf is a node's state in words: since when it is silent, too. A node of which
// others hear is silent for no time.
func stateOf(n admin.Node) string {
	if n.State == admin.NodeSilent && n.SilentSeconds >= 1 {
		return n.State + " " + age(time.Duration(n.SilentSeconds*float64(time.Second)))
	}
	return n.State
}

func disk(n admin.Node) string {
	if n.DiskTotal == 0 {
		return "-"
	}
	return fmt.Sprintf("%s (%d%%)", size(n.DiskFree), n.DiskFree*100/n.DiskTotal)
}

func (a *app) verifyCmd() *cobra.Command {
	var bodies bool
	c := &cobra.Command{
		Use:   "verify",
		Short: "Prove that all nodes hold the same mail",
		Long: `Verify has every node hash its whole state at one log index and compares the
hashes; references are held against records and, with --bodies, every body
against its digest. It exits 3 where something is wrong.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				v, err := client.Verify(ctx, admin.VerifyOptions{Bodies: bodies})
				if err != nil {
					return err
				}
				if err := a.emit(v, func() { a.showVerification(v) }); err != nil {
					return err
				}
				if !v.OK {
					return errFound
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&bodies, "bodies", false, "also read every body and compare it with its digest")
	return c
}

func (a *app) showVerification(v *admin.Verification) {
	t := a.table("NODE", "HASH", "ERROR").Matter("NODE", "ERROR", "HASH")
	for _, n := range v.Nodes {
		t.Row(n.ID, orDash(n.Hash), orDash(n.Error))
	}
	t.Flush()
	what := []string{
		count(v.Checked.Messages, "message"), count(v.Checked.Recipients, "recipient"),
		plural(v.Checked.Bodies, "body", "bodies"), plural(v.Checked.Mailboxes, "mailbox", "mailboxes"),
	}
	verdict := "all nodes agree"
	if !v.OK {
		verdict = "something is wrong"
	}
	a.say("\nAt index %d %s; checked %s.", v.Index, verdict, strings.Join(what, ", "))
	for _, f := range v.Findings {
		a.say("  ! %s", clean(f))
	}
}

func plural(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
