package spool

import "encoding/binary"

// dedupFilter tells without a look-up that a message is no duplicate: hardly any is, and
// to find that out in the store takes a look into each level of it, twice. It is
// a Bloom filter a generation. It may take a message for one that has come
// before, never the other way round; so it changes no result, and members need
// not have the same one.
type dedupFilter [2]bloomFilter

type bloomFilter struct {
	generation int64
	bits       []uint64 // nil: nothing was added
}

// At a thousand messages a second, 0.1 % of them are looked up for nothing.
const bloomBits = 1 << 24

func (f *dedupFilter) of(generation int64) *bloomFilter { return &f[generation&1] }

// add says that the store has a dedup key with this digest.
func (f *dedupFilter) add(generation int64, digest []byte) {
	one := f.of(generation)
	if one.generation > generation {
		return // too old to be looked for
	}
	if one.bits == nil {
		one.bits = make([]uint64, bloomBits/64)
	} else if one.generation != generation {
		clear(one.bits)
	}
	one.generation = generation
	for _, h := range bloomHashes(digest) {
		one.bits[h/64] |= 1 << (h % 64)
	}
}

// may reports whether the store can have a dedup key with this digest.
func (f *dedupFilter) may(generation int64, digest []byte) bool {
	one := f.of(generation)
	if one.bits == nil || one.generation != generation {
		return false
	}
	for _, h := range bloomHashes(digest) {
		if one.bits[h/64]&(1<<(h%64)) == 0 {
			return false
		}
	}
	return true
}

// bloomHashes takes three numbers out of a digest, whose octets are as good as
// random.
func bloomHashes(digest []byte) (h [3]uint32) {
	var b [12]byte
	copy(b[:], digest)
	for i := range h {
		h[i] = binary.BigEndian.Uint32(b[4*i:]) % bloomBits
	}
	return h
}

// load reads what the store has of a generation and the one before it: others
// are not looked for, and those of a clock that was set back since would stand
// in the way.
func (f *dedupFilter) load(r Reader, now int64) error {
	*f = dedupFilter{}
	return r.Scan(keyDedup(max(now-1, 0), nil), keyDedup(now+1, nil), func(k, _ []byte) bool {
		if len(k) > 9 {
			f.add(int64(numberOf(k)), behindNumber(k))
		}
		return true
	})
}

// fill adds what the store has of a generation and the one before it. It is only
// after the clock was set back that the store has any of one that the clock enters
// now: a node that starts then has read them, and the others must know them, too.
func (f *dedupFilter) fill(r Reader, now int64) error {
	for g := max(now-1, 0); g <= now; g++ {
		one := f.of(g)
		if one.generation == g {
			continue
		}
		one.generation = g
		clear(one.bits)
		err := r.Scan(keyDedup(g, nil), keyDedup(g+1, nil), func(k, _ []byte) bool {
			if len(k) > 9 {
				f.add(g, behindNumber(k))
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	return nil
}
