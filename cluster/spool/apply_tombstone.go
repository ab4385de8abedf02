package spool

import (
	"bytes"
	"fmt"
	"math"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// MaxTakeOut is how many messages a Remove takes out one by one. That costs a
// look at each message's references and a line in its history, so that a hundred
// thousand would hold up every other command for seconds, and the node with them.
// More than that get a tombstone: the Remove counts them and writes down their uids,
// and from then on nobody sees them. Sweep lets go of them in bounded steps.
//
// A large Remove writes a tombstone. To take a message out means a look at its references and a
// line in its history; for a hundred thousand of them that holds up all other commands
// for seconds. A Remove of more than 500 reads the sizes of the entries it names, which
// is all that its answer and the mailbox's sums need, and writes their uids as ranges
// into the mailbox's tombstone (B): one record. From that command on whoever reads entries
// leaves the deleted ones out; Sweep deletes them and lets go of their messages in
// bounded steps. The mailbox is rid of all of them at once, or of none. A mailbox with
// a tombstone waits with its retention until that is swept. Rejected: to move the entries
// into a box of their own, which writes each of them twice and took 1.7 s for 100,000;
// sums that the session brings along, which would have to be believed. Uids that lie
// far apart are looked up one by one: a Scan of a batch costs a look at all that it has
// written.
const MaxTakeOut = 500

// deletedRuns is what a mailbox's tombstone says, ready to be asked.
type deletedRuns [][]run

// has reports whether an entry is out of the mailbox though its record is there.
func (b deletedRuns) has(uid uint64) bool {
	for _, runs := range b {
		if _, ok := runOf(runs, uid); ok {
			return true
		}
	}
	return false
}

// past returns the uid behind the deleted ones that begin with uid, where they are
// enough to be worth a jump; else uid itself.
func (b deletedRuns) past(uid uint64) uint64 {
	for _, runs := range b {
		if r, ok := runOf(runs, uid); ok && r.last-uid >= longRun {
			return r.last + 1
		}
	}
	return uid
}

// readTombstone reads what large Removes took out of a box.
func readTombstone(r Reader, box uint64) (*pb.Burial, deletedRuns, error) {
	tombstone, ok, err := load(r, keyBox(kTombstone, box), new(pb.Burial))
	if err != nil || !ok {
		return tombstone, nil, err
	}
	b, err := decodeTombstone(tombstone)
	return tombstone, b, err
}

// decodeTombstone reads a tombstone's ranges.
func decodeTombstone(tombstone *pb.Burial) (b deletedRuns, err error) {
	for _, part := range tombstone.Parts {
		runs, err := parseRuns(part.Ranges, math.MaxUint64>>1)
		if err != nil {
			return nil, fmt.Errorf("spool: a burial is corrupt: %w", err)
		}
		b = append(b, runs)
	}
	return b, nil
}

const (
	// longRun is how many uids in a row are worth a scan that begins behind them.
	longRun = 256
	// nearby is the gap between two runs that a scan walks across: to skip an
	// entry costs much less than to look for one.
	nearby = 8
)

// walk calls fn for each record there is of the runs' uids, in their order, until
// it returns false. fn must not write.
func (t *tx) walk(box uint64, runs []run, fn func(uid uint64, value []byte) bool) {
	for more := true; len(runs) > 0 && more && t.err == nil; {
		n := 1
		for n < len(runs) && runs[n].first-runs[n-1].last <= nearby {
			n++
		}
		group := runs[:n]
		runs = runs[n:]
		if n == 1 && group[0].size() == 1 {
			if value := t.get(keyEntry(box, group[0].first)); value != nil {
				more = fn(group[0].first, value)
			}
			continue
		}
		at := 0
		t.fail(t.b.Scan(keyEntry(box, group[0].first), keyEntry(box, group[n-1].last+1), func(k, v []byte) bool {
			uid := uidOf(k)
			for group[at].last < uid {
				at++
			}
			if uid >= group[at].first {
				more = fn(uid, v)
			}
			return more
		}))
	}
}

// writeTombstone takes out all of the runs that is in the mailbox, in one short step, and
// returns what is not.
func (t *tx) writeTombstone(h *pb.Remove, detail string, box *pb.Mailbox, runs []run) (count uint32, missing []run) {
	tombstone, before, err := readTombstone(t.b, box.Box)
	t.fail(err)
	gone := gaps{runs: runs}
	var size uint64
	t.walk(box.Box, runs, func(uid uint64, value []byte) bool {
		if before.has(uid) {
			return true
		}
		n, err := entrySize(value)
		if err != nil {
			t.fail(err)
			return false
		}
		gone.met(uid)
		count++
		size += n
		return true
	})
	if t.err != nil || count == 0 {
		return 0, runs
	}
	box.Messages -= uint64(count)
	box.Bytes -= size
	tombstone.Parts = append(tombstone.Parts, &pb.Burial_Part{Node: h.Node, Detail: detail, Ranges: encodeRuns(runs)})
	t.write(keyBox(kTombstone, box.Box), tombstone)
	return count, gone.rest()
}

// gaps finds what of some runs was not met.
type gaps struct {
	runs    []run
	next    uint64 // in runs[0]: all before was met or is missing
	missing []run
}

// met notes a uid of the runs; they ascend.
func (g *gaps) met(uid uint64) {
	for g.runs[0].last < uid {
		g.close()
	}
	if from := max(g.next, g.runs[0].first); from < uid {
		g.missing = appendRun(g.missing, from, uid-1)
	}
	g.next = uid + 1
}

// close ends the first run.
func (g *gaps) close() {
	if from := max(g.next, g.runs[0].first); from <= g.runs[0].last {
		g.missing = appendRun(g.missing, from, g.runs[0].last)
	}
	g.runs = g.runs[1:]
}

func (g *gaps) rest() []run {
	for len(g.runs) > 0 {
		g.close()
	}
	return g.missing
}

const entrySizeField = 2

// entrySize reads Entry.size and nothing else.
func entrySize(value []byte) (uint64, error) {
	for len(value) > 0 {
		num, typ, n := protowire.ConsumeTag(value)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		value = value[n:]
		if num == entrySizeField && typ == protowire.VarintType {
			size, n := protowire.ConsumeVarint(value)
			return size, protowire.ParseError(min(n, 0))
		}
		if n = protowire.ConsumeFieldValue(num, typ, value); n < 0 {
			return 0, protowire.ParseError(n)
		}
		value = value[n:]
	}
	return 0, nil
}

// sweepTombstones lets go of entries under tombstones, at most limit of them.
func (t *tx) sweepTombstones(limit int, res *pb.Result) {
	for range boxesPerSweep {
		found := false
		t.scan([]byte{kTombstone}, 1, func(k, v []byte) {
			found = true
			limit -= t.sweepTombstone(k, v, limit, res)
		})
		if !found || limit <= 0 || t.err != nil {
			return
		}
	}
}

// sweepTombstone lets go of entries of one box, and forgets the tombstone when none is
// left. It returns how many entries it deleted.
func (t *tx) sweepTombstone(mark, value []byte, limit int, res *pb.Result) int {
	var tombstone pb.Burial
	if !t.unmarshal(mark, value, &tombstone) {
		return 0
	}
	box, done := numberOf(mark), 0
	for len(tombstone.Parts) > 0 && done < limit && t.err == nil {
		part := tombstone.Parts[0]
		runs, err := parseRuns(part.Ranges, math.MaxUint64>>1)
		if err != nil {
			t.fail(fmt.Errorf("spool: a burial is corrupt: %w", err))
			return done
		}
		gone, rest := t.letGoOf(box, part, runs, limit-done)
		t.reportRemoved(res, gone)
		done += len(gone.GetIds()) / idOctets
		if part.Ranges = encodeRuns(rest); len(rest) == 0 {
			tombstone.Parts = tombstone.Parts[1:]
		}
	}
	if len(tombstone.Parts) == 0 {
		t.del(mark)
	} else {
		t.write(mark, &tombstone)
	}
	return done
}

// letGoOf deletes entries of the runs, and returns them and what is left.
func (t *tx) letGoOf(box uint64, part *pb.Burial_Part, runs []run, limit int) (gone *pb.Removed, rest []run) {
	type pair struct {
		uid   uint64
		value []byte
	}
	var found []pair
	t.walk(box, runs, func(uid uint64, value []byte) bool {
		found = append(found, pair{uid, bytes.Clone(value)})
		return len(found) < limit
	})
	mailbox := strings.TrimPrefix(part.Detail, "mailbox ")
	gone = &pb.Removed{Mailbox: mailbox, Who: mailbox, Why: "deleted by POP3"}
	for _, p := range found {
		var entry pb.Entry
		if err := proto.Unmarshal(p.value, &entry); err != nil {
			t.fail(err)
			return gone, nil
		}
		t.dropEntry(box, p.uid, &entry)
		t.unreference(&entry, &pb.Event{What: "removed", Node: part.Node, Detail: part.Detail})
		gone.Ids = append(gone.Ids, entry.Id...)
	}
	if len(found) < limit {
		return gone, nil
	}
	return gone, behind(runs, found[len(found)-1].uid)
}

// behind is what of the runs comes after a uid.
func behind(runs []run, uid uint64) []run {
	for len(runs) > 0 && runs[0].last <= uid {
		runs = runs[1:]
	}
	if len(runs) > 0 && runs[0].first <= uid {
		runs[0].first = uid + 1
	}
	return runs
}
