package plan

import (
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/queue"
)

// Addresses are those that a planned message goes to, in mailboxes and in the queue.
func Addresses(h *pb.Accept) (all []string) {
	for _, d := range h.Drops {
		all = append(all, d.Recipient)
	}
	for _, r := range h.Recipients {
		all = append(all, r.Address)
	}
	for _, c := range h.Copies {
		all = append(all, Addresses(c)...)
	}
	return all
}

// Copy plans a copy of a message that goes with it in one Accept: with the null path, to where an address leads, and
// not before the message itself may arrive anywhere. A mailbox gets it by way of the queue, as a copy has no places in
// mailboxes of its own.
func Copy(id spool.ID, targets []directory.Target, holdUntilMs int64) *pb.Accept {
	h := &pb.Accept{Message: &pb.Message{Id: id[:]}}
	for _, t := range targets {
		r := &pb.Recipient{Address: t.Recipient, Notify: queue.NotifyNever, NextMs: max(holdUntilMs, 0)}
		if t.Mailbox != "" {
			r.Route, r.Drop = spool.MailboxRoute, newDrop("", t)
		}
		h.Recipients = append(h.Recipients, r)
	}
	return h
}
