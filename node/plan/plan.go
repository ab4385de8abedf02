// Package plan computes what becomes of a message's recipients: places in mailboxes,
// entries of the queue, copies for lists, reports, and when the queue gives up. Nothing
// here proposes anything.
package plan

import (
	"slices"
	"strings"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/replica"
	"relay/queue"
)

// Recipient is one recipient as RCPT took it, with where it leads.
type Recipient struct {
	Address  string
	Original string
	Notify   uint32
	Targets  []directory.Target
	Unknown  bool // there is no such user, and the sender is to be told by a report
	kept     bool // address goes into the queue, for reports
}

// WantsFailure reports whether the sender wants to hear of a failure (RFC 3461 §4.1).
func (r *Recipient) WantsFailure() bool {
	return r.Notify&queue.NotifyNever == 0 && (r.Notify == 0 || r.Notify&queue.NotifyFailure != 0)
}

// Transaction is what is planned: a message for recipients.
type Transaction struct {
	ID          spool.ID
	Sender      string
	Recipients  []Recipient
	HoldUntilMs int64 // nothing may arrive anywhere before (RFC 4865); 0: at once
	Now         time.Time
	Skip        func(directory.Target) bool // leaves out a target; nil: none
	Forward     func() string               // the sender of what an alias leads elsewhere, asked once; nil: Sender
	forwarded   string                      // what it said
}

// Accept plans where the message goes: into mailboxes here and into the queue,
// each address once (RFC 5321 §4.5.5 leaves that to us). A message that lists send on
// bears their owner's address, so it travels as a message of its own.
func (p *Transaction) Accept() *pb.Accept {
	plan := &pb.Accept{Message: &pb.Message{Id: p.ID[:], Sender: p.Sender}}
	groups := map[string]*pb.Accept{p.Sender: plan}
	seen := map[string]bool{}
	for i := range p.Recipients {
		r := &p.Recipients[i]
		for _, t := range r.Targets {
			sender := p.senderFor(r, t)
			key := t.Recipient
			if t.Mailbox != "" {
				key = "m" + t.Mailbox
			}
			if seen[key] || p.Skip != nil && p.Skip(t) {
				continue
			}
			seen[key] = true
			switch {
			case t.Mailbox != "" && !p.later():
				plan.Drops = append(plan.Drops, newDrop(sender, t))
			default:
				h := groups[sender]
				if h == nil {
					id := replica.NewID(p.Now)
					h = &pb.Accept{Message: &pb.Message{Id: id[:], Sender: sender}}
					groups[sender] = h
					plan.Copies = append(plan.Copies, h)
				}
				q := p.queued(r, t)
				if t.Mailbox != "" {
					q.Route, q.Drop = spool.MailboxRoute, newDrop(sender, t)
				}
				h.Recipients = append(h.Recipients, q)
			}
		}
	}
	if h := plan; len(h.Recipients)+len(h.Drops) == 0 && len(h.Copies) > 0 {
		first := h.Copies[0]
		h.Message.Sender, h.Recipients, h.Copies = first.Message.Sender, first.Recipients, h.Copies[1:]
	}
	return plan
}

// senderFor is the reverse-path with which a message goes to a target.
func (p *Transaction) senderFor(r *Recipient, t directory.Target) string {
	switch {
	case p.Sender == "":
	case t.Owner != "":
		return t.Owner
	case t.Mailbox == "" && p.Forward != nil && directory.Canonical(t.Recipient) != directory.Canonical(r.Address):
		if p.forwarded == "" {
			p.forwarded = p.Forward()
		}
		return p.forwarded
	}
	return p.Sender
}

// later reports whether nothing of the message may arrive anywhere yet (RFC 4865).
func (p *Transaction) later() bool {
	return p.HoldUntilMs > 0 && p.HoldUntilMs > p.Now.UnixMilli()
}

// queued makes a queue entry. The sender's wishes for reports on it go along with RFC
// 3461 §5.2.7: to the one address behind an alias all of it, to several all but
// success, and to members of a list nothing.
func (p *Transaction) queued(r *Recipient, t directory.Target) *pb.Recipient {
	q := &pb.Recipient{Address: t.Recipient, NextMs: max(p.HoldUntilMs, 0)}
	if t.Owner != "" && p.Sender != "" {
		return q
	}
	q.Original, q.Notify = r.Original, r.Notify
	if r.kept {
		q.Addressed = r.Address
	}
	if q.Original == "" && !strings.EqualFold(t.Recipient, r.Address) {
		q.Original = originalOf(r.Address)
	}
	if len(r.Targets) > 1 {
		q.Notify = WithoutSuccess(q.Notify)
	}
	return q
}

// Keep finds out whether the queue has to know what the client said: an alias
// leads elsewhere, or ORCPT says something of its own. Before cluster version 2
// reports go by ORCPT alone.
func (r *Recipient) Keep(v spool.View) error {
	aliased := func(t directory.Target) bool { return !strings.EqualFold(t.Recipient, r.Address) }
	if r.Original == "" && !slices.ContainsFunc(r.Targets, aliased) {
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

// WithoutSuccess takes the wish for reports of success out of NOTIFY (RFC 3461 §4.1).
func WithoutSuccess(notify uint32) uint32 {
	if notify&queue.NotifySuccess == 0 {
		return notify
	}
	if notify &^= queue.NotifySuccess; notify == 0 {
		return queue.NotifyNever
	}
	return notify
}

// MaxWeight is what the recipients of one message may weigh: most of a frame,
// which has to hold all of them. The client hears of it at RCPT, while it can
// still send to the rest in another transaction; at the end of the data it
// could only try the same again.
const MaxWeight = spool.MaxFrame / 8 * 7

// Weight estimates, on the high side, what a recipient adds to an Accept. later:
// it is for a mailbox that must not have it yet, so that both records are needed.
func (r *Recipient) Weight(sender string, later bool) int {
	w := 0
	for i := range r.Targets {
		t := &r.Targets[i]
		if t.Mailbox == "" || later {
			w += 48 + len(t.Recipient) + len(r.Original)
		}
		if t.Mailbox != "" {
			w += 96 + len(t.Recipient) + 2*len(t.Mailbox) + len(sender)
		}
	}
	return w
}
