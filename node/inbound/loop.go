package inbound

import (
	"context"
	"slices"

	"relay/node/directory"
	"relay/node/plan"
	"relay/queue/bounce"
)

// checkLoops is the stage that finds loops: too many Received fields (RFC 5321 §6.3), or a Delivered-To
// that names a mailbox the message is about to enter. Such a mailbox is left out,
// and the message refused only where nobody else is to get it.
func (in *intake) checkLoops(context.Context) error {
	if in.head.Hops > in.maxHops {
		return errHops
	}
	left := 0
	for i := range in.env.rcpts {
		r := &in.env.rcpts[i]
		if r.Unknown {
			left++
		}
		for _, t := range r.Targets {
			if t.Mailbox == "" || !slices.Contains(in.head.Delivered, t.Mailbox) {
				left++
			} else if !slices.Contains(in.looped, t.Mailbox) {
				in.looped = append(in.looped, t.Mailbox)
			}
		}
	}
	if left == 0 && len(in.looped) > 0 {
		return errLooping
	}
	return nil
}

// loops reports whether a target is a mailbox that the message has been in.
func (in *intake) loops(t directory.Target) bool {
	return t.Mailbox != "" && slices.Contains(in.looped, t.Mailbox)
}

// looping reports whether a recipient leads nowhere but to such mailboxes.
func (in *intake) looping(r *plan.Recipient) bool {
	return len(r.Targets) > 0 && !slices.ContainsFunc(r.Targets, func(t directory.Target) bool { return !in.loops(t) })
}

// refused says of a recipient that fails at once what its sender is told.
func (in *intake) refused(r *plan.Recipient, one bounce.Recipient) (bounce.Recipient, bool) {
	switch {
	case r.Unknown:
		one.Status, one.Reply = "5.1.1", "there is no such user here"
	case in.looping(r):
		one.Status, one.Reply = "5.4.6", "mail loop detected: the message has been in this mailbox"
	default:
		return one, false
	}
	one.Action = bounce.Failed
	return one, true
}
