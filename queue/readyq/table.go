package readyq

import (
	"encoding/binary"
	"time"
)

// state is where an entry is.
type state uint8

const (
	free    state = iota
	parked        // held or suspended; only the index knows it
	waiting       // in the due heap
	ready         // in a list of its destination
	active        // with a worker, or its verdict is on the way to the spool
)

// Flags of an entry.
const (
	flagTold      uint8 = 1 << iota // its delay notice need not be looked at again
	flagTouched                     // Add spoke of it while it was active
	flagParked                      // with flagTouched: it is to be parked
	flagDropped                     // Drop spoke of it while it was active
	flagOverdue                     // it is in the overdue list of its destination
	flagScanned                     // a scan has met it while it was active
	flagSuspended                   // it waits for a rule, and due is not when it would be tried
)

const none = int32(-1)

// entry is one recipient in memory: 56 octets without a pointer, so that a
// million of them cost the collector nothing.
type entry struct {
	id       ID
	n        uint32
	attempts uint32
	due      int64 // Unix nanoseconds
	dest     int32
	// ready: next and previous in the list; waiting: a is the place in the heap; free: a is the next free one
	a, b    int32
	expires uint32 // Unix seconds; 0: by the policy
	class   uint8  // of its priority
	state   state
	flags   uint8
	mark    uint8 // the scan that saw it last
}

const (
	chunkBits = 10
	chunkSize = 1 << chunkBits
)

// table holds the entries, by slot number, and finds them by Ref.
type table struct {
	chunks []*[chunkSize]entry
	top    int32 // slots ever used
	empty  int32 // head of the list of free slots
	index  *index
}

func newTable() table { return table{empty: none, index: newIndex()} }

func (e *entry) is(r Ref) bool { return e.id == r.ID && e.n == r.Recipient }

// find returns the slot of an entry.
func (t *table) find(r Ref) (slot int32, ok bool) { return t.index.find(r, t) }

func (t *table) at(slot int32) *entry { return &t.chunks[slot>>chunkBits][slot&(chunkSize-1)] }

func (t *table) add(r Ref) (int32, *entry) {
	slot := t.empty
	if slot != none {
		t.empty = t.at(slot).a
	} else {
		slot = t.top
		t.top++
		if int(slot>>chunkBits) == len(t.chunks) {
			t.chunks = append(t.chunks, new([chunkSize]entry))
		}
	}
	t.index.add(r, slot)
	e := t.at(slot)
	*e = entry{id: r.ID, n: r.Recipient}
	return slot, e
}

func (t *table) remove(slot int32) {
	e := t.at(slot)
	t.index.remove(Ref{ID: e.id, Recipient: e.n}, slot)
	*e = entry{a: t.empty}
	t.empty = slot
	if t.index.n == 0 && len(t.chunks) > 64 {
		*t = newTable() // a flood is over: give its memory back
	}
}

func (e *entry) list() uint8 {
	if e.flags&flagOverdue != 0 {
		return classOverdue
	}
	return e.class
}

// born is when the message was accepted: the time in its ULID.
func (e *entry) born() int64 {
	var ms [8]byte
	copy(ms[2:], e.id[:6])
	return int64(binary.BigEndian.Uint64(ms[:])) * int64(time.Millisecond)
}

// Tie-break in the heap: recipients of one message that are due at the same
// instant come out next to each other and go into one job.
func (e *entry) tie() uint32 { return binary.BigEndian.Uint32(e.id[12:]) }
