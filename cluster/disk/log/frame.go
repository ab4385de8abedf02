package log

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/hashicorp/raft"
)

// A frame is what one write to the log puts into a segment: its entries, whole,
// between checksums. It begins on a page and is written and synced before the
// next one begins; so a broken frame behind which there is none is a write that
// was cut off, and was promised to nobody, and a broken frame behind which there
// is another one is damage.
//
//	magic 4, entries 4, seq 8, octets 8, checksum of these 8
//	for each entry: index 8, term 8, appended at 8, type 1, octets of extensions 4 and of data 4, and both
//	checksum of all 8
//
// The checksums are keyed. Octets left in a file from its former use, and octets that the sender of a
// mail writes into its body, are never taken for a frame.
//
// A frame begins when the one before it is synced, and a file when all before it is. A
// file gets its first page, with the key of its frames and the number of the first,
// before it gets the name of a segment: one without it is damaged, and so is a frame
// that is missing before it. The position has a checksum. A broken frame counts as cut
// off where nothing is behind it in its file or a later one; the next frame takes its
// place. Else the log is refused. Damage to just the newest frame can not be told from
// a cut-off write, as with bbolt's newest meta page. The key is a number drawn for each
// use of a file.
//
// Rejected: syncing data and entries at the same time in two files, as a torn last
// write looks like damage, or damage like a torn write.
const (
	frameMagic = "rlF1"
	frameHead  = 4 + 4 + 8 + 8 + 8
	frameTail  = 8
	entryHead  = 8 + 8 + 8 + 1 + 4 + 4

	headerMagic = "rlS2"
	packedPage  = "rlS3" // the same of a packed log
)

// frameKey is drawn for each use of a file.
type frameKey [16]byte

// firstPage is what the first page of a segment says: magic 4, id 8, key 16, number of
// the first frame 8, in a packed log the lowest id that is needed 8, and a checksum 8.
// It is synced before the file has its name.
type firstPage struct {
	key    frameKey
	first  uint64
	lowest uint64 // 0: of a log that is not packed
}

func newFrameKey() (k frameKey) {
	_, _ = rand.Read(k[:]) // never fails
	return k
}

func (h firstPage) page(id uint64) []byte {
	b := make([]byte, 0, segmentAlign)
	if h.lowest > 0 {
		b = append(b, packedPage...)
	} else {
		b = append(b, headerMagic...)
	}
	b = binary.BigEndian.AppendUint64(b, id)
	b = append(b, h.key[:]...)
	b = binary.BigEndian.AppendUint64(b, h.first)
	if h.lowest > 0 {
		b = binary.BigEndian.AppendUint64(b, h.lowest)
	}
	b = binary.BigEndian.AppendUint64(b, xxhash.Sum64(b))
	return b[:segmentAlign]
}

// readHeader returns the header of a segment; false where the file has none for
// this id.
func readHeader(f io.ReaderAt, id uint64) (h firstPage, ok bool, err error) {
	b := make([]byte, segmentAlign)
	if ok, err = readFull(f, b, 0); !ok {
		return h, false, err
	}
	copy(h.key[:], b[12:])
	h.first = binary.BigEndian.Uint64(b[28:])
	if string(b[:4]) == packedPage {
		h.lowest = binary.BigEndian.Uint64(b[36:])
	}
	return h, bytes.Equal(b, h.page(id)), nil
}

func (k frameKey) digest() (d xxhash.Digest) {
	d.Reset()
	_, _ = d.Write(k[:])
	return d
}

func entryLen(e *raft.Log) int { return entryHead + len(e.Extensions) + len(e.Data) }

// frameWriter makes a frame in buf, of which the beginning may be cut off when
// it is written.
type frameWriter struct {
	buf    []byte
	hashed int // octets of buf that sum has
	sum    xxhash.Digest
}

func (k frameKey) begin(buf []byte, seq uint64, entries, size int) *frameWriter {
	return &frameWriter{buf: k.head(buf, seq, entries, size), sum: k.digest()}
}

func (k frameKey) head(buf []byte, seq uint64, entries, size int) []byte {
	from := len(buf)
	buf = append(buf, frameMagic...)
	buf = binary.BigEndian.AppendUint32(buf, uint32(entries))
	buf = binary.BigEndian.AppendUint64(buf, seq)
	buf = binary.BigEndian.AppendUint64(buf, uint64(size))
	d := k.digest()
	_, _ = d.Write(buf[from:])
	return binary.BigEndian.AppendUint64(buf, d.Sum64())
}

func (w *frameWriter) entry(e *raft.Log) {
	w.buf = binary.BigEndian.AppendUint64(w.buf, e.Index)
	w.buf = binary.BigEndian.AppendUint64(w.buf, e.Term)
	var at int64
	if !e.AppendedAt.IsZero() {
		at = e.AppendedAt.UnixNano()
	}
	w.buf = binary.BigEndian.AppendUint64(w.buf, uint64(at))
	w.buf = append(w.buf, byte(e.Type))
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(len(e.Extensions)))
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(len(e.Data)))
	w.buf = append(w.buf, e.Extensions...)
	w.buf = append(w.buf, e.Data...)
}

// cut drops the first n octets, which were written.
func (w *frameWriter) cut(n int) {
	w.hash()
	w.hashed -= n
	w.buf = w.buf[:copy(w.buf, w.buf[n:])]
}

func (w *frameWriter) hash() {
	_, _ = w.sum.Write(w.buf[w.hashed:])
	w.hashed = len(w.buf)
}

func (w *frameWriter) end() {
	w.hash()
	w.buf = binary.BigEndian.AppendUint64(w.buf, w.sum.Sum64())
}

// pad makes the buffer n octets long.
func (w *frameWriter) pad(n int) {
	if m := n - len(w.buf); m > 0 {
		w.buf = append(w.buf, make([]byte, m)...)
	}
}

// foundFrame is a frame as a segment has it.
type foundFrame struct {
	seq  uint64
	size int64
	logs []raft.Log // with their data
	at   []uint64   // where in the file the data is
}

// headAt returns what the head of a frame says; ok is false if there is none.
func (k frameKey) headAt(b []byte) (seq uint64, entries uint32, size uint64, ok bool) {
	if len(b) < frameHead || string(b[:4]) != frameMagic {
		return 0, 0, 0, false
	}
	d := k.digest()
	_, _ = d.Write(b[:frameHead-8])
	if d.Sum64() != binary.BigEndian.Uint64(b[frameHead-8:]) {
		return 0, 0, 0, false
	}
	return binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint64(b[16:]), true
}

// frameAt reads the frame at a place of a file of the given size; nil where
// there is no whole one.
func (k frameKey) frameAt(f io.ReaderAt, at, fileSize int64) (*foundFrame, error) {
	var head [frameHead]byte
	if at+frameHead > fileSize {
		return nil, nil
	}
	if ok, err := readFull(f, head[:], at); !ok {
		return nil, err
	}
	seq, entries, size, ok := k.headAt(head[:])
	if !ok || size < frameHead+frameTail || size > uint64(fileSize-at) {
		return nil, nil
	}
	b := make([]byte, size)
	if ok, err := readFull(f, b, at); !ok {
		return nil, err
	}
	sum := k.digest()
	body, tail := b[:size-frameTail], b[size-frameTail:]
	_, _ = sum.Write(body)
	if sum.Sum64() != binary.BigEndian.Uint64(tail) {
		return nil, nil
	}
	found := &foundFrame{seq: seq, size: int64(size)}
	pos := frameHead
	for range entries {
		e, n, err := parseEntry(body[pos:])
		if err != nil {
			return nil, err
		}
		pos += n
		found.logs = append(found.logs, e)
		found.at = append(found.at, uint64(at)+uint64(pos-len(e.Data)))
	}
	if pos != len(body) {
		return nil, fmt.Errorf("%w: a frame has more than its entries", errSeal)
	}
	return found, nil
}

// readFull reads all of b; false, and no error, where the file is shorter.
func readFull(f io.ReaderAt, b []byte, at int64) (bool, error) {
	n, err := f.ReadAt(b, at)
	if n == len(b) {
		return true, nil
	}
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	return false, err
}

// parseEntry reads an entry of a frame whose checksum is right.
func parseEntry(b []byte) (e raft.Log, n int, err error) {
	if len(b) < entryHead {
		return e, 0, fmt.Errorf("%w: a frame ends within an entry", errSeal)
	}
	e.Index = binary.BigEndian.Uint64(b)
	e.Term = binary.BigEndian.Uint64(b[8:])
	if at := int64(binary.BigEndian.Uint64(b[16:])); at != 0 {
		e.AppendedAt = time.Unix(0, at).UTC()
	}
	e.Type = raft.LogType(b[24])
	ext, data := uint64(binary.BigEndian.Uint32(b[25:])), uint64(binary.BigEndian.Uint32(b[29:]))
	if uint64(len(b)-entryHead) < ext+data {
		return e, 0, fmt.Errorf("%w: a frame ends within an entry", errSeal)
	}
	n = entryHead + int(ext)
	if ext > 0 {
		e.Extensions = b[entryHead:n:n]
	}
	if data > 0 {
		e.Data = b[n : n+int(data) : n+int(data)]
	}
	return e, n + int(data), nil
}

// position is a place between two frames.
type position struct{ segment, offset, seq uint64 }

// append adds a checksum: bbolt has none, and a wrong position would cut off
// what is behind the right one.
func (p position) append(b []byte) []byte {
	from := len(b)
	b = binary.BigEndian.AppendUint64(b, p.segment)
	b = binary.BigEndian.AppendUint64(b, p.offset)
	b = binary.BigEndian.AppendUint64(b, p.seq)
	return binary.BigEndian.AppendUint64(b, xxhash.Sum64(b[from:]))
}

func parsePosition(b []byte) (p position, err error) {
	if len(b) != 32 || xxhash.Sum64(b[:24]) != binary.BigEndian.Uint64(b[24:]) {
		return p, fmt.Errorf("%w: the position in the segments", errSeal)
	}
	return position{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}, nil
}
