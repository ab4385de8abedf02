package readyq

import "hash/maphash"

// index finds the slots of entries by Ref. A cell is 8 octets, with a third of them
// free on average: a map takes 54 octets an entry, as it keeps keys that the entries have
// already. It grows a part at a time, some microseconds each: growing as a whole would
// hold the lock for 10 ms in a queue of a million.
type index struct {
	seed  maphash.Seed
	parts [1 << indexBits]part
	n     int
}

const (
	indexBits = 8
	leastPart = 8 // cells of a part that is not empty
)

// part is a table of open addressing, linear probing, and a power of two of cells. A cell
// that is taken out is filled by those behind it, so there are no marks of former ones.
type part struct {
	cells []cell
	n     int
}

// cell is one entry; of a free one slot is 0.
type cell struct {
	hash uint32
	slot int32 // one more than the entry's
}

func newIndex() *index { return &index{seed: maphash.MakeSeed()} }

// place is the part of a Ref, and its hash there.
func (x *index) place(r Ref) (*part, uint32) {
	h := maphash.Comparable(x.seed, r)
	return &x.parts[h>>(64-indexBits)], uint32(h)
}

// find returns the slot of a Ref.
func (x *index) find(r Ref, t *table) (slot int32, ok bool) {
	p, h := x.place(r)
	at := p.find(h, func(slot int32) bool { return t.at(slot).is(r) })
	if at < 0 {
		return 0, false
	}
	return p.cells[at].slot - 1, true
}

// add adds a Ref that is not there.
func (x *index) add(r Ref, slot int32) {
	p, h := x.place(r)
	if 5*(p.n+1) > 4*len(p.cells) {
		p.grow()
	}
	p.put(cell{h, slot + 1})
	p.n++
	x.n++
}

// remove takes out a Ref that is there.
func (x *index) remove(r Ref, slot int32) {
	p, h := x.place(r)
	at := p.find(h, func(one int32) bool { return one == slot })
	p.remove(uint32(at))
	p.n--
	x.n--
}

func (p *part) find(hash uint32, is func(slot int32) bool) int {
	if p.n == 0 {
		return -1
	}
	mask := uint32(len(p.cells) - 1)
	for at := hash & mask; ; at = (at + 1) & mask {
		switch c := p.cells[at]; {
		case c.slot == 0:
			return -1
		case c.hash == hash && is(c.slot-1):
			return int(at)
		}
	}
}

func (p *part) put(c cell) {
	mask := uint32(len(p.cells) - 1)
	at := c.hash & mask
	for p.cells[at].slot != 0 {
		at = (at + 1) & mask
	}
	p.cells[at] = c
}

func (p *part) grow() {
	old := p.cells
	p.cells = make([]cell, max(2*len(old), leastPart))
	for _, c := range old {
		if c.slot != 0 {
			p.put(c)
		}
	}
}

// remove frees a cell, and moves those behind it that would not be found any more.
func (p *part) remove(free uint32) {
	mask := uint32(len(p.cells) - 1)
	for at := (free + 1) & mask; p.cells[at].slot != 0; at = (at + 1) & mask {
		home := p.cells[at].hash & mask
		if (at-home)&mask >= (at-free)&mask {
			p.cells[free] = p.cells[at]
			free = at
		}
	}
	p.cells[free] = cell{}
}
