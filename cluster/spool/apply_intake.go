package spool

import (
	"encoding/binary"

	pb "relay/cluster/spool/spoolpb"
)

// DedupMs is for how long a message sent again is taken for the first one.
const DedupMs = 10 * 60 * 1000

// A dedup key begins with its generation, so that a look-up needs no more than
// two keys and a sweep finds the old ones in one piece.
func keyDedup(generation int64, digest []byte) []byte {
	k := binary.BigEndian.AppendUint64(append(make([]byte, 0, sizeNumber+len(digest)), kDedup), uint64(generation))
	return append(k, digest...)
}

// duplicateOf returns the id of the message that is the same as this one and came
// not long ago; nil for none. A client that never got its answer sends again,
// to whatever node (RFC 1047).
func (t *tx) duplicateOf(digest []byte) []byte {
	if len(digest) == 0 {
		return nil
	}
	t.fillDedupFilter()
	now := t.clock / DedupMs
	for _, generation := range [...]int64{now, now - 1} {
		var one pb.Twin
		if t.dedup.may(generation, digest) && t.read(keyDedup(generation, digest), &one) && t.clock-one.AtMs < DedupMs {
			return one.Id
		}
	}
	return nil
}

// fillDedupFilter makes the filter hold what the store has, where the clock has jumped.
func (t *tx) fillDedupFilter() {
	if t.at(2) && t.timing.GetJumpedIndex() != 0 {
		t.fail(t.dedup.fill(t.b, t.clock/DedupMs))
	}
}

func (t *tx) rememberDedup(digest []byte, id ID) {
	if len(digest) > 0 {
		t.fillDedupFilter()
		t.dedup.add(t.clock/DedupMs, digest)
		t.write(keyDedup(t.clock/DedupMs, digest), &pb.Twin{Id: id[:], AtMs: t.clock})
	}
}

// forgetBodies drops the chunks that went ahead of an Accept that is not needed.
func (t *tx) forgetBodies(h *pb.Accept, id ID) {
	if h.Inline {
		return
	}
	ids := []ID{id}
	for _, c := range h.Copies {
		if one, ok := toID(c.GetMessage().GetId()); ok {
			ids = append(ids, one)
		}
	}
	t.forgetChunks(ids)
}

func (t *tx) forgetChunks(ids []ID) {
	for _, one := range ids {
		var orphan pb.Orphan
		if t.read(keyID(kOrphan, one), &orphan) {
			t.dropOrphan(one, &orphan)
		}
	}
}

// discard makes the history of a message that was taken and thrown away: it is
// finished when it comes to be. Chunks that went ahead of it are dropped.
func (t *tx) discard(h *pb.Discard) *pb.Result {
	m := h.GetMessage()
	id, ok := toID(m.GetId())
	if !ok || len(h.Recipients) == 0 {
		return t.refuse(pb.Code_INVALID, "a Discard needs an id of 16 octets and a recipient")
	}
	var bodies []ID
	for _, b := range h.Bodies {
		if one, ok := toID(b); ok {
			bodies = append(bodies, one)
		}
	}
	if t.get(keyID(kMessage, id)) != nil {
		return &pb.Result{Index: t.index, Code: pb.Code_DUPLICATE, Id: id[:]}
	}
	t.forgetChunks(bodies)
	if first := t.duplicateOf(h.Twin); first != nil {
		return &pb.Result{Index: t.index, Code: pb.Code_DUPLICATE, Id: first}
	}
	t.rememberDedup(h.Twin, id)
	m.Recipients, m.Drops, m.Chunks = uint32(len(h.Recipients)), 0, 0
	if t.at(2) {
		m.Index = t.index
	}
	size := sizeID + uint64(t.write(keyID(kMessage, id), m))
	size += t.event(id, &pb.Event{
		AtMs: m.CreatedMs, What: "accepted", Node: m.Client.GetNode(), Tls: m.Client.GetTls(), Detail: h.Detail,
	})
	for _, to := range h.Recipients {
		size += t.event(id, &pb.Event{What: "discarded", Node: m.Client.GetNode(), Recipient: to, Detail: "by " + h.By})
	}
	t.count(CountAccepted, 1)
	t.finished(id, size)
	return &pb.Result{Index: t.index, Id: id[:]}
}

func (t *tx) sweepDedup(limit int, res *pb.Result) {
	now := t.clock / DedupMs
	var old [][]byte
	collect := func(from, end []byte) {
		if t.err != nil || len(old) >= limit {
			return
		}
		t.fail(t.b.Scan(from, end, func(k, _ []byte) bool {
			old = append(old, append([]byte(nil), k...))
			return len(old) < limit
		}))
	}
	collect([]byte{kDedup}, keyDedup(now-1, nil))
	if t.at(2) { // those of a clock that was set back since
		collect(keyDedup(now+2, nil), after([]byte{kDedup}))
	}
	for _, k := range old {
		t.del(k)
		res.Count++
	}
}

// over refuses a message that mailboxes have no room for, and names the drops.
func (t *tx) over(h *pb.Accept, boxes []*pb.Mailbox, inline uint64) *pb.Result {
	size := h.Message.Size
	if h.Inline {
		size = inline
	}
	size += lastEnd(h.Message)
	var full []uint32
	for i, d := range h.Drops {
		box := boxes[i]
		if d.QuotaMessages > 0 && box.Messages >= d.QuotaMessages ||
			d.QuotaBytes > 0 && box.Bytes+size+uint64(len(d.Header)) > d.QuotaBytes {
			full = append(full, uint32(i))
		}
	}
	if full == nil {
		return nil
	}
	res := t.refuse(pb.Code_OVER_QUOTA, "%d of %d mailboxes have no room for the message", len(full), len(h.Drops))
	res.Drops = full
	return res
}

// mayCopy looks before anything is written whether all copies can be made.
func (t *tx) mayCopy(h *pb.Accept) *pb.Result {
	for _, c := range h.Copies {
		id, ok := toID(c.GetMessage().GetId())
		if !ok || len(c.Recipients) == 0 || len(c.Drops)+len(c.Copies) > 0 || t.get(keyID(kMessage, id)) != nil {
			return t.refuse(pb.Code_INVALID, "a copy needs an id of its own, and recipients")
		}
		if h.Inline {
			continue
		}
		var orphan pb.Orphan
		t.read(keyID(kOrphan, id), &orphan)
		for seq := range c.Message.Chunks {
			if !hasBit(orphan.Have, seq) {
				return t.refuse(pb.Code_INVALID, "chunk %d of a copy is not there", seq)
			}
		}
	}
	return nil
}

// companions makes what exists exactly if the message does: copies of it with
// another reverse-path, and reports.
func (t *tx) companions(h *pb.Accept, id ID, body []byte) {
	for _, c := range h.Copies {
		c.Inline, c.Epoch, c.Twin, c.Spender = h.Inline, h.Epoch, nil, ""
		if res := t.accept(c, body); res.Code != pb.Code_OK {
			t.afterEvent(id, &pb.Event{What: "copy not made", Detail: res.Text})
		}
	}
	for _, n := range h.Notices {
		if n.GetAccept().GetMessage() != nil {
			n.Accept.Epoch = h.Epoch
			t.notice(id, h.Message.Client.GetNode(), n)
		}
	}
}

const dayMs = 24 * 3600 * 1000

// spend counts a message's recipients against what its account may send in a
// day (UTC).
func (t *tx) spend(h *pb.Accept) *pb.Result {
	if h.Spender == "" || h.SpendLimit == 0 {
		return nil
	}
	var s pb.Spent
	k := key(kSpent, h.Spender)
	t.read(k, &s)
	if day := t.clock / dayMs; s.Day != day {
		s.Day, s.Count = day, 0
	}
	if s.Count+uint64(h.Spends) > h.SpendLimit {
		return t.refuse(pb.Code_OVER_LIMIT, "%s has sent to %d of %d recipients today", h.Spender, s.Count, h.SpendLimit)
	}
	s.Count += uint64(h.Spends)
	t.write(k, &s)
	return nil
}

// Spent returns how many recipients an account has sent to on the day that a
// time in Unix milliseconds falls on.
func (v View) Spent(address string, at int64) (uint64, error) {
	s, _, err := load(v.R, key(kSpent, address), new(pb.Spent))
	if err != nil || s.Day != at/dayMs {
		return 0, err
	}
	return s.Count, nil
}
