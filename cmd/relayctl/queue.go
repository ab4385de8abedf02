package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relay/cmd/relayctl/table"
	"relay/node/admin"
)

func (a *app) queueCmd() *cobra.Command {
	return group("queue", "Waiting mail: list, show, retry, hold, release, remove",
		a.queueLs(), a.queueShow(), a.queueCat(), a.queueStats(),
		a.queueAct(admin.ActionRetry, "Try waiting mail now"),
		a.queueAct(admin.ActionHold, "Keep mail from being tried until it is released"),
		a.queueAct(admin.ActionRelease, "Let held mail go again"),
		a.queueAct(admin.ActionRemove, "Delete waiting mail without telling the sender"),
		a.queueAct(admin.ActionBounce, "Give waiting mail back to its sender"),
		a.queueAct(admin.ActionReroute, "Send waiting mail by another hop"))
}

// filterFlags are the filters that ls and the actions share.
type filterFlags struct {
	admin.QueueFilter
	older string
}

func (f *filterFlags) flags(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.State, "state", "", "queued, active, deferred, held or suspended")
	fl.StringVar(&f.Domain, "domain", "", "domain of a recipient, or *.example.com")
	fl.StringVar(&f.Sender, "sender", "", "address, @domain, part with *, or <> for the null path")
	fl.StringVar(&f.Recipient, "recipient", "", "address, @domain, or part with *")
	fl.StringVar(&f.Owner, "owner", "", "node that is to deliver it")
	fl.StringVar(&f.older, "older-than", "", "accepted so long ago, such as 2h or 1d")
	fl.StringVar(&f.Error, "error", "", "text in the last reply")
	narrow(c, "state", "domain", "sender", "recipient", "owner", "older-than", "error")
}

func (f *filterFlags) filter() (admin.QueueFilter, error) {
	if states := []string{
		"queued", "active", "deferred", "held", "suspended",
	}; f.State != "" && !slices.Contains(states, f.State) {
		return f.QueueFilter, usagef("--state %q is not one of %s", f.State, strings.Join(states, ", "))
	}
	if f.older != "" {
		d, err := parseAge(f.older)
		if err != nil {
			return f.QueueFilter, usagef("--older-than: %w", err)
		}
		f.OlderThanSeconds = int64(d / time.Second)
	}
	return f.QueueFilter, nil
}

func (a *app) queueLs() *cobra.Command {
	var f filterFlags
	var limit int
	var sort string
	c := &cobra.Command{
		Use: "ls", Short: "List the waiting mail of all nodes", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			filter, err := f.filter()
			if err != nil {
				return err
			}
			if limit < 0 {
				return usagef("--limit %d is less than 0", limit)
			}
			if orders := []string{
				"created", "size", "attempts", "next_attempt", "sender", "domain",
			}; sort != "" && !slices.Contains(orders, strings.TrimPrefix(sort, "-")) {
				return usagef("--sort %q is not one of %s, each with or without a - before it", sort, strings.Join(orders, ", "))
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				return a.listQueue(ctx, client, admin.QueuePage{Filter: filter, Sort: sort}, limit)
			})
		},
	}
	f.flags(c)
	c.Flags().IntVar(&limit, "limit", 0, "at most so many messages; 0: all")
	c.Flags().StringVar(&sort, "sort", "",
		"created, size, attempts, next_attempt, sender or domain; - before it turns the order round")
	return c
}

// listQueue writes page by page, so that a long queue neither waits nor has to
// fit into memory.
func (a *app) listQueue(ctx context.Context, client *admin.Client, p admin.QueuePage, limit int) error {
	if a.output != "table" {
		out := stream{a: a}
		if err := client.EachQueued(ctx, p, limit, func(m admin.QueueMessage) error { return out.add(m) }); err != nil {
			return err
		}
		return out.end()
	}
	t, n := a.queueTable(), 0
	err := client.EachQueued(ctx, p, limit, func(m admin.QueueMessage) error {
		n++
		a.queueRows(t, m)
		return nil
	})
	if err != nil {
		return err
	}
	if n == 0 {
		what := "The queue is empty."
		if !p.Filter.Empty() {
			what = "Nothing in the queue matches."
		}
		a.say("%s", what)
		return nil
	}
	t.Flush()
	if n < limit || limit == 0 {
		return nil
	}
	all, err := client.CountQueue(ctx, p.Filter)
	return a.leftOut(all, err, n)
}

// leftOut says how much a limit left out of a list.
func (a *app) leftOut(all *admin.Count, err error, shown int) error {
	switch {
	case isNotFound(err): // a node of a former build
		a.say("There may be more; --limit 0 shows all.")
	case err != nil:
		return err
	case all.AtLeast && all.Count <= uint64(shown):
		a.say("There are more; --limit 0 shows all.")
	case all.AtLeast:
		a.say("At least %s more; --limit 0 shows all.", grouped(all.Count-uint64(shown)))
	case all.Count > uint64(shown):
		a.say("%s more; --limit 0 shows all.", grouped(all.Count-uint64(shown)))
	}
	return nil
}

func (a *app) queueTable() *table.Table {
	return a.table("ID", ">AGE", ">SIZE", "SENDER", "RECIPIENT", "STATE", ">TRIES", "NEXT", "OWNER", "LAST REPLY").
		Matter("RECIPIENT", "ID", "STATE", "NEXT", "LAST REPLY")
}

func (a *app) queueRows(t *table.Table, m admin.QueueMessage) {
	for _, r := range m.Recipients {
		t.Row(table.Ident(m.ID), seconds(m.AgeSeconds), size(m.Size), path(m.Sender), r.Address, r.State, r.Attempts,
			a.due(r), orDash(m.Owner), orDash(r.LastReply))
	}
}

// due says when a recipient is tried next; parked mail keeps its time but is
// not tried.
func (a *app) due(r admin.QueueRecipient) string {
	if r.State == admin.StateHeld || r.State == admin.StateSuspended {
		return "-"
	}
	return a.next(r.NextAttempt)
}

func (a *app) queueShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show one message: why it waits and what happens next", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkID(args[0]); err != nil {
				return err
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				m, err := client.Message(ctx, args[0])
				if err != nil {
					return gone(err, args[0])
				}
				return a.emit(m, func() { a.showMessage(m) })
			})
		},
	}
}

// gone points to the history where the queue no longer knows a message.
func gone(err error, id string) error {
	if isNotFound(err) {
		return fmt.Errorf("%w; if it was delivered or removed, 'relayctl trace %s' tells", err, id)
	}
	return err
}

func (a *app) showMessage(m *admin.QueueDetail) {
	from := m.Client.Protocol + " from " + m.Client.Address
	if m.Client.User != "" {
		from += " as " + m.Client.User
	}
	a.fields(
		"id", m.ID,
		"accepted", fmt.Sprintf("%s (%s ago) by %s, %s", clock(m.Created), seconds(m.AgeSeconds),
			orDash(m.Client.Node), from),
		"size", size(m.Size),
		"sender", path(m.Sender),
		"message-id", orDash(m.MessageID),
		"owner", orDash(m.Owner),
		"held by", orDash(strings.Join(m.Replicas, " ")),
		"given up", a.next(m.Expires),
	)
	a.say("")
	t := a.table("RECIPIENT", "STATE", ">TRIES", "NEXT", "ROUTE", "LAST HOST", "CLASS", "LAST REPLY").
		Matter("RECIPIENT", "STATE", "NEXT", "CLASS", "LAST REPLY").Wrap()
	for i, r := range m.Recipients {
		t.Row(r.Address, r.State, r.Attempts, a.due(r), at(m.Route, i), at(m.LastHost, i), orDash(r.Class),
			orDash(r.LastReply))
	}
	t.Flush()
	if len(m.Why) > 0 {
		a.say("")
	}
	for _, line := range m.Why {
		a.say("%s", clean(line))
	}
}

func at(list []string, i int) string {
	if i < len(list) {
		return orDash(list[i])
	}
	return "-"
}

func (a *app) queueCat() *cobra.Command {
	return &cobra.Command{
		Use: "cat ID", Short: "Write the message itself, as stored", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkID(args[0]); err != nil {
				return err
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				body, _, err := client.Open(ctx, args[0])
				if err != nil {
					return gone(err, args[0])
				}
				defer body.Close()
				if _, err = io.Copy(a.written, body); err != nil {
					return fmt.Errorf("the message broke off: %w; try again", err)
				}
				return nil
			})
		},
	}
}

func (a *app) queueStats() *cobra.Command {
	return &cobra.Command{
		Use: "stats", Short: "Show destinations by age", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				s, err := client.Stats(ctx)
				if err != nil {
					return err
				}
				return a.emit(s, func() { a.showStats(s) })
			})
		},
	}
}

func (a *app) showStats(s *admin.QueueStats) {
	heads := []string{"DESTINATION", ">TOTAL"}
	for _, bound := range s.Ages {
		heads = append(heads, ">≤"+seconds(bound))
	}
	t := a.table(append(heads, ">OLDER", ">DEFERRED", ">PARKED", ">SIZE", "CLASSES", "LAST FAILURE")...).
		Matter("DESTINATION", "TOTAL", "DEFERRED", "PARKED", "CLASSES", "LAST FAILURE")
	for _, d := range s.Destinations {
		row := []any{d.Domain + atSite(d), d.Total}
		for _, n := range d.Ages {
			row = append(row, n)
		}
		t.Row(append(row, d.Deferred, d.Parked, size(d.Bytes), classesOf(d), orDash(d.LastReply))...)
	}
	if len(s.Destinations) > 0 {
		t.Flush()
		a.say("")
	}
	a.say("%s to %s, %s%s%s.", count(s.Total.Messages, "message"), count(s.Total.Recipients, "recipient"),
		size(s.Total.Bytes),
		counts("; ", s.States), counts("; owned by ", s.Owners))
	if len(s.Classes) > 0 {
		a.say("Deferred by class: %s.", byCount(s.Classes))
		for _, text := range s.Advice {
			a.say("Advice: %s.", clean(text))
		}
	}
	for _, r := range s.Rules {
		a.say("Rule %d (%s) decides on %s.", r.Rule, r.Action, count(r.Recipients, "recipient"))
	}
}

// atSite names the site of a destination, if that is not the domain itself.
func atSite(d admin.Destination) string {
	if d.Site == "" || d.Site == d.Domain {
		return ""
	}
	return " (" + d.Site + ")"
}

// classesOf says what keeps a destination's mail from being delivered, the most frequent first.
func classesOf(d admin.Destination) string {
	if len(d.Classes) == 0 {
		return orDash(d.Class)
	}
	return byCount(d.Classes)
}

func byCount(m map[string]uint64) string {
	names := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		return cmp.Or(cmp.Compare(m[b], m[a]), cmp.Compare(a, b))
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%s %d", clean(name), m[name])
	}
	return strings.Join(names, ", ")
}

func counts(lead string, m map[string]uint64) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", clean(orDash(name)), m[name]))
	}
	if len(parts) == 0 {
		return ""
	}
	return lead + strings.Join(parts, ", ")
}
