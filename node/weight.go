package node

import "relay/cluster/spool"

// maxWeight is what the recipients of one message may weigh: most of a frame,
// which has to hold all of them. The client hears of it at RCPT, while it can
// still send to the rest in another transaction; at the end of the data it
// could only try the same again.
const maxWeight = spool.MaxFrame / 8 * 7

// weight estimates, on the high side, what a recipient adds to an Accept. later:
// it is for a mailbox that must not have it yet, so that both records are needed.
func (r *rcpt) weight(sender string, later bool) int {
	w := 0
	for i := range r.targets {
		t := &r.targets[i]
		if t.Mailbox == "" || later {
			w += 48 + len(t.Recipient) + len(r.original)
		}
		if t.Mailbox != "" {
			w += 96 + len(t.Recipient) + 2*len(t.Mailbox) + len(sender)
		}
	}
	return w
}
