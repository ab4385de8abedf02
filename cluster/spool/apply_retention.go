package spool

import (
	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// keepPerSweep is how many accounts with a retention one Sweep looks at.
const keepPerSweep = 200

// keeps notes whether an account has a retention.
func (t *tx) keeps(address string, before, now int64) {
	switch {
	case before <= 0 && now > 0:
		t.set(key(kKeep, address), []byte{1})
	case before > 0 && now <= 0:
		t.del(key(kKeep, address))
	}
}

// sweepRetention deletes mail that has lain in its mailbox for longer than its
// account keeps it, at most limit messages. It looks at a bounded number of
// accounts and goes on behind them the next time.
func (t *tx) sweepRetention(limit int, res *pb.Result) {
	cursor := key(kMeta, "keep")
	from := append([]byte{kKeep}, t.get(cursor)...)
	had := len(from) > 1
	var names []string
	t.fail(t.b.Scan(from, after([]byte{kKeep}), func(k, _ []byte) bool {
		names = append(names, string(k[1:]))
		return len(names) <= keepPerSweep
	}))
	for i, name := range names {
		if i == keepPerSweep || limit <= 0 {
			t.set(cursor, []byte(name)) // the first to look at next time
			return
		}
		gone := t.sweepMailbox(name, limit)
		t.reportRemoved(res, gone)
		limit -= len(gone.GetIds()) / idOctets
	}
	if had {
		t.del(cursor)
	}
}

// sweepMailbox deletes what is too old in one mailbox, oldest first. A session
// that has the mailbox for itself finds all of what it listed.
func (t *tx) sweepMailbox(address string, limit int) *pb.Removed {
	var account pb.Account
	var box pb.Mailbox
	var held pb.Lock
	if !t.read(key(kAccount, address), &account) || !t.read(key(kBox, address), &box) ||
		t.locked(address, &held) && !held.Shared {
		return nil
	}
	// The records that the tombstone lists go first; they would stand in the way of every
	// look.
	if t.get(keyBox(kTombstone, box.Box)) != nil {
		return nil
	}
	old, ids := t.older(box.Box, account.RetentionMs, limit)
	for _, uid := range old {
		t.takeOut(&box, uid, &pb.Event{What: "removed", Detail: "mailbox " + address + ", past its retention"})
	}
	if len(old) > 0 {
		t.write(key(kBox, address), &box)
	}
	return &pb.Removed{Mailbox: address, Why: "past its retention", Ids: ids}
}

// older lists entries that are older than so much, and the ids of their messages.
// Uids ascend with the time.
func (t *tx) older(box uint64, keep int64, limit int) (uids []uint64, ids []byte) {
	prefix := keyBox(kEntry, box)
	t.fail(t.b.Scan(prefix, after(prefix), func(k, v []byte) bool {
		var e pb.Entry
		if err := proto.Unmarshal(v, &e); err != nil {
			t.fail(err)
			return false
		}
		if t.age(e.ReceivedMs, e.Index) <= keep || len(uids) == limit {
			return false
		}
		uids, ids = append(uids, uidOf(k)), append(ids, e.Id...)
		return true
	}))
	return uids, ids
}
