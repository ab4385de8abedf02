package log

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/hashicorp/raft"
)

// A frame of a packed log is one write to it, as that of frame.go is, with three
// differences: each entry has a checksum of its own, by which it is read alone; a frame
// may stand for those before it, whose entries it repeats; and a frame may say, in place
// of entries, that some are deleted.
//
//	magic 4, entries 4, seq 8, seq of the first frame that it stands for 8, octets 8, checksum of these 8
//	for each entry: index 8, term 8, appended at 8, type 1, octets of extensions 4 and of data 4,
//	    checksum of these and of both 8, and both
//	or: the first index that is deleted 8, the last 8, the lowest segment that is needed 8
//	checksum 8 of all but extensions and data, which their entry's checksum covers
//
// All checksums begin with the key of the segment.
const (
	packedMagic = "rlF2"
	goneMagic   = "rlR1"
	packedHead  = 4 + 4 + 8 + 8 + 8 + 8
	recordHead  = 8 + 8 + 8 + 1 + 4 + 4 + 8
	goneBody    = 8 + 8 + 8
)

// indexes are a range of indexes that are deleted.
type indexes struct{ lo, hi uint64 }

func recordLen(e *raft.Log) int { return recordHead + len(e.Extensions) + len(e.Data) }

// packedFrame is a frame as a segment has it.
type packedFrame struct {
	at        int64
	seq, base uint64
	size      int64
	lines     []line // its entries
	gone      *indexes
	lowest    uint64 // with gone: the lowest segment that is needed
}

// head makes the head of a frame in b.
func (k frameKey) packedHead(b []byte, magic string, f *packedFrame) {
	copy(b, magic)
	binary.BigEndian.PutUint32(b[4:], uint32(len(f.lines)))
	binary.BigEndian.PutUint64(b[8:], f.seq)
	binary.BigEndian.PutUint64(b[16:], f.base)
	binary.BigEndian.PutUint64(b[24:], uint64(f.size))
	d := k.digest()
	_, _ = d.Write(b[:packedHead-8])
	binary.BigEndian.PutUint64(b[packedHead-8:], d.Sum64())
}

// parsePackedHead reads the head of a frame; false: there is none.
func (k frameKey) parsePackedHead(b []byte) (f packedFrame, entries uint32, ok bool) {
	if len(b) < packedHead || string(b[:4]) != packedMagic && string(b[:4]) != goneMagic {
		return f, 0, false
	}
	d := k.digest()
	_, _ = d.Write(b[:packedHead-8])
	if d.Sum64() != binary.BigEndian.Uint64(b[packedHead-8:]) {
		return f, 0, false
	}
	f.seq, f.base = binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])
	f.size = int64(binary.BigEndian.Uint64(b[24:]))
	return f, binary.BigEndian.Uint32(b[4:]), true
}

// record appends an entry.
func (k frameKey) record(b []byte, e *raft.Log) []byte {
	from := len(b)
	b = binary.BigEndian.AppendUint64(b, e.Index)
	b = binary.BigEndian.AppendUint64(b, e.Term)
	var at int64
	if !e.AppendedAt.IsZero() {
		at = e.AppendedAt.UnixNano()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = append(b, byte(e.Type))
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Extensions)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Data)))
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	b = append(b, e.Extensions...)
	b = append(b, e.Data...)
	sum := k.recordSum(b[from:])
	binary.BigEndian.PutUint64(b[from+recordHead-8:], sum)
	return b
}

func (k frameKey) recordSum(b []byte) uint64 {
	d := k.digest()
	_, _ = d.Write(b[:recordHead-8])
	_, _ = d.Write(b[recordHead:])
	return d.Sum64()
}

// recordSize says how long the entry is that begins with b; false: it is longer than b.
func recordSize(b []byte) (n int, ok bool) {
	if len(b) < recordHead {
		return 0, false
	}
	size := recordHead + uint64(binary.BigEndian.Uint32(b[25:])) + uint64(binary.BigEndian.Uint32(b[29:]))
	return int(size), size <= uint64(len(b))
}

// parseRecord reads an entry and checks it.
func (k frameKey) parseRecord(b []byte, index uint64, e *raft.Log) error {
	n, ok := recordSize(b)
	if !ok || n != len(b) || k.recordSum(b) != binary.BigEndian.Uint64(b[recordHead-8:]) ||
		binary.BigEndian.Uint64(b) != index {
		return errSeal
	}
	*e = raft.Log{Index: index, Term: binary.BigEndian.Uint64(b[8:]), Type: raft.LogType(b[24])}
	if at := int64(binary.BigEndian.Uint64(b[16:])); at != 0 {
		e.AppendedAt = time.Unix(0, at).UTC()
	}
	if n := recordHead + int(binary.BigEndian.Uint32(b[25:])); n > recordHead {
		e.Extensions = b[recordHead:n:n]
		b = b[n:]
	} else {
		b = b[recordHead:]
	}
	if len(b) > 0 {
		e.Data = b[:len(b):len(b)]
	}
	return nil
}

// packedAt reads the frame at a place of a segment, up to its end; nil where there is
// no whole one.
func (s *packed) packedAt(one *segment, at int64) (*packedFrame, error) {
	head := make([]byte, packedHead)
	if at+packedHead > one.size {
		return nil, nil
	}
	if ok, err := readFull(one.f, head, at); !ok {
		return nil, err
	}
	f, entries, ok := one.key.parsePackedHead(head)
	if !ok || f.size < packedHead+frameTail || f.size > one.size-at {
		return nil, nil
	}
	b := make([]byte, f.size)
	if ok, err := readFull(one.f, b, at); !ok {
		return nil, err
	}
	f.at = at
	return one.key.parsePacked(b, f, entries, uint32(one.id))
}

// parsePacked checks a frame and reads where its entries are.
func (k frameKey) parsePacked(b []byte, f packedFrame, entries uint32, segment uint32) (*packedFrame, error) {
	sum := k.digest()
	body, tail := b[:len(b)-frameTail], b[len(b)-frameTail:]
	_, _ = sum.Write(body[:packedHead])
	pos := packedHead
	if string(b[:4]) == goneMagic {
		_, _ = sum.Write(body[pos:])
		if len(body) != pos+goneBody || sum.Sum64() != binary.BigEndian.Uint64(tail) {
			return nil, nil
		}
		f.gone = &indexes{binary.BigEndian.Uint64(body[pos:]), binary.BigEndian.Uint64(body[pos+8:])}
		f.lowest = binary.BigEndian.Uint64(body[pos+16:])
		return &f, nil
	}
	for range entries {
		n, ok := recordSize(body[pos:])
		if !ok {
			return nil, nil
		}
		one := body[pos : pos+n]
		if k.recordSum(one) != binary.BigEndian.Uint64(one[recordHead-8:]) {
			return nil, nil
		}
		_, _ = sum.Write(one[:recordHead])
		f.lines = append(f.lines, line{
			index: binary.BigEndian.Uint64(one), segment: segment, offset: uint32(f.at) + uint32(pos), size: uint32(n),
		})
		pos += n
	}
	if sum.Sum64() != binary.BigEndian.Uint64(tail) {
		return nil, nil
	}
	if pos != len(body) {
		return nil, fmt.Errorf("%w: a frame has more than its entries", errSeal)
	}
	return &f, nil
}

// packedWriter makes a frame in buf, of which the beginning may be cut off when it is
// written.
type packedWriter struct {
	key frameKey
	buf []byte
	sum xxhash.Digest
}

func (k frameKey) beginPacked(buf []byte, magic string, f *packedFrame) *packedWriter {
	w := &packedWriter{key: k, buf: append(buf[:0], make([]byte, packedHead)...), sum: k.digest()}
	k.packedHead(w.buf, magic, f)
	_, _ = w.sum.Write(w.buf)
	return w
}

func (w *packedWriter) entry(e *raft.Log) {
	from := len(w.buf)
	w.buf = w.key.record(w.buf, e)
	_, _ = w.sum.Write(w.buf[from : from+recordHead])
}

// cut drops the first n octets, which were written.
func (w *packedWriter) cut(n int) { w.buf = w.buf[:copy(w.buf, w.buf[n:])] }

func (w *packedWriter) end() { w.buf = binary.BigEndian.AppendUint64(w.buf, w.sum.Sum64()) }

// pad makes the buffer n octets long.
func (w *packedWriter) pad(n int) {
	if m := n - len(w.buf); m > 0 {
		w.buf = append(w.buf, make([]byte, m)...)
	}
}
