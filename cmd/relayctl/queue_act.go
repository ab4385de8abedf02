package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"relay/node/admin"
)

// actFlags are the flags of one action on the queue.
type actFlags struct {
	filterFlags
	all, dryRun   bool
	route, reason string
}

func (a *app) queueAct(action, short string) *cobra.Command {
	var f actFlags
	c := &cobra.Command{
		Use:   action + " ID… | --all [filters]",
		Short: short,
		Long: short + ".\n\nGive message ids, or --all with the filters of 'queue ls'; --all alone means the whole " +
			"queue.\nWith --dry-run it only says what it would touch.",
		RunE: func(c *cobra.Command, ids []string) error {
			act, err := f.action(action, ids)
			if err != nil {
				return err
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				r, err := client.Manage(ctx, a.by(), act)
				if err != nil {
					return err
				}
				return a.showActed(r)
			})
		},
	}
	f.flags(c)
	c.Flags().BoolVar(&f.all, "all", false, "act on all that the filters match")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "only say what would be touched")
	switch action {
	case admin.ActionReroute:
		c.Flags().StringVar(&f.route, "to", "", "the `HOP`: mx, smtp:HOST[:PORT], lmtp:HOST:PORT, discard")
		_ = c.MarkFlagRequired("to")
	case admin.ActionBounce:
		c.Flags().StringVar(&f.reason, "reason", "", "text for the sender")
	}
	return c
}

// action checks that it is clear what is meant.
func (f *actFlags) action(action string, ids []string) (admin.QueueAction, error) {
	out := admin.QueueAction{Action: action, IDs: ids, All: f.all, DryRun: f.dryRun, Route: f.route, Reason: f.reason}
	filter, err := f.filter()
	if err != nil {
		return out, err
	}
	for _, id := range ids {
		if err := checkID(id); err != nil {
			return out, err
		}
	}
	switch {
	case f.all && len(ids) > 0:
		return out, usagef("give either ids or --all, not both")
	case f.all:
		out.Filter = filter
		return out, nil
	case len(ids) == 0 && !filter.Empty():
		return out, usagef("add --all to act on everything that the filters match")
	case len(ids) == 0:
		return out, usagef("name messages by id, or give --all with filters")
	}
	out.Recipient, filter.Recipient = filter.Recipient, ""
	if !filter.Empty() {
		return out, usagef("filters other than --recipient go with --all, not with ids")
	}
	return out, nil
}

// checkID refuses what can be no id, nor the end of one.
func checkID(text string) error {
	if _, ending := admin.IDEnding(text); ending {
		return nil
	}
	if _, err := ulid.ParseStrict(strings.ToUpper(strings.TrimSpace(text))); err != nil {
		return usagef("%q is not the id of a message, nor the end of one: 'relayctl queue ls' shows them", text)
	}
	return nil
}

// past names what an action did.
func past(action string) string {
	return map[string]string{
		admin.ActionRetry: "due now", admin.ActionHold: "held", admin.ActionRelease: "released",
		admin.ActionRemove: "removed", admin.ActionBounce: "bounced", admin.ActionReroute: "rerouted",
	}[action]
}

// already says how many messages an action had nothing to change of.
func already(r *admin.QueueActionResult, n string) string {
	were := "were"
	if r.Already == 1 {
		were = "was"
	}
	switch r.Action {
	case admin.ActionRelease:
		return n + " " + were + " not held"
	case admin.ActionRetry:
		return n + " stay held or suspended: release them first"
	}
	return n + " " + were + " " + past(r.Action) + " already"
}

// acted says what an action changed, or would change.
func acted(r *admin.QueueActionResult, were string) string {
	switch {
	case r.Already == 0:
		return count(r.Changed, "message") + were + past(r.Action)
	case r.Changed == 0:
		return already(r, count(r.Already, "message"))
	}
	return count(r.Changed, "message") + were + past(r.Action) + ", " + already(r, fmt.Sprint(r.Already))
}

func (a *app) showActed(r *admin.QueueActionResult) error {
	err := a.emit(r, func() {
		if !r.DryRun {
			if r.Matched > 0 || len(r.Refused) == 0 {
				a.say("%s.", acted(r, " "))
			}
			return
		}
		if r.Changed == 0 && r.Already > 0 {
			a.say("Nothing would be changed: %s.", already(r, count(r.Already, "message")))
			return
		}
		a.say("Nothing was changed. Without --dry-run %s%s", acted(r, " would be "),
			map[bool]string{true: ":", false: "."}[len(r.Messages) > 0])
		if len(r.Messages) == 0 {
			return
		}
		t := a.queueTable()
		for _, m := range r.Messages {
			a.queueRows(t, m)
		}
		t.Flush()
		if more := r.Changed - len(r.Messages); more > 0 {
			a.say("… and %d more.", more)
		}
	})
	if err != nil || len(r.Refused) == 0 {
		return err
	}
	for _, no := range r.Refused[1:] {
		a.note("relayctl: %s stays as it was: %s", clean(no.ID), clean(no.Why))
	}
	return fmt.Errorf("%s stays as it was: %s; 'relayctl trace %s' tells what became of it", r.Refused[0].ID,
		r.Refused[0].Why, r.Refused[0].ID)
}

func isNotFound(err error) bool { return errors.Is(err, admin.ErrNotFound) }
