package spool

import (
	"maps"
	"slices"
	"time"

	pb "relay/cluster/spool/spoolpb"
)

// register gives a node a new session; everything of its former one is void.
func (t *tx) register(h *pb.Register) *pb.Result {
	node := h.GetMember().GetId()
	if node == "" || h.Nonce == "" {
		return t.refuse(pb.Code_INVALID, "a Register needs a node and a nonce")
	}
	if now, max := VersionOf(t.cluster), h.Member.MaxCommand; t.at(2) && max < now { // 0: it does not say
		return t.refuse(pb.Code_INVALID,
			"the cluster version is %d, and this relayd knows only %d: install the newer one", now, max)
	}
	old := t.sessions[node]
	if old != nil && old.Nonce == h.Nonce {
		return &pb.Result{Index: t.index, Code: pb.Code_DUPLICATE, Epoch: old.Epoch}
	}
	if res := t.mistaken(h, old); res != nil {
		return res
	}
	if old != nil {
		t.endSession(old, t.index)
	}
	one := &pb.Session{Node: node, Epoch: t.index, Renewed: t.index, RenewedMs: t.clock, Nonce: h.Nonce}
	if t.at(2) {
		one.LeaseMs = boundLease(h.LeaseMs)
		one.WallMs = h.WallMs
		one.Term, one.Last = h.Term, h.Last
		m := &pb.Member{}
		t.read(key(kMember, node), m)
		one.Draining = m.DrainMs != 0
	}
	t.sessions[node], t.epochs[one.Epoch] = one, one
	t.write(key(kSession, node), one)
	t.enrol(h)
	t.adoptOrphans()
	t.changes.Sessions = true
	return &pb.Result{Index: t.index, Epoch: one.Epoch}
}

// The bounds of a lease that a node may ask for.
const (
	MinLease = time.Second
	MaxLease = 30 * time.Second
)

// boundLease keeps a lease within its bounds; 0 stays: the leader's own.
func boundLease(ms int64) int64 {
	if ms == 0 {
		return 0
	}
	return min(max(ms, MinLease.Milliseconds()), MaxLease.Milliseconds())
}

// renew moves the end of a session. A renewal with a seq travels beside others,
// which it may overtake: only the newest one counts.
func (t *tx) renew(h *pb.Renew) *pb.Result {
	one := t.sessions[h.GetNode()]
	if one == nil || one.Epoch != h.Epoch {
		return t.refuse(pb.Code_STALE, "the session has ended: register again")
	}
	if t.at(2) && h.Seq != 0 {
		if h.Seq <= one.Seq {
			// It was overtaken, or is a copy: no sign that the node lives now.
			return &pb.Result{Index: t.index, Code: pb.Code_DUPLICATE, Epoch: one.Epoch, Renewed: one.Renewed}
		}
		one.Seq = h.Seq
		if h.LeaseMs != 0 {
			one.LeaseMs = boundLease(h.LeaseMs)
		}
	}
	one.Renewed, one.RenewedMs = t.index, t.clock
	if t.at(2) {
		one.WallMs, one.SumIndex, one.Sum = h.WallMs, h.SumIndex, h.Sum
		if len(h.Ca) > 0 {
			one.Ca = h.Ca
		}
	}
	if t.at(2) && h.Term > 0 {
		one.Term, one.Last = h.Term, h.Last
	}
	t.write(key(kSession, one.Node), one)
	return &pb.Result{Index: t.index, Epoch: one.Epoch}
}

// expire ends a session if it has not been renewed since the proposer looked:
// a stale leader's judgement is harmless.
func (t *tx) expire(h *pb.Expire) *pb.Result {
	one := t.sessions[h.GetNode()]
	if one == nil || one.Epoch != h.Epoch {
		return t.refuse(pb.Code_MISSING, "no such session")
	}
	if one.Renewed != h.Renewed {
		res := t.refuse(pb.Code_STALE, "the session was renewed at %d", one.Renewed)
		if t.at(2) {
			res.Epoch, res.Renewed = one.Epoch, one.Renewed
		}
		return res
	}
	t.endSession(one, 0)
	return t.ok()
}

// endSession voids a session's locks and hands its queue to others; successor
// is the epoch of the same node's next session, or 0.
func (t *tx) endSession(one *pb.Session, successor uint64) {
	delete(t.sessions, one.Node)
	delete(t.epochs, one.Epoch)
	t.del(key(kSession, one.Node))
	t.outlive(one)
	t.voidLocks(one.Epoch)
	for _, k := range t.ownedBy(one.Epoch) {
		if successor != 0 {
			t.setShard(k, successor, one.Node)
		} else {
			t.assign(k.home, k.bucket, one.Node)
		}
	}
	t.changes.Sessions = true
}

// ownedBy lists the shards with entries that an epoch owns, in order. The
// session may be gone from the maps already.
func (t *tx) ownedBy(epoch uint64) []shardKey {
	var owned []shardKey
	for k, s := range t.shards {
		if s.Owner == epoch {
			owned = append(owned, k)
		}
	}
	for bucket := range uint32(buckets) {
		k := shardKey{epoch, bucket}
		if t.shards[k] == nil && t.counters[shardCounter(epoch, bucket)] > 0 {
			owned = append(owned, k)
		}
	}
	slices.SortFunc(owned, shardKey.compare)
	return owned
}

func (k shardKey) compare(o shardKey) int {
	switch {
	case k.home != o.home:
		return cmpUint(k.home, o.home)
	default:
		return cmpUint(uint64(k.bucket), uint64(o.bucket))
	}
}

func cmpUint(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// assign gives a shard to a live session, spread by bucket; to nobody (0)
// where none lives. It returns the owner.
func (t *tx) assign(home uint64, bucket uint32, from string) uint64 {
	live := t.live(0)
	var owner uint64
	if len(live) > 0 {
		owner = live[(home+uint64(bucket))%uint64(len(live))]
	}
	t.setShard(shardKey{home, bucket}, owner, from)
	return owner
}

// live lists the epochs that may be given work, by node name; draining ones
// only where there is no other.
func (t *tx) live(but uint64) []uint64 {
	var ready, draining []uint64
	for _, node := range slices.Sorted(maps.Keys(t.sessions)) {
		switch one := t.sessions[node]; {
		case one.Epoch == but:
		case one.Draining:
			draining = append(draining, one.Epoch)
		default:
			ready = append(ready, one.Epoch)
		}
	}
	if len(ready) == 0 {
		return draining
	}
	return ready
}

func (t *tx) setShard(k shardKey, owner uint64, from string) {
	s := t.shards[k]
	if s == nil {
		s = &pb.Shard{Home: k.home, Bucket: k.bucket}
		t.shards[k] = s
	}
	s.Owner, s.AdoptedMs = owner, t.clock
	if t.at(2) {
		s.Adopted = t.index
	}
	if from != "" {
		s.AdoptedFrom = from
	}
	t.write(keyShard(k.home, k.bucket), s)
	t.changes.Sessions = true
}

// tidyShard forgets an empty shard whose home session is over, or has come
// back from a drain and may have it again.
func (t *tx) tidyShard(home uint64, bucket uint32) {
	k := shardKey{home, bucket}
	if t.shards[k] == nil || t.counters[shardCounter(home, bucket)] != 0 {
		return
	}
	if one := t.epochs[home]; one != nil && one.Draining {
		return
	}
	delete(t.shards, k)
	t.del(keyShard(home, bucket))
	// The next entry is the home session's again, which must know before it
	// is asked to deliver it.
	t.changes.Sessions = true
}

// adoptOrphans gives shards without an owner to whoever lives now.
func (t *tx) adoptOrphans() {
	for _, k := range t.ownedBy(0) {
		t.assign(k.home, k.bucket, "")
	}
}

// adopt moves all that one session owns to others. A session that lives must be
// draining: it asks for this itself when its last attempt is settled.
func (t *tx) adopt(h *pb.Adopt) *pb.Result {
	to := h.GetTo()
	for _, epoch := range to {
		if t.epochs[epoch] == nil {
			return t.refuse(pb.Code_STALE, "session %d has ended", epoch)
		}
	}
	from := ""
	if one := t.epochs[h.From]; one != nil {
		if from = one.Node; !one.Draining {
			return t.refuse(pb.Code_STALE, "node %s is not being drained any more", from)
		}
	}
	if len(to) == 0 {
		to = t.live(h.From)
	}
	if len(to) == 0 {
		return t.refuse(pb.Code_INVALID, "there is no other node to take the queue over")
	}
	owned := t.ownedBy(h.From)
	for i, k := range owned {
		t.setShard(k, to[i%len(to)], from)
	}
	res := t.ok()
	res.Count = uint32(len(owned))
	return res
}

// drain marks a node as one that gets no more work, or takes the mark off. The
// node itself hands over what it owns (Adopt) when none of it is under way any
// more: an entry that moved during an attempt would be delivered twice. The mark
// on the member's record is there for the node's next session.
func (t *tx) drain(h *pb.Drain) *pb.Result {
	one := t.sessions[h.GetNode()]
	if one == nil && !(h.Off && t.at(2)) {
		return t.refuse(pb.Code_MISSING, "node %s has no session: it is not running", h.GetNode())
	}
	if t.at(2) {
		if res := t.markDrain(h, one); res != nil {
			return res
		}
	}
	if one != nil {
		one.Draining = !h.Off
		t.write(key(kSession, one.Node), one)
		t.changes.Sessions = true
	}
	return t.ok()
}

// markDrain writes the mark into the member's record, or says why not. Of two
// drains the one that ends the notice earlier counts.
func (t *tx) markDrain(h *pb.Drain, one *pb.Session) *pb.Result {
	m := &pb.Member{}
	if !t.read(key(kMember, h.Node), m) {
		return t.refuse(pb.Code_MISSING, "there is no member %s", h.Node)
	}
	if h.Off {
		m.DrainMs = 0
		t.write(key(kMember, h.Node), m)
		return nil
	}
	if !one.Draining && !t.spared(h.Node) {
		return t.refuse(pb.Code_INVALID,
			"no other node is there to take over what %s does: start or undrain another node first", h.Node)
	}
	at := max(t.clock+h.NoticeMs, 1)
	if m.DrainMs == 0 || at < m.DrainMs {
		m.DrainMs = at
		t.write(key(kMember, h.Node), m)
	}
	return nil
}

// spared reports whether a node other than this one lives and is not drained.
func (t *tx) spared(but string) bool {
	for node, one := range t.sessions {
		if node != but && !one.Draining {
			return true
		}
	}
	return false
}

func (t *tx) dropMember(h *pb.DropMember) *pb.Result {
	m := &pb.Member{}
	if !t.read(key(kMember, h.Id), m) {
		return t.refuse(pb.Code_MISSING, "there is no member %s", h.Id)
	}
	if one := t.sessions[h.Id]; one != nil {
		t.endSession(one, 0)
	}
	t.del(key(kMember, h.Id))
	if t.at(2) {
		t.entomb(m)
	}
	return t.ok()
}

// takeOut removes one entry; box is the caller's to write.
func (t *tx) takeOut(box *pb.Mailbox, uid uint64, e *pb.Event) bool {
	var entry pb.Entry
	if !t.read(keyEntry(box.Box, uid), &entry) {
		return false
	}
	t.dropEntry(box.Box, uid, &entry)
	box.Messages--
	box.Bytes -= entry.Size
	t.unreference(&entry, e)
	return true
}

// unreference takes one mailbox entry's claim off a message.
func (t *tx) unreference(entry *pb.Entry, e *pb.Event) {
	t.count(CountMailboxMessages, -1)
	t.count(CountMailboxBytes, -int64(entry.Size))
	id, _ := toID(entry.Id)
	var refs pb.Refs
	if !t.refs(id, &refs) {
		return
	}
	e.Recipient = entry.Recipient
	refs.History += t.event(id, e)
	refs.Drops--
	t.release(id, &refs)
}
