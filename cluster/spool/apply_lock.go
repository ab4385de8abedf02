package spool

import (
	"bytes"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// Bounds of shared locks.
const (
	maxHolders = 1000
	// So many sessions that left can still ask whether their Remove was done:
	// while the first answer got lost others may have come and gone.
	maxLeft       = 8
	maxLeftShared = 64
)

// Holders lists who holds a lock: one session, or several where it is shared.
func Holders(l *pb.Lock) []*pb.Lock {
	if l == nil {
		return nil
	}
	return append([]*pb.Lock{l}, l.Others...)
}

// holder is one session's place in a lock.
type holder struct {
	mailbox string
	lock    *pb.Lock
	at      int // 0: the record itself, else an index in Others, plus one
}

func (g holder) row() *pb.Lock {
	if g.at == 0 {
		return g.lock
	}
	return g.lock.Others[g.at-1]
}

// holderOf finds the place of (epoch, token) in a mailbox's lock.
func (t *tx) holderOf(mailbox string, epoch, token uint64) (holder, bool) {
	g := holder{mailbox: mailbox, lock: &pb.Lock{}}
	if !t.locked(mailbox, g.lock) {
		return g, false
	}
	for i, h := range Holders(g.lock) {
		if h.Token == token && h.Epoch == epoch {
			g.at = i
			return g, true
		}
	}
	return g, false
}

// without returns a lock without the holders that go is true of; nil where
// none stays.
func without(l *pb.Lock, gone func(*pb.Lock) bool) *pb.Lock {
	stay := slices.DeleteFunc(Holders(l), gone)
	if len(stay) == 0 {
		return nil
	}
	first, shared := stay[0], l.Shared
	first.Shared, first.Others = shared, stay[1:]
	return first
}

// loadLocks reads the locks that are held.
func (s *state) loadLocks(r Reader) error {
	return r.Scan([]byte{kLock}, after([]byte{kLock}), func(k, v []byte) bool {
		s.locks[string(k[1:])] = bytes.Clone(v)
		return true
	})
}

// locked reads a mailbox's lock; false where nobody holds it. It asks the
// memory: every session writes and deletes that key, and a store that is asked
// for a key which was deleted looks at all its traces since the last flush.
func (t *tx) locked(mailbox string, into *pb.Lock) bool {
	v, ok := t.locks[mailbox]
	return ok && t.unmarshal(key(kLock, mailbox), v, into) && t.err == nil
}

// putLock writes what is left of a lock.
func (t *tx) putLock(mailbox string, l *pb.Lock) {
	if l == nil {
		delete(t.locks, mailbox)
		t.del(key(kLock, mailbox))
		return
	}
	v, err := marshal.Marshal(l)
	t.fail(err)
	t.locks[mailbox] = v
	t.set(key(kLock, mailbox), v)
}

func (t *tx) dropHolder(g holder) {
	me := g.row()
	t.putLock(g.mailbox, without(g.lock, func(h *pb.Lock) bool { return h == me }))
}

// takeLock gives a mailbox to one POP3 session; where the account is shared,
// beside others.
//
// Shared locks. If an account is shared, its one lock record lists several holders,
// each with a token of its own, and each Remove is fenced by its holder's token alone.
// A uid is taken out once; the answer of a Remove names the uids that were gone already
// (missing), so that of all sessions that delete a message one is told that it did. A
// holder's last answer is kept under its seq, and the tokens that left last are kept
// with the mailbox: a command that is proposed again answers as the first time.
// Rejected: a record for each holder, which makes every exclusive login a scan.
//
// The contents: TakeLock answers with the mailbox's box, next uid and number of
// messages under the lock. A replica that shows the same three has the same messages,
// however far it is behind otherwise (SameContents), and whoever reads there need not
// wait for the lock to be applied.
func (t *tx) takeLock(h *pb.TakeLock) *pb.Result {
	one := t.sessions[h.GetNode()]
	if one == nil || one.Epoch != h.Epoch {
		return t.refuse(pb.Code_STALE, "the node's session has ended")
	}
	var account pb.Account
	if !t.read(key(kAccount, h.Mailbox), &account) {
		return t.refuse(pb.Code_MISSING, "there is no mailbox %s", h.Mailbox)
	}
	var box pb.Mailbox
	t.read(key(kBox, h.Mailbox), &box)
	var held pb.Lock
	locked := t.locked(h.Mailbox, &held)
	if locked {
		for _, o := range Holders(&held) {
			if o.Epoch == h.Epoch && o.Session == h.Session {
				return &pb.Result{Index: t.index, Code: pb.Code_DUPLICATE, Token: o.Token, Epoch: o.Epoch, Mailbox: Contents(&box)}
			}
		}
		if !account.Shared || !held.Shared || len(held.Others)+1 >= maxHolders {
			held.Others = nil
			return &pb.Result{Index: t.index, Code: pb.Code_BUSY, Lock: &held, Node: held.Node}
		}
	}
	if res := t.tooSoon(h, &box, account.LoginDelayMs); res != nil {
		return res
	}
	mine := &pb.Lock{
		Token: t.index, Node: h.Node, Epoch: h.Epoch, Session: h.Session, Remote: h.Remote, SinceMs: t.clock,
		Shared: account.Shared,
	}
	if locked {
		held.Others = append(held.Others, mine)
		mine = &held
	}
	t.putLock(h.Mailbox, mine)
	t.changes.Taken = append(t.changes.Taken, Taken{h.Mailbox, h.Node, h.Epoch, t.index, h.Session})
	return &pb.Result{Index: t.index, Token: t.index, Epoch: h.Epoch, Mailbox: Contents(&box)}
}

// Contents is what tells the contents of a mailbox at one time from those at any
// other: a record with box, next_uid and messages.
func Contents(box *pb.Mailbox) *pb.Mailbox {
	return &pb.Mailbox{Box: box.GetBox(), NextUid: box.GetNextUid(), Messages: box.GetMessages()}
}

// SameContents reports whether a mailbox held the same messages at two points of
// one log. A message comes with a new uid, so as long as next_uid is the same
// none has come, and their number can only have fallen.
func SameContents(a, b *pb.Mailbox) bool {
	return a.GetBox() != 0 && a.GetBox() == b.GetBox() && a.GetNextUid() == b.GetNextUid() &&
		a.GetMessages() == b.GetMessages()
}

// tooSoon enforces an account's login delay (RFC 2449 §6.5) for logins at any
// node, and notes this one.
func (t *tx) tooSoon(h *pb.TakeLock, box *pb.Mailbox, delay int64) *pb.Result {
	if delay <= 0 || h.Wake || box.Box == 0 {
		return nil
	}
	if left := delay - t.since(box.LastLoginMs); box.LastLoginMs != 0 && left > 0 {
		res := t.refuse(pb.Code_TOO_SOON, "the account's login delay is not over")
		res.UntilMs = t.clock + left
		return res
	}
	box.LastLoginMs = t.clock
	t.write(key(kBox, h.Mailbox), box)
	return nil
}

func (t *tx) unlock(h *pb.Unlock) *pb.Result {
	g, ok := t.holderOf(h.GetMailbox(), h.Epoch, h.Token)
	if !ok {
		return t.refuse(pb.Code_STALE, "the lock is not held any more")
	}
	t.dropHolder(g)
	return t.ok()
}

// breakLock takes a mailbox from all who hold it, or from those alone whom the operator saw: a token is the index
// of its TakeLock, so theirs are not above the newest of them.
func (t *tx) breakLock(h *pb.BreakLock) *pb.Result {
	var held pb.Lock
	if !t.locked(h.Mailbox, &held) {
		return t.refuse(pb.Code_MISSING, "mailbox %s is not locked", h.Mailbox)
	}
	var stays *pb.Lock
	if h.Token != 0 {
		since := func(one *pb.Lock) bool { return one.Token > h.Token }
		stays = without(proto.CloneOf(&held), func(one *pb.Lock) bool { return !since(one) })
		broken := without(&held, since)
		if broken == nil {
			return t.refuse(pb.Code_STALE, "mailbox %s is held by another session by now: look who has it with "+
				"'relayctl mailbox show %s'", h.Mailbox, h.Mailbox)
		}
		t.dropLock(h.Mailbox, broken, stays)
		return &pb.Result{Index: t.index, Lock: broken}
	}
	t.dropLock(h.Mailbox, &held, nil)
	return &pb.Result{Index: t.index, Lock: &held}
}

// dropLock ends a lock by an operator's word; of a shared one others may stay.
func (t *tx) dropLock(mailbox string, held, stays *pb.Lock) {
	t.putLock(mailbox, stays)
	t.changes.Locks = append(t.changes.Locks, mailbox)
	for _, o := range Holders(held) {
		t.changes.Broken = append(t.changes.Broken, o.Token)
	}
}

// voidLocks ends the locks of a session.
func (t *tx) voidLocks(epoch uint64) {
	for _, mailbox := range slices.Sorted(maps.Keys(t.locks)) {
		var l pb.Lock
		if !t.locked(mailbox, &l) {
			return
		}
		gone := 0
		rest := without(&l, func(h *pb.Lock) bool {
			if h.Epoch != epoch {
				return false
			}
			t.changes.Voided = append(t.changes.Voided, h.Token)
			gone++
			return true
		})
		if gone > 0 {
			t.putLock(mailbox, rest)
		}
	}
}

// remove takes messages out of a mailbox under its lock, all or none. Of a
// shared mailbox some may be gone already: the answer names them.
func (t *tx) remove(h *pb.Remove) *pb.Result {
	var box pb.Mailbox
	if !t.read(key(kBox, h.GetMailbox()), &box) {
		return t.refuse(pb.Code_STALE, "there is no mailbox %s any more", h.GetMailbox())
	}
	g, ok := t.holderOf(h.Mailbox, h.Epoch, h.Token)
	if !ok {
		if h.Unlock && (box.LastRemoved == h.Token || slices.Contains(box.Left, h.Token)) {
			return t.refuse(pb.Code_DUPLICATE, "done before")
		}
		return t.refuse(pb.Code_STALE, "the lock is not held any more; nothing was deleted")
	}
	me := g.row()
	if h.Seq != 0 && h.Seq == me.LastSeq {
		res := t.refuse(pb.Code_DUPLICATE, "done before")
		res.Missing = me.LastMissing
		return res
	}
	if err := Ranges(h.Ranges, box.NextUid, func(_, _ uint64) {}); err != nil {
		return t.refuse(pb.Code_INVALID, "the uids can not be read; nothing was deleted")
	}
	res := t.takeOutAll(h, &box)
	switch {
	case h.Unlock:
		t.dropHolder(g)
		most := maxLeft
		if g.lock.Shared || me.Shared {
			most = maxLeftShared
		}
		box.LastRemoved = h.Token
		box.Left = append(box.Left, h.Token)
		box.Left = box.Left[max(0, len(box.Left)-most):]
	case h.Seq != 0:
		me.LastSeq, me.LastMissing = h.Seq, res.Missing
		t.putLock(h.Mailbox, g.lock)
	}
	t.write(key(kBox, h.Mailbox), &box)
	return res
}

// takeOutAll removes the named entries; box is the caller's to write.
func (t *tx) takeOutAll(h *pb.Remove, box *pb.Mailbox) *pb.Result {
	res := t.ok()
	detail := "mailbox " + h.Mailbox
	runs, err := parseRuns(h.Ranges, box.NextUid)
	t.fail(err)
	if t.err != nil || len(runs)+len(h.Uids) == 0 {
		return res
	}
	_, before, err := readTombstone(t.b, box.Box)
	t.fail(err)
	var missing []uint64
	one := func(uid uint64) {
		if uid == 0 {
			return // never given out
		}
		if !before.has(uid) && t.takeOut(box, uid, &pb.Event{What: "removed", Node: h.Node, Detail: detail}) {
			res.Count++
		} else {
			missing = append(missing, uid)
		}
	}
	for _, uid := range h.Uids {
		one(uid)
	}
	var gone []run
	if sizeOf(runs) > MaxTakeOut {
		var n uint32
		n, gone = t.writeTombstone(h, detail, box, runs)
		res.Count += n
	} else {
		for _, r := range runs {
			for uid := r.first; uid <= r.last; uid++ {
				one(uid)
			}
		}
	}
	if len(missing) == 0 {
		res.Missing = encodeRuns(gone)
		return res
	}
	for _, r := range gone {
		for uid := r.first; uid <= r.last; uid++ {
			missing = append(missing, uid)
		}
	}
	slices.Sort(missing)
	res.Missing = AppendRanges(nil, slices.Compact(missing))
	return res
}
