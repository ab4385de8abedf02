package spool

import (
	"bytes"

	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// maxTakeOut is how many messages a Remove takes out one by one. That costs a
// look at each message's references and a line in its history, so that a hundred
// thousand would hold up every other command for seconds, and the node with them.
// More than that are buried.
const maxTakeOut = 500

// grave is a box of no account into which a large Remove moves entries: they are
// gone from the mailbox at once, all or none. Sweep finds them as it finds the
// entries of a dropped account, and lets go of their messages in bounded steps.
type grave struct {
	box   uint64 // the index of the command, so no mailbox has that number
	why   []byte // node, a zero octet, and the detail of the event to come
	count uint32
}

// sizeOf is how many uids ranges name.
func sizeOf(ranges []byte, most uint64) (n uint64) {
	_ = Ranges(ranges, most, func(first, last uint64) { n += last - first + 1 })
	return n
}

const (
	// buryAtOnce bounds the memory that a burial takes.
	buryAtOnce = 4096
	// longRun is how many uids in a row are worth a scan. A scan goes through all
	// that the batch has written so far, so that many of them, for the short runs
	// of a mailbox with holes, would take time by the square of what they move.
	longRun = 256
)

// bury moves the entries from first to last, and returns the uids that are not
// there.
func (t *tx) bury(g *grave, box *pb.Mailbox, first, last uint64) (missing []uint64) {
	if last-first < longRun {
		for ; first <= last && t.err == nil; first++ {
			if value := t.get(keyEntry(box.Box, first)); value != nil {
				t.buryOne(g, box, first, bytes.Clone(value))
			} else {
				missing = append(missing, first)
			}
		}
		return missing
	}
	type pair struct {
		uid   uint64
		value []byte
	}
	for first <= last && t.err == nil {
		found := make([]pair, 0, min(last-first+1, buryAtOnce))
		t.fail(t.b.Scan(keyEntry(box.Box, first), keyEntry(box.Box, last+1), func(k, v []byte) bool {
			found = append(found, pair{uidOf(k), bytes.Clone(v)})
			return len(found) < buryAtOnce
		}))
		for _, p := range found {
			for ; first < p.uid; first++ {
				missing = append(missing, first)
			}
			first++
			t.buryOne(g, box, p.uid, p.value)
		}
		if len(found) < buryAtOnce {
			break
		}
	}
	for ; first <= last; first++ {
		missing = append(missing, first)
	}
	return missing
}

func (t *tx) buryOne(g *grave, box *pb.Mailbox, uid uint64, value []byte) {
	var entry pb.Entry
	if err := proto.Unmarshal(value, &entry); err != nil {
		t.fail(err)
		return
	}
	t.del(keyEntry(box.Box, uid))
	t.set(keyEntry(g.box, uid), value)
	box.Messages--
	box.Bytes -= entry.Size
	g.count++
}

// epitaph is the event of an entry that Sweep finds under a mark.
func epitaph(mark []byte) *pb.Event {
	node, detail, ok := bytes.Cut(mark, []byte{0})
	if !ok {
		return &pb.Event{What: "removed", Detail: "account dropped"}
	}
	return &pb.Event{What: "removed", Node: string(node), Detail: string(detail)}
}
