package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"relay/cmd/internal/timespan"
	"relay/cmd/relayctl/table"
	"relay/node/admin"
)

func (a *app) traceCmd() *cobra.Command {
	var q admin.TraceQuery
	var since, until string
	var limit int
	c := &cobra.Command{
		Use:   "trace [ID|MESSAGE-ID]",
		Short: "Show the timeline of a message, also after delivery",
		Example: `  relayctl trace 01JABCDEFGHJKMNPQRSTVWXYZ0
  relayctl trace '<abc@example.com>'
  relayctl trace --from @example.org --to alice@example.test --since 2h
  relayctl trace --user alice --client 192.0.2.0/24 --since yesterday --until yesterday`,
		Long: `Trace shows the timeline of a message that is named by its id, or the end of one,
or by its Message-ID, with or without <>. Filters find messages, newest first.

` + timespan.Forms + `

A client is an IPv4 or IPv6 address, a network such as 192.0.2.0/24 or
2001:db8::/32, part of an address with *, or 'local': the admin API. Case matters
in a Message-ID only, which has to be whole.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if q.Since, err = a.parseSince(since); err != nil {
				return err
			}
			if q.Until, err = a.parseTime("--until", until, true); err != nil {
				return err
			}
			if limit < 0 {
				return usagef("--limit %d is less than 0", limit)
			}
			if q.Client, err = clientFilter(q.Client); err != nil {
				return err
			}
			q.MessageID = strings.Trim(strings.TrimSpace(q.MessageID), "<>")
			filtered := q.From+q.Client+q.User+q.Helo+q.MessageID+since+until != ""
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				if len(args) == 1 {
					return a.traceNamed(ctx, client, args[0], q, filtered, limit)
				}
				if !filtered && q.To == "" {
					return usagef("give an id, a Message-ID, or --from, --to, --client, --user, --helo, --since or --until")
				}
				return a.traceFind(ctx, client, q, limit)
			})
		},
	}
	c.Flags().StringVar(&q.From, "from", "", "sender: address, @domain, part with *, or <>")
	c.Flags().StringVar(&q.To, "to", "", "recipient: address, @domain, or part with *; shows the lines of that one only")
	c.Flags().StringVar(&q.Client, "client", "",
		"client that handed it in: address, network such as 192.0.2.0/24, part with *, or local")
	c.Flags().StringVar(&q.User, "user", "", "login that handed it in: address, local part, @domain, or part with *")
	c.Flags().StringVar(&q.Helo, "helo", "", "what the client called itself, or part with *")
	c.Flags().StringVar(&q.MessageID, "message-id", "", "the Message-ID field, whole, with or without <>")
	c.Flags().StringVar(&since, "since", "", "accepted since: 2h, yesterday, 2026-11-28, or a time (see above)")
	c.Flags().StringVar(&until, "until", "", "accepted until: the same; a day counts whole")
	c.Flags().IntVar(&limit, "limit", 100, "at most so many messages; 0: all")
	return c
}

// traceNamed traces a message by its id or its Message-ID.
func (a *app) traceNamed(
	ctx context.Context, client *admin.Client, name string, q admin.TraceQuery, filtered bool, limit int,
) error {
	switch {
	case strings.ContainsAny(name, "@<"):
		q.MessageID = strings.Trim(name, "<>")
		return a.traceFind(ctx, client, q, limit)
	case filtered:
		return usagef("give either an id or filters, not both; --to goes with an id")
	case checkID(name) != nil:
		return usagef("%q is not the id of a message, nor the end of one; --message-id finds a Message-ID", name)
	}
	return a.traceOne(ctx, client, name, q.To)
}

// clientFilter checks --client: a text that can be no client would match nothing.
func clientFilter(text string) (string, error) {
	text = strings.ToLower(strings.TrimSpace(text))
	if in, ok := strings.CutPrefix(text, "["); ok {
		if in, ok = strings.CutSuffix(in, "]"); ok {
			text = in
		}
	}
	_, one := netip.ParseAddr(text)
	_, port := netip.ParseAddrPort(text)
	_, network := netip.ParsePrefix(text)
	if text == "" || text == "local" || strings.Contains(text, "*") || one == nil || port == nil || network == nil {
		return text, nil
	}
	return "", usagef(
		`--client %q is not an address, a network such as 192.0.2.0/24, part of an address with *, or local`, text)
}

func (a *app) traceOne(ctx context.Context, client *admin.Client, id, to string) error {
	t, err := client.Trace(ctx, id)
	if isNotFound(err) {
		return fmt.Errorf("%w; its history may have run out, or look by --from, --to and --since", err)
	}
	if err != nil {
		return err
	}
	if to != "" {
		if t.Only(to); len(t.Recipients) == 0 {
			return fmt.Errorf("the message %s has no recipient %s: 'relayctl trace %s' lists them", t.ID, to, t.ID)
		}
	}
	return a.emit(t, func() { a.showTrace(t) })
}

// traceMost is how many messages are asked for at once.
const traceMost = 1000

// traceFind shows what is found as it comes: one message whole, several in a
// table.
func (a *app) traceFind(ctx context.Context, client *admin.Client, q admin.TraceQuery, limit int) error {
	show, end := a.showFound(q)
	n := 0
	for more := true; more; {
		q.Limit = traceMost
		if limit > 0 {
			q.Limit = min(limit-n, traceMost)
		}
		found, err := client.Find(ctx, q)
		if errors.Is(err, admin.ErrInvalid) && n > 0 {
			a.note("relayctl: %s", oneLine(err.Error())) // older ones than these are out of reach
			break
		}
		if err != nil {
			return err
		}
		for i := range found {
			if err := show(&found[i]); err != nil {
				return err
			}
		}
		n += len(found)
		if more = len(found) > 0 && (limit == 0 || n < limit); more {
			q.Before = found[len(found)-1].ID
		}
	}
	if err := end(); err != nil || n < limit || limit == 0 || a.output != "table" {
		return err
	}
	all, err := client.CountFound(ctx, q)
	return a.leftOut(all, err, n)
}

// showFound returns what shows each message that is found, and what ends that.
func (a *app) showFound(q admin.TraceQuery) (show func(*admin.Trace) error, end func() error) {
	if a.output != "table" {
		out := &stream{a: a}
		return func(m *admin.Trace) error { return out.add(m) }, out.end
	}
	var first *admin.Trace
	var t *table.Table
	show = func(m *admin.Trace) error {
		switch {
		case t != nil:
			traceRows(t, m)
		case first != nil:
			t = a.table("ID", "ACCEPTED", ">SIZE", "SENDER", "RECIPIENT", "STATE", "HANDED IN BY", "LAST REPLY").
				Matter("RECIPIENT", "ID", "STATE", "ACCEPTED", "SENDER", "LAST REPLY")
			traceRows(t, first)
			traceRows(t, m)
		default:
			first = m
		}
		return nil
	}
	return show, func() error {
		switch {
		case first == nil:
			a.say("No message matches.")
		case t == nil:
			a.showTrace(first)
		default:
			t.Flush()
		}
		return nil
	}
}

func traceRows(t *table.Table, m *admin.Trace) {
	for _, r := range m.Recipients {
		t.Row(table.Ident(m.ID), m.Created, size(m.Size), path(m.Sender), r.Address, r.State,
			handedIn(m.Client), orDash(r.LastReply))
	}
}

// handedIn says who a message came from.
func handedIn(o admin.Origin) string {
	if o.User != "" {
		return o.User + " at " + o.Address
	}
	return orDash(o.Address)
}

func (a *app) showTrace(m *admin.Trace) {
	a.fields(
		"id", m.ID,
		"sender", path(m.Sender),
		"size", size(m.Size),
		"message-id", orDash(m.MessageID),
		"accepted", clock(m.Created),
		"client", orDash(m.Client.Address),
		"login", orDash(m.Client.User),
		"helo", orDash(m.Client.Helo),
		"by way of", wayIn(m.Client),
	)
	a.say("")
	t := a.table("RECIPIENT", "STATE", ">TRIES", "NEXT", "CLASS", "LAST REPLY").
		Matter("RECIPIENT", "STATE", "CLASS", "LAST REPLY").Wrap()
	for _, r := range m.Recipients {
		t.Row(r.Address, r.State, r.Attempts, a.due(r), orDash(r.Class), orDash(r.LastReply))
	}
	t.Flush()
	a.say("")
	t = a.table("WHEN", "WHAT", "NODE", "RECIPIENT", "DETAILS").
		Matter("WHEN", "WHAT", "RECIPIENT", "DETAILS").Wrap()
	for _, e := range m.Events {
		t.Row(e.At, e.What, orDash(e.Node), orDash(e.Recipient), details(e))
	}
	t.Flush()
}

// wayIn says over what protocol and to which node a message came.
func wayIn(o admin.Origin) string {
	way := orDash(o.Protocol)
	if o.TLS != "" {
		way += " with " + o.TLS
	}
	if o.Node != "" {
		way += " at " + o.Node
	}
	if o.Session != "" {
		way += ", session " + o.Session
	}
	return way
}

// details writes the rest of an event as one line.
func details(e admin.TraceEvent) string {
	var parts []string
	add := func(format, value string) {
		if value != "" {
			parts = append(parts, fmt.Sprintf(format, value))
		}
	}
	if e.Attempt > 0 {
		parts = append(parts, fmt.Sprintf("try %d", e.Attempt))
	}
	add("%s", e.Host)
	add("%s", e.TLS)
	add("%s", e.Reply)
	add("class %s", e.Class)
	if !e.NextAttempt.IsZero() {
		parts = append(parts, "next "+clock(e.NextAttempt))
	}
	add("by %s", e.Who)
	add("because: %s", e.Why)
	add("%s", e.Detail)
	add("notice %s", e.Bounce)
	if e.MaybeDuplicate {
		parts = append(parts, "a node that died may have delivered it already")
	}
	return orDash(strings.Join(parts, ", "))
}

func (a *app) auditCmd() *cobra.Command {
	var q admin.AuditQuery
	var since string
	var limit int
	c := &cobra.Command{
		Use: "audit", Short: "Show who changed what, when and why; newest first", Args: cobra.NoArgs,
		Long: "Audit shows who changed what, when and why; newest first.\n\n" + timespan.Forms,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if q.Since, err = a.parseSince(since); err != nil {
				return err
			}
			if limit < 0 {
				return usagef("--limit %d is less than 0", limit)
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error { return a.audits(ctx, client, q, limit) })
		},
	}
	c.Flags().StringVar(&since, "since", "", "only changes since: 2h, yesterday, 2026-11-28, or a time (see above)")
	c.Flags().IntVar(&limit, "limit", 100, "at most so many entries; 0: all")
	return c
}

// auditMost is how many entries are asked for at once.
const auditMost = 10000

func (a *app) audits(ctx context.Context, client *admin.Client, q admin.AuditQuery, limit int) error {
	out, n := stream{a: a}, 0
	t := a.table("WHEN", "WHO", "NODE", "WHAT", "WHY").Matter("WHEN", "WHO", "WHAT", "WHY")
	for more := true; more; {
		q.Limit = auditMost
		if limit > 0 {
			q.Limit = min(limit-n, auditMost)
		}
		page, err := client.Audit(ctx, q)
		if err != nil {
			return err
		}
		for _, e := range page {
			if a.output == "table" {
				t.Row(e.At, e.Who, e.Node, e.What, orDash(e.Why))
			} else if err := out.add(e); err != nil {
				return err
			}
		}
		n += len(page)
		if more = len(page) == q.Limit && (limit == 0 || n < limit); more {
			q.Before = page[len(page)-1].Index
		}
	}
	if a.output != "table" {
		return out.end()
	}
	t.Flush()
	if n < limit || limit == 0 {
		return nil
	}
	all, err := client.CountAudit(ctx, q)
	return a.leftOut(all, err, n)
}
