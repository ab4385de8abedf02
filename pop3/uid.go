package pop3

import "hash/maphash"

// index finds messages by unique id. Clients walk a maildrop in order, so the
// neighbour of the last hit is tried first; a table of hashes is built only
// where that fails on a list too long to walk.
type index struct {
	list  List
	hint  int
	table []uint32 // open addressing; number + 1
	seed  maphash.Seed
	buf   [80]byte
}

const walkable = 32

// find returns the number of the message with that unique id, or -1.
func (x *index) find(uid []byte) int {
	if f, ok := x.list.(uidFinder); ok {
		if i, ok := f.Find(string(uid)); ok {
			return i
		}
		return -1
	}
	n := x.list.Len()
	for i := x.hint; i < n && i < x.hint+2; i++ {
		if x.is(i, uid) {
			return x.hit(i)
		}
	}
	if n > walkable {
		return x.lookup(uid, n)
	}
	for i := range n {
		if x.is(i, uid) {
			return x.hit(i)
		}
	}
	return -1
}

func (x *index) hit(i int) int {
	x.hint = i
	return i
}

func (x *index) is(i int, uid []byte) bool {
	return string(x.list.AppendUID(x.buf[:0], i)) == string(uid)
}

func (x *index) lookup(uid []byte, n int) int {
	if x.table == nil {
		x.build(n)
	}
	mask := uint64(len(x.table) - 1)
	for at := maphash.Bytes(x.seed, uid) & mask; x.table[at] != 0; at = (at + 1) & mask {
		if i := int(x.table[at]) - 1; x.is(i, uid) {
			return x.hit(i)
		}
	}
	return -1
}

func (x *index) build(n int) {
	size := 64
	for size < 2*n {
		size *= 2
	}
	x.table, x.seed = make([]uint32, size), maphash.MakeSeed()
	mask := uint64(size - 1)
	for i := range n {
		at := maphash.Bytes(x.seed, x.list.AppendUID(x.buf[:0], i)) & mask
		for x.table[at] != 0 {
			at = (at + 1) & mask
		}
		x.table[at] = uint32(i) + 1
	}
}

// arrived reports whether fresh has a unique id that old has not.
func arrived(old, fresh List) bool {
	x := index{list: old}
	var buf [80]byte
	for i := range fresh.Len() {
		if x.find(fresh.AppendUID(buf[:0], i)) < 0 {
			return true
		}
	}
	return false
}

// bits is a set of message numbers.
type bits []uint64

func (b bits) has(i int) bool { return i/64 < len(b) && b[i/64]&(1<<(i%64)) != 0 }

func (b *bits) set(i, n int) {
	if *b == nil {
		*b = make(bits, (n+63)/64)
	}
	(*b)[i/64] |= 1 << (i % 64)
}
