package disk

import (
	"bytes"
	"hash/maphash"
	"slices"
)

// overlay remembers the newest value of each key in an uncommitted batch: a
// hash table for Get, and a list for each first octet for Scan. It is a good
// deal cheaper than an ordered index, because Apply reads its writes often and
// scans across them seldom. Keys and values are not copied; they live in the
// batch's buffer.
type overlay struct {
	seed    maphash.Seed
	entries []entry
	slots   []int32    // open addressing; position in entries + 1, 0 is free
	heads   [256]int32 // first entry of each octet, position + 1
}

type entry struct {
	hash       uint64
	key, value []byte // value nil: deleted
	next       int32
}

const (
	minSlots  = 256
	keepSlots = 16 << 10 // larger tables are given back at reset
)

func newOverlay() *overlay {
	return &overlay{seed: maphash.MakeSeed(), slots: make([]int32, minSlots)}
}

func (o *overlay) find(key []byte) *entry {
	if len(o.entries) == 0 {
		return nil
	}
	h := maphash.Bytes(o.seed, key)
	if i := o.slots[o.slot(h, key)]; i != 0 {
		return &o.entries[i-1]
	}
	return nil
}

// slot returns the slot that holds the key, or the free one where it belongs.
func (o *overlay) slot(h uint64, key []byte) uint64 {
	mask := uint64(len(o.slots) - 1)
	for s := h & mask; ; s = (s + 1) & mask {
		i := o.slots[s]
		if i == 0 {
			return s
		}
		if e := &o.entries[i-1]; e.hash == h && bytes.Equal(e.key, key) {
			return s
		}
	}
}

func (o *overlay) put(key, value []byte) {
	if 2*(len(o.entries)+1) > len(o.slots) {
		o.grow()
	}
	h := maphash.Bytes(o.seed, key)
	s := o.slot(h, key)
	if i := o.slots[s]; i != 0 {
		o.entries[i-1].value = value
		return
	}
	o.entries = append(o.entries, entry{hash: h, key: key, value: value, next: o.heads[key[0]]})
	o.slots[s] = int32(len(o.entries))
	o.heads[key[0]] = int32(len(o.entries))
}

func (o *overlay) grow() {
	o.slots = make([]int32, 2*len(o.slots))
	mask := uint64(len(o.slots) - 1)
	for i := range o.entries {
		s := o.entries[i].hash & mask
		for o.slots[s] != 0 {
			s = (s + 1) & mask
		}
		o.slots[s] = int32(i + 1)
	}
}

// between returns the entries with keys in [lo, hi), in order, deleted ones too.
func (o *overlay) between(lo, hi []byte) []*entry {
	var all []*entry
	last := 255
	if len(hi) > 0 {
		last = int(hi[0])
	}
	for c := int(lo[0]); c <= last; c++ {
		for i := o.heads[c]; i != 0; i = o.entries[i-1].next {
			e := &o.entries[i-1]
			if bytes.Compare(e.key, lo) >= 0 && (hi == nil || bytes.Compare(e.key, hi) < 0) {
				all = append(all, e)
			}
		}
	}
	slices.SortFunc(all, func(a, b *entry) int { return bytes.Compare(a.key, b.key) })
	return all
}

func (o *overlay) reset() {
	if len(o.entries) == 0 {
		return
	}
	clear(o.entries) // let the batch's buffers go
	o.entries = o.entries[:0]
	clear(o.heads[:])
	if len(o.slots) > keepSlots {
		o.slots, o.entries = make([]int32, minSlots), nil
		return
	}
	clear(o.slots)
}
