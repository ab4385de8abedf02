package log

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
)

// replay hands over the frames behind a position, oldest first, and makes the
// segment they end in the current one. Frames up to there are in bbolt, and
// seen was called for the data of all entries bbolt has. It is called once,
// after load. A log has a position before it has frames; from is nil where it has
// neither.
func (s *segments) replay(from *position, each func(id uint64, f *foundFrame) error) error {
	r := replayer{s: s, each: each}
	if from != nil {
		r.from, r.known = *from, true
	}
	s.seq, s.moved, s.last = r.from.seq, r.from.seq, max(s.last, r.from.segment)
	var behind []*segment
	for _, one := range s.files {
		if one.id >= r.from.segment {
			behind = append(behind, one)
		}
	}
	slices.SortFunc(behind, func(a, b *segment) int { return cmp.Compare(a.id, b.id) })
	for _, one := range behind {
		if err := r.one(one); err != nil {
			return fmt.Errorf("segment %d: %w", one.id, err)
		}
	}
	if err := r.secure(); err != nil {
		return fmt.Errorf("segment %d: %w", s.cur.id, err)
	}
	return nil
}

type replayer struct {
	s     *segments
	each  func(id uint64, f *foundFrame) error
	from  position
	known bool // from was written

	newest struct { // frame
		at, size int64 // size 0: none
		in       *segment
	}
}

func (r *replayer) one(one *segment) error {
	s := r.s
	data := one.end // of entries in bbolt
	h, ok, err := readHeader(one.f, one.id)
	if err != nil {
		return err
	}
	if !ok {
		// It has none where it is older than frames are.
		if r.known && one.id > r.from.segment || r.from.seq > 0 && one.id == r.from.segment {
			return fmt.Errorf("%w: its first page", errSeal)
		}
		return nil
	}
	if !r.known {
		return fmt.Errorf("%w: the position in the segments is lost", errSeal)
	}
	// A file that was made and not written to may be back after a crash, when
	// the log went on in the one before it.
	if one.id > r.from.segment && h.first > s.seq+1 {
		return fmt.Errorf("%w: frame %d before it is broken", errSeal, s.seq+1)
	}
	one.key = h.key
	at := int64(segmentAlign)
	if one.id == r.from.segment {
		at = int64(r.from.offset)
	}
	for {
		f, err := one.key.frameAt(one.f, at, s.size)
		if err != nil {
			return err
		}
		if f == nil {
			break
		}
		if f.seq != s.seq+1 {
			return fmt.Errorf("%w: frame %d follows frame %d", errSeal, f.seq, s.seq)
		}
		if err := r.each(one.id, f); err != nil {
			return err
		}
		s.seq, one.seq = f.seq, f.seq
		r.newest.in, r.newest.at, r.newest.size = one, at, f.size
		at = min(aligned(at+f.size), s.size)
	}
	if err := s.nothingBehind(one, at); err != nil {
		return err
	}
	if data > at {
		return fmt.Errorf("%w: entries have data behind the last frame", errSeal)
	}
	one.end = at
	if one.id == r.from.segment || one.seq > 0 {
		s.cur = one
	}
	return nil
}

// secure puts the newest frame on the disk: the process may have ended, or its
// sync may have failed, while it was in the system's memory only, where it was
// found now. After a failed sync the system takes it for written; so it is
// written once more. Those before it were synced before it began.
func (r *replayer) secure() error {
	n := r.newest
	if n.size == 0 {
		return nil
	}
	b := make([]byte, n.size)
	if _, err := n.in.f.ReadAt(b, n.at); err != nil {
		return err
	}
	if _, err := n.in.f.WriteAt(b, n.at); err != nil {
		return err
	}
	return n.in.f.Sync()
}

// nothingBehind looks for a frame behind a broken one: then that one was no
// write that was cut off.
func (s *segments) nothingBehind(one *segment, at int64) error {
	buf := make([]byte, writeStep)
	for from := at + segmentAlign; from < s.size; from += int64(len(buf)) {
		n, err := one.f.ReadAt(buf[:min(int64(len(buf)), s.size-from)], from)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		b := buf[:n]
		for p := 0; p+frameHead <= len(b); p += segmentAlign {
			if seq, _, _, ok := one.key.headAt(b[p:]); ok && seq > s.seq+1 {
				return fmt.Errorf("%w: frame %d is broken", errSeal, s.seq+1)
			}
		}
	}
	return nil
}
