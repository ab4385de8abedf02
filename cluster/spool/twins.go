package spool

import "encoding/binary"

// twins tells without a look-up that a message is no twin: hardly any is, and
// to find that out in the store takes a look into each level of it, twice. It is
// a Bloom filter a generation. It may take a message for one that has come
// before, never the other way round; so it changes no result, and members need
// not have the same one.
type twins [2]twinFilter

type twinFilter struct {
	generation int64
	bits       []uint64 // nil: nothing was added
}

// At a thousand messages a second, 0.1 % of them are looked up for nothing.
const twinBits = 1 << 24

func (f *twins) of(generation int64) *twinFilter { return &f[generation&1] }

// add says that the store has a twin with this digest.
func (f *twins) add(generation int64, digest []byte) {
	one := f.of(generation)
	if one.generation > generation {
		return // too old to be looked for
	}
	if one.bits == nil {
		one.bits = make([]uint64, twinBits/64)
	} else if one.generation != generation {
		clear(one.bits)
	}
	one.generation = generation
	for _, h := range twinHashes(digest) {
		one.bits[h/64] |= 1 << (h % 64)
	}
}

// may reports whether the store can have a twin with this digest.
func (f *twins) may(generation int64, digest []byte) bool {
	one := f.of(generation)
	if one.bits == nil || one.generation != generation {
		return false
	}
	for _, h := range twinHashes(digest) {
		if one.bits[h/64]&(1<<(h%64)) == 0 {
			return false
		}
	}
	return true
}

// twinHashes takes three numbers out of a digest, whose octets are as good as
// random.
func twinHashes(digest []byte) (h [3]uint32) {
	var b [12]byte
	copy(b[:], digest)
	for i := range h {
		h[i] = binary.BigEndian.Uint32(b[4*i:]) % twinBits
	}
	return h
}

// load reads what the store has of a generation and the one before it: others
// are not looked for, and those of a clock that was set back since would stand
// in the way.
func (f *twins) load(r Reader, now int64) error {
	*f = twins{}
	return r.Scan(keyTwin(max(now-1, 0), nil), keyTwin(now+1, nil), func(k, _ []byte) bool {
		if len(k) > 9 {
			f.add(int64(binary.BigEndian.Uint64(k[1:])), k[9:])
		}
		return true
	})
}

// fill adds what the store has of a generation and the one before it. It is only
// after the clock was set back that the store has any of one that the clock enters
// now: a node that starts then has read them, and the others must know them, too.
func (f *twins) fill(r Reader, now int64) error {
	for g := max(now-1, 0); g <= now; g++ {
		one := f.of(g)
		if one.generation == g {
			continue
		}
		one.generation = g
		clear(one.bits)
		err := r.Scan(keyTwin(g, nil), keyTwin(g+1, nil), func(k, _ []byte) bool {
			if len(k) > 9 {
				f.add(g, k[9:])
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	return nil
}
