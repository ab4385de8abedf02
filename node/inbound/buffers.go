package inbound

import (
	"sync"

	"relay/cluster/spool"
)

// buffers lend the octets in which messages are collected, in sizes of 8 KiB, 16 KiB
// and so on up to spool.MaxInline. A buffer that a message has outgrown serves the next
// one: a crowd of messages leaves no garbage, for which the collector would let the
// heap grow to twice what lives. The zero value is ready; methods may be called
// concurrently.
type buffers struct{ sizes [6]sync.Pool } // of *[]byte

const smallestBuffer = 8 << 10

// get returns an empty buffer for n octets, or the largest there is.
func (b *buffers) get(n int) []byte {
	i, size := 0, smallestBuffer
	for size < min(n, spool.MaxInline) {
		i, size = i+1, 2*size
	}
	if p, ok := b.sizes[i].Get().(*[]byte); ok {
		return (*p)[:0]
	}
	return make([]byte, 0, size)
}

// put takes a buffer back that nobody uses any more. Others than get has returned are
// left to the collector.
func (b *buffers) put(p []byte) {
	for i, size := 0, smallestBuffer; i < len(b.sizes); i, size = i+1, 2*size {
		if cap(p) == size {
			b.sizes[i].Put(&p)
		}
	}
}

// grow returns a buffer of twice the capacity, at most spool.MaxInline, with the same
// octets.
func (b *buffers) grow(p []byte) []byte {
	larger := append(b.get(2*cap(p)), p...)
	b.put(p)
	return larger
}
