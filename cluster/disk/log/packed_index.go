package log

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"syscall"

	"github.com/cespare/xxhash/v2"
)

// The index of a segment that is full is a file beside it, so that a start need not read
// the segment. It has the segment's key, and is not synced: where it is missing or
// damaged the next start reads the segment, and makes it anew. It is written when there
// is another segment behind, which the log never goes back from.
//
//	magic 4, id 8, key 16, first seq 8, last seq 8, lowest segment that is needed 8,
//	ranges that are deleted 4, entries 4; for each range 16: lo, hi; for each entry 16: index, offset, size;
//	checksum of all 8
const (
	indexMagic = "rlI1"
	indexHead  = 4 + 8 + 16 + 8
	indexFixed = indexHead + 8 + 8 + 4 + 4
)

func (one *segment) indexHead() []byte {
	b := append(make([]byte, 0, indexFixed), indexMagic...)
	b = binary.BigEndian.AppendUint64(b, one.id)
	b = append(b, one.key[:]...)
	return binary.BigEndian.AppendUint64(b, one.first)
}

// writeIndex makes the index of a segment.
func (s *packed) writeIndex(one *segment, c contents) error {
	b := one.indexHead()
	b = binary.BigEndian.AppendUint64(b, c.last)
	b = binary.BigEndian.AppendUint64(b, c.lowest)
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.gone)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.lines)))
	for _, r := range c.gone {
		b = binary.BigEndian.AppendUint64(b, r.lo)
		b = binary.BigEndian.AppendUint64(b, r.hi)
	}
	for _, l := range c.lines {
		b = binary.BigEndian.AppendUint64(b, l.index)
		b = binary.BigEndian.AppendUint32(b, l.offset)
		b = binary.BigEndian.AppendUint32(b, l.size)
	}
	b = binary.BigEndian.AppendUint64(b, xxhash.Sum64(b))
	path := s.name(indexPrefix, one.id)
	err := s.writeFile(path+newSuffix, b, 0o600)
	if errors.Is(err, syscall.ENOSPC) { // a start is slower without
		if err = os.Remove(path + newSuffix); errors.Is(err, os.ErrNotExist) { // there was no room for its name
			return nil
		}
		return err
	} else if err != nil {
		return err
	}
	return os.Rename(path+newSuffix, path)
}

// readIndex reads the index of a segment; false where there is no whole one that ends
// with frame last.
func (s *packed) readIndex(l *loaded, last uint64) (bool, error) {
	b, err := os.ReadFile(s.name(indexPrefix, l.one.id))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	n := len(b) - 8
	if n < indexFixed || xxhash.Sum64(b[:n]) != binary.BigEndian.Uint64(b[n:]) ||
		!bytes.Equal(b[:indexHead], l.one.indexHead()) {
		return false, nil
	}
	c := contents{last: binary.BigEndian.Uint64(b[indexHead:]), lowest: binary.BigEndian.Uint64(b[indexHead+8:])}
	gone, lines := binary.BigEndian.Uint32(b[indexHead+16:]), binary.BigEndian.Uint32(b[indexHead+20:])
	b = b[indexFixed:n]
	if c.last != last || uint64(len(b)) != 16*(uint64(gone)+uint64(lines)) {
		return false, nil
	}
	for range gone {
		c.gone = append(c.gone, indexes{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])})
		b = b[16:]
	}
	c.lines = make([]line, lines)
	for i := range c.lines {
		c.lines[i] = line{
			index: binary.BigEndian.Uint64(b), segment: uint32(l.one.id),
			offset: binary.BigEndian.Uint32(b[8:]), size: binary.BigEndian.Uint32(b[12:]),
		}
		b = b[16:]
	}
	l.contents = c
	return true, nil
}
