package spool

import (
	pb "relay/cluster/spool/spoolpb"
)

// lateDeliveries holds, for each message that a Settle comes too late for, how
// an operator ended its recipients, by number. Each history is read once a
// Settle.
type lateDeliveries map[ID]map[uint32]*pb.Event

// late notes that a message reached a recipient although an operator had ended
// it: the attempt was under way, and the history must not say otherwise. It is
// noted once, whoever brings the verdict and however often.
//
// Delivered although deleted. An operator's word ends an entry at once, also one whose
// attempt is under way. If that attempt succeeds, its verdict finds no entry; Settle
// then looks in the message's history for a line that an operator ended this recipient
// by (Event.number) and adds what happened, once, whoever brings the verdict. Rejected:
// refusing to delete what is active (the state machine does not know what is active,
// and a host may think for ten minutes).
func (t *tx) late(seen lateDeliveries, h *pb.Settle, id ID, v *pb.Verdict) {
	if v.State != pb.State_DELIVERED {
		return
	}
	ended, ok := seen[id]
	if !ok {
		ended = t.endings(id)
		seen[id] = ended
	}
	was := ended[v.Recipient]
	if was == nil || was.What == delivered {
		return
	}
	e := &pb.Event{
		AtMs: v.AtMs, What: delivered, Node: h.Node, Recipient: was.Recipient, Attempt: v.Attempt, Host: v.Host, Tls: v.Tls,
		Reply: v.Reply, Detail: "although " + was.What + " by " + was.Who + " meanwhile", Number: v.Recipient + 1,
	}
	ended[v.Recipient] = e
	t.afterEvent(id, e)
	t.count(CountDelivered, 1)
}

const delivered = "delivered"

// endings reads from a message's history the last word on each recipient that
// an operator ended.
func (t *tx) endings(id ID) map[uint32]*pb.Event {
	ended := map[uint32]*pb.Event{}
	t.scan(keyID(kHistory, id), 0, func(k, raw []byte) {
		e := &pb.Event{}
		if t.unmarshal(k, raw, e) && e.Number > 0 {
			ended[e.Number-1] = e
		}
	})
	return ended
}
