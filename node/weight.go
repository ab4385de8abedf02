package node

import "relay/cluster/spool"

// maxWeight is what the recipients of one message may weigh: most of a frame,
// which has to hold all of them. The client hears of it at RCPT, while it can
// still send to the rest in another transaction; at the end of the data it
// could only try the same again.
const maxWeight = spool.MaxFrame / 8 * 7

// weight estimates, on the high side, what a recipient adds to an Accept.
func (r *rcpt) weight(sender string) int {
	w := 0
	for i := range r.targets {
		t := &r.targets[i]
		if w += 32 + len(t.recipient); t.mailbox == "" {
			w += len(r.original)
		} else {
			w += 64 + 2*len(t.mailbox) + len(sender)
		}
	}
	return w
}
