package spool

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	pb "relay/cluster/spool/spoolpb"
)

// OldMs is for how long a message that is imported again is taken for the first one.
const OldMs = 30 * dayMs

// A key of an import begins with its generation, as a dedup key's does.
func keyOld(generation int64, k []byte) []byte {
	b := binary.BigEndian.AppendUint64(append(make([]byte, 0, sizeNumber+len(k)), kOld), uint64(generation))
	return append(b, k...)
}

func keyUidl(box uint64, text string) []byte { return append(keyBox(kUidl, box), text...) }

// importOld puts messages into mailboxes in their order. Those that were imported
// before are DUPLICATE and those whose unique id is taken EXISTS; at any other
// refusal it ends, and what stands behind is as if it had not been in the command.
// Applied twice, it answers the same.
//
// Imports (2026-11-29). An Import holds as many old messages as fit a frame, so that a
// mailbox keeps the order of its source and an fsync serves a hundred. It ends at the
// first message that does not fit; one that was imported before is passed by. That is
// known for 30 days by a key (I, by generation as dedup keys are, so that old ones go in one
// piece), which its proposer makes of box, digest and number; the record names the
// message, so the same frame again is told that it was the one. The import's line in
// the audit log is found by its index and counts on. An entry's own unique id (U) is
// free again with the entry. Rejected: Accepts side by side (no order), the id as the
// key (it goes with the history after 3 days), dedup keys (10 minutes, and a filter sized
// for that).
func (t *tx) importOld(h *pb.Import, body []byte) *pb.Result {
	res, all := t.ok(), uint64(0)
	for _, one := range h.Messages {
		if all += inlineSize(one); all > uint64(len(body)) {
			return t.refuse(pb.Code_INVALID, "an Import is shorter than its messages")
		}
	}
	generations, err := oldGenerations(t.b, t.clock)
	t.fail(err)
	for _, one := range h.Messages {
		size := inlineSize(one)
		part := body[:size]
		body = body[size:]
		said, fresh := t.importOne(one, part, generations)
		res.Codes = append(res.Codes, said.Code)
		if fresh {
			res.Count++
		}
		if said.Code != pb.Code_OK && said.Code != pb.Code_DUPLICATE && said.Code != pb.Code_EXISTS {
			res.Text = said.Text
			break
		}
	}
	res.Token = t.importLine(h, res.Count)
	return res
}

// inlineSize is a message's share of the frame's body.
func inlineSize(one *pb.Old) uint64 {
	if !one.GetAccept().GetInline() {
		return 0
	}
	return min(one.Accept.GetMessage().GetSize(), MaxFrame)
}

// importOne puts one message into its mailbox; fresh: this command did it.
func (t *tx) importOne(one *pb.Old, body []byte, generations []int64) (said *pb.Result, fresh bool) {
	a := one.GetAccept()
	id, ok := toID(a.GetMessage().GetId())
	if !ok || len(one.Key) == 0 || len(a.Drops) != 1 || len(a.Recipients) > 0 {
		return t.refuse(pb.Code_INVALID, "an imported message needs an id of 16 octets, a key and one mailbox"), false
	}
	if first := t.oldOf(one.Key, generations); first != nil {
		if string(first) == string(id[:]) {
			return t.ok(), false // of this very command, applied before
		}
		t.forgetBodies(a, id)
		return &pb.Result{Code: pb.Code_DUPLICATE, Id: first}, false
	}
	var box pb.Mailbox
	if d := a.Drops[0]; d.Uidl != "" && t.read(key(kBox, d.Mailbox), &box) {
		if !MayUidl(box.Box, d.Uidl) || t.get(keyUidl(box.Box, d.Uidl)) != nil {
			t.forgetBodies(a, id)
			return t.refuse(pb.Code_EXISTS, "the unique id is taken"), false
		}
	}
	said = t.accept(a, body)
	if said.Code == pb.Code_OK {
		t.write(keyOld(t.clock/OldMs, one.Key), &pb.Twin{Id: id[:], AtMs: t.clock})
	}
	return said, said.Code == pb.Code_OK
}

// oldGenerations are those in which a key may be found at a time: this one, and of
// its neighbours those that hold any. To ask that once a command saves two looks a
// message. A date in the future was written before the clock was set back.
func oldGenerations(r Reader, at int64) ([]int64, error) {
	now := at / OldMs
	all := []int64{now}
	for _, g := range [...]int64{now - 1, now + 1} {
		there := false
		err := r.Scan(keyOld(g, nil), keyOld(g+1, nil), func(_, _ []byte) bool { there = true; return false })
		if err != nil {
			return nil, err
		}
		if there {
			all = append(all, g)
		}
	}
	return all, nil
}

// oldOf returns the id of the message that was imported under a key; nil for none.
func (t *tx) oldOf(k []byte, generations []int64) []byte {
	for _, g := range generations {
		var one pb.Twin
		if t.read(keyOld(g, k), &one) && t.clock-one.AtMs < OldMs {
			return one.Id
		}
	}
	return nil
}

// Olds tells what was imported lately, as of one time of the state.
type Olds struct {
	at          int64
	generations []int64
}

// Olds begins to ask what was imported lately.
func (v View) Olds() (Olds, error) {
	at, err := v.Clock()
	if err != nil {
		return Olds{}, err
	}
	generations, err := oldGenerations(v.R, at)
	return Olds{at, generations}, err
}

// Old returns the id of the message that was imported under a key; nil for none.
func (v View) Old(o Olds, k []byte) ([]byte, error) {
	for _, g := range o.generations {
		one, ok, err := load(v.R, keyOld(g, k), new(pb.Twin))
		if err != nil || ok && o.at-one.AtMs < OldMs {
			return one.GetId(), err
		}
	}
	return nil, nil
}

// importLine counts an import's messages in its one line of the audit log, and
// returns the line's index.
func (t *tx) importLine(h *pb.Import, fresh uint32) uint64 {
	if fresh == 0 {
		return h.Line
	}
	var line pb.Audit
	total := int(fresh)
	if h.Line != 0 && t.read(keyAudit(h.Line), &line) && line.Index == h.Line {
		if count, ok := strings.CutPrefix(line.What, importWord(h.Mailbox)); ok {
			before, _ := strconv.Atoi(count)
			was := len(t.get(keyAudit(h.Line)))
			line.What = importWord(h.Mailbox) + strconv.Itoa(before+total)
			t.count(CountAuditBytes, int64(t.write(keyAudit(h.Line), &line)-was))
			return h.Line
		}
	}
	t.audit(h.Admin, importWord(h.Mailbox)+strconv.Itoa(total))
	return t.index
}

func importWord(mailbox string) string {
	return fmt.Sprintf("mailbox import %s, messages: ", mailbox)
}

// MayUidl reports whether a POP3 client may know a message of a box by this: RFC
// 1939 §7 allows 1 to 70 characters from 0x21 to 0x7E, and what begins as those do
// that are made of box and uid could be another message's.
func MayUidl(box uint64, text string) bool {
	if len(text) == 0 || len(text) > 70 || strings.HasPrefix(text, UidlPrefix(box)) {
		return false
	}
	for i := range len(text) {
		if text[i] < 0x21 || text[i] > 0x7e {
			return false
		}
	}
	return true
}

// UidlPrefix is what the unique ids begin with that are made of box and uid.
func UidlPrefix(box uint64) string { return strconv.FormatUint(box, 36) + "." }

// nameEntry gives an entry a unique id of its own.
func (t *tx) nameEntry(box, uid uint64, entry *pb.Entry, text string) {
	if text == "" {
		return
	}
	entry.Uidl = text
	t.write(keyUidl(box, text), &pb.Uidl{Uid: uid})
}

// dropEntry deletes the record of an entry.
func (t *tx) dropEntry(box, uid uint64, entry *pb.Entry) {
	t.del(keyEntry(box, uid))
	if entry.Uidl != "" {
		t.del(keyUidl(box, entry.Uidl))
	}
}

// Uidl finds the entry of a mailbox that has this unique id of its own.
func (v View) Uidl(box uint64, text string) (uid uint64, ok bool, err error) {
	one, ok, err := load(v.R, keyUidl(box, text), new(pb.Uidl))
	return one.GetUid(), ok, err
}

// sweepOld forgets what was imported too long ago to be looked for.
func (t *tx) sweepOld(limit int, res *pb.Result) {
	var old [][]byte
	t.fail(t.b.Scan([]byte{kOld}, keyOld(max(t.clock/OldMs-1, 0), nil), func(k, _ []byte) bool {
		old = append(old, append([]byte(nil), k...))
		return len(old) < limit
	}))
	for _, k := range old {
		t.del(k)
		res.Count++
	}
}
