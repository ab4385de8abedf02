package spool

import (
	"fmt"
	"slices"

	pb "relay/cluster/spool/spoolpb"
)

func toID(b []byte) (id ID, ok bool) {
	if len(b) != len(id) {
		return id, false
	}
	copy(id[:], b)
	return id, true
}

// accept makes a message exist: its body, its place in mailboxes, its
// recipients in the queue. All of it or nothing.
func (t *tx) accept(h *pb.Accept, body []byte) *pb.Result {
	m := h.GetMessage()
	id, ok := toID(m.GetId())
	if !ok || len(h.Recipients)+len(h.Drops) == 0 {
		return t.refuse(pb.Code_INVALID, "an Accept needs an id of 16 octets and a recipient")
	}
	if t.get(keyID(kMessage, id)) != nil {
		return &pb.Result{Index: t.index, Code: pb.Code_DUPLICATE, Id: id[:]}
	}
	if first := t.duplicateOf(h.Twin); first != nil {
		t.forgetBodies(h, id)
		return &pb.Result{Index: t.index, Code: pb.Code_DUPLICATE, Id: first}
	}
	boxes, missing := t.boxesOf(h.Drops)
	if missing != nil {
		return missing
	}
	if res := t.over(h, boxes, uint64(len(body))); res != nil {
		return res
	}
	if res := t.mayCopy(h); res != nil {
		return res
	}
	if res := t.spend(h); res != nil {
		return res
	}
	if res := t.claim(h, m, id, body); res != nil {
		return res
	}
	t.rememberDedup(h.Twin, id)
	m.Home = h.Epoch
	if t.at(2) {
		m.Index = t.index
	}
	m.Recipients, m.Drops = uint32(len(h.Recipients)), uint32(len(h.Drops))
	refs := &pb.Refs{
		Open: m.Recipients, Drops: m.Drops, Bucket: bucketOf(id), Home: m.Home,
		Bytes: m.Size, Chunks: m.Chunks,
	}
	refs.History = sizeID + uint64(t.write(keyID(kMessage, id), m))
	node := m.Client.GetNode()
	refs.History += t.event(id, &pb.Event{
		AtMs: m.CreatedMs, What: "accepted", Node: node, Tls: m.Client.GetTls(), Detail: h.Detail, Bounce: m.BounceOf,
	})
	for i, d := range h.Drops {
		t.drop(id, m, d, boxes[i])
		t.count(CountDelivered, 1)
		e := &pb.Event{What: "delivered", Node: node, Recipient: d.Recipient, Host: "mailbox " + d.Mailbox}
		refs.History += t.event(id, e)
	}
	t.enqueue(id, m, h.Recipients)
	t.write(keyID(kRefs, id), refs)
	t.count(CountSpoolMessages, 1)
	t.count(CountSpoolBytes, int64(m.Size))
	t.count(CountAccepted, 1)
	t.companions(h, id, body)
	return &pb.Result{Index: t.index, Id: id[:]}
}

// boxesOf reads the mailboxes of drops, each once.
func (t *tx) boxesOf(drops []*pb.Drop) (boxes []*pb.Mailbox, missing *pb.Result) {
	boxes = make([]*pb.Mailbox, len(drops))
	for i, d := range drops {
		if box := sameBox(drops[:i], boxes, d.Mailbox); box != nil {
			boxes[i] = box
			continue
		}
		boxes[i] = &pb.Mailbox{}
		if !t.read(key(kBox, d.Mailbox), boxes[i]) {
			return nil, t.refuse(pb.Code_MISSING, "there is no mailbox %s", d.Mailbox)
		}
	}
	return boxes, nil
}

func sameBox(before []*pb.Drop, boxes []*pb.Mailbox, name string) *pb.Mailbox {
	for i, d := range before {
		if d.Mailbox == name {
			return boxes[i]
		}
	}
	return nil
}

// claim stores an inline body, or takes the chunks that went ahead. A non-nil
// result is a refusal.
func (t *tx) claim(h *pb.Accept, m *pb.Message, id ID, body []byte) *pb.Result {
	if h.Inline {
		m.Chunks = 1
		m.Size = uint64(len(body))
		t.set(keyBody(id, 0), body)
		return nil
	}
	var orphan pb.Orphan
	t.read(keyID(kOrphan, id), &orphan)
	for seq := range m.Chunks {
		if !hasBit(orphan.Have, seq) {
			return t.refuse(pb.Code_INVALID, "chunk %d of %d is not there", seq, m.Chunks)
		}
	}
	t.del(keyID(kOrphan, id))
	return nil
}

// lastEnd is how many octets POP3 adds to a message so that it ends with CRLF.
func lastEnd(m *pb.Message) uint64 {
	if m.Unended {
		return uint64(len("\r\n"))
	}
	return 0
}

// drop puts a message into one mailbox.
func (t *tx) drop(id ID, m *pb.Message, d *pb.Drop, box *pb.Mailbox) {
	if box.NextUid == 0 {
		box.NextUid = 1
	}
	uid := box.NextUid
	size := m.Size + uint64(len(d.Header)) + lastEnd(m)
	box.NextUid++
	box.Messages++
	box.Bytes += size
	entry := &pb.Entry{Id: id[:], Size: size, ReceivedMs: t.clock, Header: d.Header, Recipient: d.Recipient}
	if t.at(2) {
		entry.Index = t.index
	}
	t.nameEntry(box.Box, uid, entry, d.Uidl)
	t.write(keyEntry(box.Box, uid), entry)
	t.write(key(kBox, d.Mailbox), box)
	t.count(CountMailboxMessages, 1)
	t.count(CountMailboxBytes, int64(size))
	t.changes.Boxes = append(t.changes.Boxes, d.Mailbox)
}

// MailboxRoute is the route of a recipient that is a mailbox here, and whose mail
// is not to be in it before it is due.
const MailboxRoute = "mailbox"

// arrive puts a message that has waited in the queue into its mailbox. False: the
// mailbox is not there any more.
func (t *tx) arrive(id ID, r *pb.Recipient) bool {
	var m pb.Message
	var refs pb.Refs
	box := &pb.Mailbox{}
	if r.Drop == nil || !t.read(key(kBox, r.Drop.Mailbox), box) || !t.read(keyID(kMessage, id), &m) ||
		!t.refs(id, &refs) {
		return false
	}
	t.drop(id, &m, r.Drop, box)
	refs.Drops++
	t.write(keyID(kRefs, id), &refs)
	return true
}

// enqueue writes the queue entries of a new message.
func (t *tx) enqueue(id ID, m *pb.Message, rcpts []*pb.Recipient) {
	if len(rcpts) == 0 {
		return
	}
	bucket := bucketOf(id)
	owner := t.owner(m.Home, bucket)
	if owner == 0 {
		// Its node lost its session while the command was on the way: the
		// message is as good as any other, somebody else takes it.
		owner = t.assign(m.Home, bucket, "")
	}
	for n, r := range rcpts {
		r.Home, r.Priority = m.Home, m.Priority
		if m.DeliverByReturn && m.DeliverByMs > 0 {
			r.ExpiresMs = m.DeliverByMs
		}
		if r.NextMs == 0 {
			r.NextMs = t.clock
		}
		if t.at(2) {
			r.Size = m.Size
		}
		t.putRecipient(id, uint32(n), r)
		t.entered(id, uint32(n), r, m.Size, owner)
	}
	t.count(CountQueueMessages, 1)
	t.count(CountQueueBytes, int64(m.Size))
	t.count(shardCounter(m.Home, bucket), int64(len(rcpts)))
}

// entered counts a recipient in and tells the queue manager.
func (t *tx) entered(id ID, n uint32, r *pb.Recipient, size, owner uint64) {
	domain := DomainOf(r.Address)
	t.count(destinationCounter(domain, r.State), 1)
	t.count(CountQueueRecipients, 1)
	t.changed(id, n, r, size, owner)
}

func (t *tx) changed(id ID, n uint32, r *pb.Recipient, size, owner uint64) {
	t.changes.Queued = append(t.changes.Queued, Queued{
		ID: id, Recipient: n, Owner: owner, Domain: DomainOf(r.Address), Route: r.Route, NextMs: r.NextMs,
		Attempts: r.Attempts, State: r.State, Priority: r.Priority, Size: size, ExpiresMs: r.ExpiresMs,
	})
}

// chunk stores a part of a body ahead of its Accept. Applied twice, it changes
// nothing.
func (t *tx) chunk(h *pb.Chunk, body []byte) *pb.Result {
	id, ok := toID(h.GetId())
	if !ok || h.Seq >= 1<<20 {
		return t.refuse(pb.Code_INVALID, "a Chunk needs an id of 16 octets and a number below 1048576")
	}
	if t.get(keyID(kMessage, id)) != nil {
		return t.refuse(pb.Code_DUPLICATE, "the message is complete")
	}
	orphan := pb.Orphan{CreatedMs: t.clock}
	t.read(keyID(kOrphan, id), &orphan)
	if hasBit(orphan.Have, h.Seq) {
		return t.refuse(pb.Code_DUPLICATE, "the chunk is there")
	}
	orphan.Have = setBit(orphan.Have, h.Seq)
	t.write(keyID(kOrphan, id), &orphan)
	t.set(keyBody(id, h.Seq), body)
	return t.ok()
}

func hasBit(bits []byte, n uint32) bool {
	return int(n/8) < len(bits) && bits[n/8]&(1<<(n%8)) != 0
}

func setBit(bits []byte, n uint32) []byte {
	for int(n/8) >= len(bits) {
		bits = append(bits, 0)
	}
	bits[n/8] |= 1 << (n % 8)
	return bits
}

func (t *tx) abort(h *pb.Abort) *pb.Result {
	id, ok := toID(h.GetId())
	if !ok {
		return t.refuse(pb.Code_INVALID, "an Abort needs an id of 16 octets")
	}
	var orphan pb.Orphan
	if t.read(keyID(kOrphan, id), &orphan) {
		t.dropOrphan(id, &orphan)
	}
	return t.ok()
}

// dropOrphan deletes chunks that nothing claims. A message that was accepted
// under the same id with its body inline keeps what is its own.
func (t *tx) dropOrphan(id ID, orphan *pb.Orphan) {
	var refs pb.Refs
	t.refs(id, &refs)
	for seq := range uint32(len(orphan.Have) * 8) {
		if seq >= refs.Chunks && hasBit(orphan.Have, seq) {
			t.dropBody(keyBody(id, seq), MaxInline)
		}
	}
	t.del(keyID(kOrphan, id))
}

func (t *tx) dropBody(k []byte, size int) {
	if t.err == nil {
		t.sums.write('d', k, nil)
		t.fail(t.b.DeleteSized(k, size))
	}
}

// settle takes the verdicts of a node on recipients it owns, and makes the
// notices whose cause was taken.
//
// Possible duplicates. A delivery can have happened without its verdict being committed
// only if its owner died while the entry was due. The shard remembers when it was
// adopted; the first verdict of the new owner on an entry that was due by then is
// marked maybe_duplicate in the history. That is conservative (an entry that was due
// but not yet tried is marked too) and costs no write before each attempt. Rejected: a
// record before each attempt, which is one more commit a message in the normal case.
func (t *tx) settle(h *pb.Settle) *pb.Result {
	res := &pb.Result{Index: t.index, Codes: make([]pb.Code, len(h.Verdicts))}
	taken := map[ID][]uint32{}
	late := lateDeliveries{}
	for i, v := range h.Verdicts {
		id, ok := toID(v.GetId())
		if !ok {
			res.Codes[i] = pb.Code_INVALID
			continue
		}
		res.Codes[i] = t.verdict(h, id, v)
		switch res.Codes[i] {
		case pb.Code_OK:
			if len(h.Notices) > 0 {
				taken[id] = append(taken[id], v.Recipient)
			}
			res.Count++
		case pb.Code_MISSING:
			t.late(late, h, id, v)
		}
	}
	for _, n := range h.Notices {
		about, ok := toID(n.GetAbout())
		if !ok || !t.reportsOn(n, taken[about]) || n.GetAccept().GetMessage() == nil {
			continue
		}
		n.Accept.Epoch = h.Epoch
		t.notice(about, h.Node, n)
	}
	return res
}

// reportsOn reports whether the cause of a notice is among the verdicts that were taken of its message. A recipient
// that an operator has ended meanwhile, and told the sender of, is no cause, though others of the message were.
func (t *tx) reportsOn(n *pb.Notice, taken []uint32) bool {
	if len(n.Recipients) == 0 || !t.at(2) {
		return len(taken) > 0
	}
	return slices.ContainsFunc(n.Recipients, func(r uint32) bool { return slices.Contains(taken, r) })
}

// verdict settles or defers one recipient.
func (t *tx) verdict(h *pb.Settle, id ID, v *pb.Verdict) pb.Code {
	var r pb.Recipient
	if !t.read(keyRecipient(id, v.Recipient), &r) {
		return pb.Code_MISSING
	}
	bucket := bucketOf(id)
	if h.Epoch == 0 || t.owner(r.Home, bucket) != h.Epoch {
		return pb.Code_STALE
	}
	if v.Attempt <= r.Attempts {
		return pb.Code_DUPLICATE
	}
	e := &pb.Event{
		AtMs: v.AtMs, What: eventOf(v.State), Node: h.Node, Recipient: r.Address, Attempt: v.Attempt,
		Host: v.Host, Tls: v.Tls, Reply: v.Reply, NextMs: v.NextMs,
	}
	if s := t.shards[shardKey{r.Home, bucket}]; r.Route != MailboxRoute && t.inDoubt(s, &r) {
		// The former owner died when this entry was due: it may have sent the
		// final dot and not lived to tell (RFC 5321 §6.1).
		e.MaybeDuplicate = true
		e.Detail = "taken over from " + s.AdoptedFrom
	}
	if v.State == pb.State_DELIVERED && r.Route == MailboxRoute && !t.arrive(id, &r) {
		// The mailbox was removed while the verdict was on its way: the node that tries it
		// next finds that out, and tells the sender.
		v = &pb.Verdict{
			Recipient: v.Recipient, Attempt: v.Attempt, AtMs: v.AtMs, NextMs: t.clock,
			Reply: "4.2.1 the mailbox was removed just now",
		}
		e.What, e.Reply, e.Host, e.NextMs = "deferred", v.Reply, "", v.NextMs
		t.deferred(id, &r, v, e)
		return pb.Code_STALE
	}
	if final(v.State) {
		t.settled(id, v.Recipient, &r, v.State, e)
		t.suppressed(id, v)
		return pb.Code_OK
	}
	t.deferred(id, &r, v, e)
	return pb.Code_OK
}

// putRecipient writes a queue entry.
func (t *tx) putRecipient(id ID, n uint32, r *pb.Recipient) {
	if t.at(2) {
		r.Changed = t.index
	}
	t.write(keyRecipient(id, n), r)
}

// inDoubt reports whether an entry was due, and not settled since, when its shard
// was adopted.
func (t *tx) inDoubt(s *pb.Shard, r *pb.Recipient) bool {
	switch {
	case s == nil || s.AdoptedMs < r.NextMs:
		return false
	case s.Adopted == 0: // of version 1
		return r.LastMs < s.AdoptedMs
	}
	return r.Changed < s.Adopted
}

func eventOf(st pb.State) string {
	switch st {
	case pb.State_DELIVERED:
		return "delivered"
	case pb.State_BOUNCED:
		return "bounced"
	case pb.State_EXPIRED:
		return "expired"
	case pb.State_DELETED:
		return "deleted"
	case pb.State_REDIRECTED:
		return "redirected"
	}
	return "deferred"
}

func final(st pb.State) bool { return st >= pb.State_DELIVERED }

// deferred puts a recipient back with a new due time.
func (t *tx) deferred(id ID, r *pb.Recipient, v *pb.Verdict, e *pb.Event) {
	domain := DomainOf(r.Address)
	t.count(destinationCounter(domain, r.State), -1)
	if r.State == pb.State_QUEUED {
		r.State = pb.State_DEFERRED
	}
	r.Attempts, r.NextMs, r.LastMs = v.Attempt, v.NextMs, v.AtMs
	r.LastReply, r.LastHost = v.Reply, v.Host
	r.DelayTold = r.DelayTold || v.DelayTold
	t.count(destinationCounter(domain, r.State), 1)
	t.count(CountDeferred, 1)
	t.putRecipient(id, v.Recipient, r)
	t.history(id, e)
	t.changed(id, v.Recipient, r, 0, t.owner(r.Home, bucketOf(id)))
}

// history adds an event to a message that is still referenced.
func (t *tx) history(id ID, e *pb.Event) {
	var refs pb.Refs
	if !t.refs(id, &refs) {
		return
	}
	refs.History += t.event(id, e)
	t.write(keyID(kRefs, id), &refs)
}

// settled takes a recipient out of the queue for good.
func (t *tx) settled(id ID, n uint32, r *pb.Recipient, st pb.State, e *pb.Event) {
	t.del(keyRecipient(id, n))
	t.count(destinationCounter(DomainOf(r.Address), r.State), -1)
	t.count(CountQueueRecipients, -1)
	switch st {
	case pb.State_DELIVERED:
		t.count(CountDelivered, 1)
	case pb.State_BOUNCED, pb.State_EXPIRED:
		t.count(CountBounced, 1)
	}
	t.changes.Settled = append(t.changes.Settled, Queued{ID: id, Recipient: n, Domain: DomainOf(r.Address), State: st})
	var refs pb.Refs
	if !t.refs(id, &refs) {
		t.fail(fmt.Errorf("message %s has a recipient and no reference record", id))
		return
	}
	refs.History += t.event(id, e)
	refs.Open--
	t.count(shardCounter(refs.Home, refs.Bucket), -1)
	if refs.Open == 0 {
		t.count(CountQueueMessages, -1)
		t.count(CountQueueBytes, -int64(refs.Bytes))
	}
	t.tidyShard(refs.Home, refs.Bucket)
	t.release(id, &refs)
}

// release writes back the references of a message, or ends it where none is
// left: its body goes, its history stays for the configured time.
func (t *tx) release(id ID, refs *pb.Refs) {
	if refs.Open > 0 || refs.Drops > 0 {
		t.write(keyID(kRefs, id), refs)
		return
	}
	last := int(refs.Bytes)
	for seq := range refs.Chunks {
		t.dropBody(keyBody(id, seq), min(last, MaxInline))
		last -= MaxInline
	}
	t.del(keyID(kRefs, id))
	t.count(CountSpoolMessages, -1)
	t.count(CountSpoolBytes, -int64(refs.Bytes))
	t.finished(id, refs.History)
}

// notice makes a report exist in the same step as what it reports on.
func (t *tx) notice(about ID, node string, n *pb.Notice) {
	n.Accept.Inline = true
	n.Accept.Message.BounceOf = about[:]
	res := t.accept(n.Accept, n.Body)
	e := &pb.Event{What: "notified", Node: node, Bounce: n.Accept.Message.Id}
	switch res.Code {
	case pb.Code_OK:
	case pb.Code_DUPLICATE:
		return
	default:
		e.What, e.Detail, e.Bounce = "notice undeliverable", res.Text, nil
	}
	t.afterEvent(about, e)
}

// afterEvent adds an event to a message whether or not it is finished.
func (t *tx) afterEvent(id ID, e *pb.Event) {
	if t.refs(id, new(pb.Refs)) {
		t.history(id, e)
		return
	}
	// A finished message's size in the expiry index is not worth a rewrite
	// for one line more; Sweep deletes the line with the others.
	t.event(id, e)
}
