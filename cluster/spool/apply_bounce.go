package spool

import (
	pb "relay/cluster/spool/spoolpb"
)

// bounceAll gives mail back to its senders by an operator's word. Codes tells,
// for each Bouncing, whether it was done: STALE where a recipient is not as the
// operator's node saw it, so that its report would not be true.
//
// Bounced by hand. Manage BOUNCE carries, for each message, the numbers of the
// recipients, the attempts they had when the report was written, and the report. It is
// done for all of them or, where one is not as it was, for none: a report never names
// what did not happen. It says so in codes, one for each message.
func (t *tx) bounceAll(h *pb.Manage) *pb.Result {
	res := t.ok()
	res.Codes = make([]pb.Code, len(h.Bouncing))
	for i, b := range h.Bouncing {
		n := t.bounceOne(h, b)
		if n == 0 {
			res.Codes[i] = pb.Code_STALE
		}
		res.Count += n
	}
	if res.Count == 0 {
		res.Code, res.Text = pb.Code_MISSING, "no queue entry was changed: 'relayctl queue ls' shows what waits"
	}
	return res
}

// bounceOne ends recipients of one message and makes the report on them: all of
// it or nothing. It returns how many recipients it ended.
func (t *tx) bounceOne(h *pb.Manage, b *pb.Bouncing) uint32 {
	id, ok := toID(b.GetId())
	if !ok || len(b.Recipients) == 0 || len(b.Recipients) != len(b.Attempts) {
		return 0
	}
	open := make([]*pb.Recipient, len(b.Recipients))
	for i, n := range b.Recipients {
		open[i] = &pb.Recipient{}
		// Ascending numbers name each once.
		if i > 0 && n <= b.Recipients[i-1] || !t.read(keyRecipient(id, n), open[i]) || open[i].Attempts != b.Attempts[i] {
			return 0
		}
	}
	for i, n := range b.Recipients {
		t.settled(id, n, open[i], pb.State_BOUNCED, &pb.Event{
			What: "bounced", Recipient: open[i].Address, Node: h.Admin.GetNode(), Who: h.Admin.GetWho(), Why: h.Admin.GetWhy(),
			Reply: h.Reply, Number: n + 1,
		})
	}
	if b.Notice.GetAccept().GetMessage() != nil {
		t.notice(id, h.Admin.GetNode(), b.Notice)
	}
	return uint32(len(b.Recipients))
}
