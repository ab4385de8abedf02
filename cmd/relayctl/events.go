package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"relay/cmd/internal/timespan"
	"relay/node/admin"
)

func (a *app) eventsCmd() *cobra.Command {
	var filters []string
	var follow bool
	var since string
	c := &cobra.Command{
		Use: "events", Short: "Show what happens to messages, and what operators change", Args: cobra.NoArgs,
		Long: `Events shows what happened to the messages that were accepted since a time, and what operators changed,
oldest first. With -f it shows what happens from now on, until it is interrupted: the events of the whole
cluster in the order in which it decided them.

--filter KEY=VALUE[,VALUE...] leaves events out; with several keys all have to fit. The keys are event, message,
sender, recipient, domain (of the recipient), class (of a reply), node and who. Addresses are patterns:
*@example.com, @example.com, <>. The events are accepted, delivered, deferred, bounced, expired, redirected,
discarded, held, released, retried, rerouted, deleted, removed, notified, "notice undeliverable", "copy not
made" and admin.

With -o json each event is an object on a line of its own.

` + timespan.Forms,
		Example: `  relayctl events -f --filter event=deferred,bounced --filter domain=gmail.com
  relayctl events --since 10m --filter event=admin
  relayctl events -f -o json >> events.jsonl`,
		RunE: func(c *cobra.Command, _ []string) error {
			filter, err := admin.ParseEventFilter(filters)
			if err != nil {
				return usageError{err}
			}
			if follow {
				if err := exclusive(c, "follow", "since"); err != nil {
					return err
				}
				return a.do(c, func(ctx context.Context, client *admin.Client) error { return a.follow(ctx, client, filter) })
			}
			from, err := a.parseSince(since)
			if err != nil {
				return err
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error { return a.past(ctx, client, filter, from) })
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "show what happens from now on")
	c.Flags().StringArrayVar(&filters, "filter", nil, "`KEY=VALUE[,VALUE]`: only events that fit; repeatable (see above)")
	c.Flags().StringVar(&since, "since", "1h", "without -f: of messages accepted, and changes made, since then")
	return c
}

// follow shows events as they come. When the node that tells them goes away it turns to another
// one, and says that events of the meantime are missing.
func (a *app) follow(ctx context.Context, client *admin.Client, f admin.EventFilter) error {
	said := ""
	for begun := false; ; begun = true {
		events, err := client.Events(ctx, f)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !begun:
			return err
		case err == nil:
			if said = ""; begun {
				a.note("relayctl: connected again; events of the meantime are missing here, 'relayctl events' has them")
			}
			err = a.showEvents(ctx, events)
			events.Close()
		}
		if ctx.Err() != nil {
			return nil
		}
		if out, ok := errors.AsType[*outputError](err); ok {
			return out.error
		}
		if words := oneLine(err.Error()); words != said {
			said = words
			a.note("relayctl: no events come any more (%s); it is tried again", words)
		}
		if a.wait(ctx) != nil {
			return nil
		}
	}
}

// outputError says that events can not be shown, not that there are none.
type outputError struct{ error }

func (a *app) showEvents(ctx context.Context, events admin.EventStream) error {
	for {
		list, err := events.Next(ctx)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("the node has ended its answer")
		}
		if err != nil {
			return err
		}
		for i := range list {
			if err := a.showEvent(&list[i]); err != nil {
				return &outputError{err}
			}
		}
	}
}

// showEvent writes one event: a line for people, or a line of JSON.
func (a *app) showEvent(e *admin.StreamEvent) error {
	switch a.output {
	case "json":
		return writeLine(a.written, e)
	case "yaml":
		return writeYAML(a.written, []any{e})
	}
	if e.What == admin.EventMissed {
		a.note("relayctl: %s", missed(e))
		return nil
	}
	subject := e.Message
	if e.Recipient != "" {
		subject += " " + e.Recipient
	}
	if e.What == admin.EventAdmin {
		what := e.Detail + " by " + orDash(e.Who)
		if e.Why != "" {
			what += ", because: " + e.Why
		}
		_, err := fmt.Fprintf(a.written, "%s %-9s %s\n", clock(e.At), e.What, clean(what))
		return err
	}
	if e.Recipient == "" {
		subject += " from " + path(e.Sender)
	}
	_, err := fmt.Fprintf(a.written, "%s %-9s %s  %s\n", clock(e.At), e.What, clean(subject), clean(details(e.TraceEvent)))
	return err
}

// missed says what is missing.
func missed(e *admin.StreamEvent) string {
	if e.Missed == 0 {
		return "events are missing here: " + e.Detail
	}
	return count(e.Missed, "event") + " missing here: " + e.Detail
}

// past shows what the history has.
func (a *app) past(ctx context.Context, client *admin.Client, f admin.EventFilter, since admin.Time) error {
	var all []admin.StreamEvent
	add := func(e admin.StreamEvent) {
		if f.Matches(&e) {
			all = append(all, e)
		}
	}
	q := admin.TraceQuery{Since: since, Limit: traceMost}
	for more := true; more; {
		found, err := client.Find(ctx, q)
		if errors.Is(err, admin.ErrInvalid) && len(all) > 0 {
			a.note("relayctl: %s", oneLine(err.Error()))
			break
		}
		if err != nil {
			return err
		}
		for i := range found {
			for _, e := range found[i].Events {
				add(admin.StreamEvent{Message: found[i].ID, Sender: found[i].Sender, TraceEvent: e})
			}
		}
		if more = len(found) == q.Limit; more {
			q.Before = found[len(found)-1].ID
		}
	}
	if err := a.pastChanges(ctx, client, since, add); err != nil {
		return err
	}
	slices.SortStableFunc(all, func(x, y admin.StreamEvent) int {
		return cmp.Or(cmp.Compare(x.Index, y.Index), x.At.Compare(y.At.Time))
	})
	for i := range all {
		if err := a.showEvent(&all[i]); err != nil {
			return err
		}
	}
	if len(all) == 0 {
		a.say("No event matches; -f waits for some.")
	}
	return nil
}

// pastChanges adds what the audit log has.
func (a *app) pastChanges(ctx context.Context, client *admin.Client, since admin.Time,
	add func(admin.StreamEvent)) error {
	q := admin.AuditQuery{Since: since, Limit: auditMost}
	for more := true; more; {
		page, err := client.Audit(ctx, q)
		if err != nil {
			return err
		}
		for _, e := range page {
			add(admin.StreamEvent{TraceEvent: admin.TraceEvent{At: e.At, What: admin.EventAdmin, Node: e.Node, Who: e.Who,
				Why: e.Why, Detail: e.What, Index: e.Index}})
		}
		if more = len(page) == q.Limit; more {
			q.Before = page[len(page)-1].Index
		}
	}
	return nil
}
