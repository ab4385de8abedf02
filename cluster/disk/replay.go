package disk

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
// after load.
func (s *segments) replay(from position, each func(id uint64, f *foundFrame) error) error {
	s.seq, s.moved, s.last = from.seq, from.seq, max(s.last, from.segment)
	var behind []*segment
	for _, one := range s.files {
		if one.id >= from.segment {
			behind = append(behind, one)
		}
	}
	slices.SortFunc(behind, func(a, b *segment) int { return cmp.Compare(a.id, b.id) })
	for _, one := range behind {
		start := int64(segmentAlign)
		if one.id == from.segment {
			start = int64(from.offset)
		}
		if err := s.replayOne(one, start, from, each); err != nil {
			return fmt.Errorf("segment %d: %w", one.id, err)
		}
	}
	return nil
}

func (s *segments) replayOne(one *segment, start int64, from position, each func(id uint64, f *foundFrame) error) error {
	data := one.end // of entries in bbolt
	key, ok, err := readKey(one.f, one.id)
	if err != nil {
		return err
	}
	if !ok {
		// It was made and not written to, or was written before there were frames.
		if from.seq > 0 && (data > 0 || one.id == from.segment) {
			return fmt.Errorf("%w: its first page", errSeal)
		}
		return nil
	}
	one.key = key
	at := start
	for {
		f, err := key.frameAt(one.f, at, s.size)
		if err != nil {
			return err
		}
		if f == nil {
			break
		}
		if f.seq != s.seq+1 {
			return fmt.Errorf("%w: frame %d follows frame %d", errSeal, f.seq, s.seq)
		}
		if err := each(one.id, f); err != nil {
			return err
		}
		s.seq, one.seq = f.seq, f.seq
		at = min(aligned(at+f.size), s.size)
	}
	if err := s.nothingBehind(one, at); err != nil {
		return err
	}
	if data > at {
		return fmt.Errorf("%w: entries have data behind the last frame", errSeal)
	}
	one.end = at
	if one.id == from.segment || one.seq > 0 {
		s.cur = one
	}
	return nil
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
