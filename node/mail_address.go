package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/replica"
	"relay/node/wording"
	"relay/smtp/printable"
)

// address plans where the message goes: into mailboxes here and into the queue,
// each address once (RFC 5321 §4.5.5 leaves that to us). What lists send on
// bears their owner's address, so it travels as a message of its own.
func (in *intake) address() {
	in.plan = &pb.Accept{Message: &pb.Message{Id: in.id[:], Sender: in.env.sender}}
	groups := map[string]*pb.Accept{in.env.sender: in.plan}
	seen := map[string]bool{}
	for i := range in.env.rcpts {
		r := &in.env.rcpts[i]
		for _, t := range r.targets {
			sender := in.env.sender
			if t.Owner != "" && sender != "" {
				sender = t.Owner
			}
			key := t.Recipient
			if t.Mailbox != "" {
				key = "m" + t.Mailbox
			}
			if seen[key] || in.loops(t) {
				continue
			}
			seen[key] = true
			switch {
			case t.Mailbox != "" && !in.later():
				in.plan.Drops = append(in.plan.Drops, newDrop(sender, t))
			default:
				h := groups[sender]
				if h == nil {
					id := replica.NewID(in.now)
					h = &pb.Accept{Message: &pb.Message{Id: id[:], Sender: sender}}
					groups[sender] = h
					in.plan.Copies = append(in.plan.Copies, h)
				}
				q := in.queued(r, t)
				if t.Mailbox != "" {
					q.Route, q.Drop = spool.MailboxRoute, newDrop(sender, t)
				}
				h.Recipients = append(h.Recipients, q)
			}
		}
	}
	if h := in.plan; len(h.Recipients)+len(h.Drops) == 0 && len(h.Copies) > 0 {
		first := h.Copies[0]
		h.Message.Sender, h.Recipients, h.Copies = first.Message.Sender, first.Recipients, h.Copies[1:]
	}
}

// later reports whether nothing of the message may arrive anywhere yet (RFC 4865).
func (in *intake) later() bool {
	until := in.env.options.HoldUntilMs
	return until > 0 && until > in.now.UnixMilli()
}

// queued makes a queue entry. What the sender wants to hear of it goes along
// with RFC 3461 §5.2.7: to the one address behind an alias all of it, to several
// all but success, and to members of a list nothing.
func (in *intake) queued(r *rcpt, t directory.Target) *pb.Recipient {
	q := &pb.Recipient{Address: t.Recipient, NextMs: max(in.env.options.HoldUntilMs, 0)}
	if t.Owner != "" && in.env.sender != "" {
		return q
	}
	q.Original, q.Notify = r.original, r.notify
	if r.kept {
		q.Addressed = r.address
	}
	if q.Original == "" && !strings.EqualFold(t.Recipient, r.address) {
		q.Original = originalOf(r.address)
	}
	if len(r.targets) > 1 {
		q.Notify = withoutSuccess(q.Notify)
	}
	return q
}

// keep finds out whether the queue has to know what the client said: an alias
// leads elsewhere, or ORCPT says something of its own. Before cluster version 2
// reports go by ORCPT alone.
func (r *rcpt) keep(v spool.View) error {
	aliased := func(t directory.Target) bool { return !strings.EqualFold(t.Recipient, r.address) }
	if r.original == "" && !slices.ContainsFunc(r.targets, aliased) {
		return nil
	}
	c, _, err := v.Cluster()
	r.kept = err == nil && spool.VersionOf(c) >= 2
	return err
}

// originalOf makes an ORCPT of an address (RFC 3461 §4.2, RFC 6533 §3).
func originalOf(address string) string {
	for i := range len(address) {
		if address[i] >= 0x80 {
			return "utf-8;" + address
		}
	}
	return "rfc822;" + address
}

// newDrop makes a mailbox place with the fields final delivery adds
// (RFC 5321 §4.4).
func newDrop(sender string, t directory.Target) *pb.Drop {
	d := &pb.Drop{
		Mailbox: t.Mailbox, Recipient: t.Recipient,
		Header: []byte("Return-Path: <" + sender + ">\r\nDelivered-To: " + t.Mailbox + "\r\n"),
	}
	if t.Account != nil {
		d.QuotaBytes, d.QuotaMessages = t.Account.QuotaBytes, t.Account.QuotaMessages
	}
	return d
}

// ids are those of the message and of its copies.
func (in *intake) ids() [][]byte {
	ids := [][]byte{in.id[:]}
	if in.plan != nil {
		for _, c := range in.plan.Copies {
			ids = append(ids, c.Message.Id)
		}
	}
	return ids
}

// detail says in the history what was asked for besides delivery.
func (in *intake) detail() string {
	o := &in.env.options
	var words []string
	add := func(on bool, format string, args ...any) {
		if on {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	at := func(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }
	add(in.env.detail != "", "%s", in.env.detail)
	add(in.env.waited > 0, "greylisted for %s", wording.Span(in.env.waited))
	add(o.HoldUntilMs > 0, "held until %s as its sender wished", at(o.HoldUntilMs))
	add(o.Priority != 0, "priority %d", o.Priority)
	add(o.DeliverByMs != 0 && o.DeliverByReturn, "to be delivered by %s or returned", at(o.DeliverByMs))
	add(o.DeliverByMs != 0 && !o.DeliverByReturn, "to be delivered by %s", at(o.DeliverByMs))
	add(o.Requiretls, "TLS required")
	add(in.found != "", "%s", in.found)
	add(len(in.looped) > 0, "not again into %s", wording.Some(in.looped, 5))
	add(len(in.dropped) > 0, "without %s, as %s wished", wording.Some(in.dropped, 5), in.discarder)
	unasked := in.env.filter.Unasked()
	add(len(unasked) > 0, "not seen by the content filter %s, which did not answer", strings.Join(unasked, ", "))
	return printable.Text(strings.Join(words, ", "), 4096) // filters, signatures and lists have their words in it
}
