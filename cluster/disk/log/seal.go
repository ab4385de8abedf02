package log

import (
	"encoding/binary"
	"errors"

	"github.com/cespare/xxhash/v2"
	"github.com/hashicorp/raft"
)

// entrySize is about what an entry takes in the file.
func entrySize(e *raft.Log) uint32 { return uint32(len(e.Data) + len(e.Extensions) + entryRoom) }

// entryRoom is what the encoding adds: names and numbers of the fields.
const entryRoom = 64

const sealSize = 8

// spilledType marks the type of an entry whose data is in a segment, at the
// place that stands between its extensions and its checksum.
const spilledType raft.LogType = 0x80

// seal copies an entry into the scratch, with a checksum behind the extensions:
// bbolt has none for its data, and a flipped bit must neither be applied nor
// spread. Data that has a place is left out.
//
// The checksum is put on and taken off in the store; neither raft nor another member
// sees it.
func (l *Log) seal(e *raft.Log, p place, sum uint64) {
	c := *e
	from := len(l.sums)
	l.sums = append(l.sums, e.Extensions...)
	if p.segment > 0 {
		c.Data = nil
		c.Type |= spilledType
		l.sums = p.append(l.sums)
	}
	l.sums = binary.BigEndian.AppendUint64(l.sums, sum)
	c.Extensions = l.sums[from:len(l.sums):len(l.sums)]
	l.scratch = append(l.scratch, c)
}

// sealed returns what seal has copied.
func (l *Log) sealed() []*raft.Log {
	for i := range l.scratch {
		l.ptrs = append(l.ptrs, &l.scratch[i])
	}
	return l.ptrs
}

func (l *Log) forgetScratch() {
	clear(l.scratch)
	clear(l.ptrs)
	l.scratch, l.ptrs, l.sums = l.scratch[:0], l.ptrs[:0], l.sums[:0]
}

var errSeal = errors.New("damaged entry")

// placeOf says where the data of an entry is that comes from bbolt; unseal
// takes the place off.
func placeOf(e *raft.Log) (p place, spilled bool, err error) {
	if e.Type&spilledType == 0 {
		return p, false, nil
	}
	n := len(e.Extensions) - sealSize - placeSize
	if n < 0 || len(e.Data) > 0 {
		return p, false, errSeal
	}
	return parsePlace(e.Extensions[n:]), true, nil
}

// unseal checks an entry that has its data and takes checksum and place off.
func unseal(e *raft.Log, index uint64) error {
	n := len(e.Extensions) - sealSize
	if n < 0 || e.Index != index {
		return errSeal
	}
	sum := binary.BigEndian.Uint64(e.Extensions[n:])
	if e.Type&spilledType != 0 {
		if n -= placeSize; n < 0 {
			return errSeal
		}
		e.Type &^= spilledType
	}
	if e.Extensions = e.Extensions[:n:n]; n == 0 {
		e.Extensions = nil
	}
	if checksum(e) != sum {
		return errSeal
	}
	return nil
}

func checksum(e *raft.Log) uint64 {
	var head [25]byte
	binary.BigEndian.PutUint64(head[:], e.Index)
	binary.BigEndian.PutUint64(head[8:], e.Term)
	binary.BigEndian.PutUint64(head[16:], uint64(len(e.Extensions)))
	head[24] = byte(e.Type)
	var d xxhash.Digest
	d.Reset()
	_, _ = d.Write(head[:])
	_, _ = d.Write(e.Extensions)
	_, _ = d.Write(e.Data)
	return d.Sum64()
}
