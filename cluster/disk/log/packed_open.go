package log

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// contents is what a segment of a packed log does to the log: it deletes ranges of the
// entries before it, and adds entries.
type contents struct {
	gone   []indexes
	lines  []line
	last   uint64 // seq of its newest frame, or of the one before it if it has none
	lowest uint64 // the lowest segment that is needed
}

// load finds the segments that are needed and hands over what each of them does, oldest
// first. It makes the newest one the current one. end is a position that the log has
// reached at least: a log that ends before it is damaged.
func (s *packed) load(end position, each func(contents)) error {
	if err := s.segments.load(); err != nil {
		return err
	}
	all, err := s.needed()
	if err != nil {
		return err
	}
	newest := uint64(0)
	if n := len(all); n > 0 {
		newest = all[n-1].one.id
	}
	if s.seq < end.seq || newest < end.segment {
		return fmt.Errorf("%w: it ends with frame %d of segment %d, and had frame %d of segment %d", errSeal, s.seq, newest,
			end.seq, end.segment)
	}
	for _, one := range all {
		each(one.contents)
	}
	return errors.Join(s.drop(), s.dropIndexes())
}

type loaded struct {
	one *segment
	contents
}

// needed returns the segments that are needed, in order. It reads them from the newest
// to the oldest, since newer ones say which is the oldest.
func (s *packed) needed() ([]loaded, error) {
	files := make([]*segment, 0, len(s.files))
	for _, one := range s.files {
		files = append(files, one)
	}
	slices.SortFunc(files, func(a, b *segment) int { return cmp.Compare(b.id, a.id) })
	var all []loaded
	for i, one := range files {
		if one.id < s.low {
			break
		}
		l := loaded{one: one}
		var err error
		if i == 0 {
			err = s.loadNewest(&l)
		} else {
			err = s.loadFull(&l, all[i-1].one.first-1)
		}
		if err != nil {
			return nil, fmt.Errorf("segment %d: %w", one.id, err)
		}
		s.low = max(s.low, l.lowest)
		one.gone = l.gone
		all = append(all, l)
	}
	if n := len(all); n > 0 && all[n-1].one.id != s.low {
		return nil, fmt.Errorf("%w: segment %d is not there", errSeal, s.low)
	}
	slices.Reverse(all)
	return all, nil
}

func (l *loaded) header() error {
	h, ok, err := readHeader(l.one.f, l.one.id)
	if err == nil && (!ok || h.lowest == 0) {
		err = fmt.Errorf("%w: its first page", errSeal)
	}
	l.one.first, l.one.key, l.lowest = h.first, h.key, h.lowest
	return err
}

// loadNewest reads the segment that the log goes on in.
func (s *packed) loadNewest(l *loaded) error {
	if err := l.header(); err != nil {
		return err
	}
	at, newest, err := s.scan(l)
	if err == nil {
		err = s.nothingNewer(l.one, at, l.last+1)
	}
	if err == nil {
		err = s.secure(l.one, newest)
	}
	l.one.end, l.one.seq, s.seq, s.cur = at, l.last, l.last, l.one
	return err
}

// loadFull reads a segment with one behind it, before which it ended with frame last:
// its index, or where that is missing or damaged, all of it, and makes the index anew.
func (s *packed) loadFull(l *loaded, last uint64) error {
	if err := l.header(); err != nil {
		return err
	}
	l.one.end, l.one.seq = l.one.size, last
	ok, err := s.readIndex(l, last)
	if ok || err != nil {
		return err
	}
	if _, _, err = s.scan(l); err != nil {
		return err
	}
	if l.last != last {
		return fmt.Errorf("%w: frame %d is broken", errSeal, l.last+1)
	}
	return s.writeIndex(l.one, l.contents)
}

// scan reads the frames of a segment. It returns the place behind the last one that is
// whole, and that one.
func (s *packed) scan(l *loaded) (at int64, newest *packedFrame, err error) {
	at, l.last = segmentAlign, l.one.first-1
	for {
		f, next, err := s.frameFrom(l.one, at, l.last+1)
		if err != nil || f == nil {
			return at, newest, err
		}
		at, l.last, newest = next, f.seq, f
		if f.gone != nil {
			l.gone = append(l.gone, *f.gone)
			l.lowest = max(l.lowest, f.lowest)
			l.lines = slices.DeleteFunc(l.lines, func(one line) bool { return f.gone.lo <= one.index && one.index <= f.gone.hi })
			continue
		}
		l.lines = append(l.lines, f.lines...)
	}
}

// frameFrom returns the frame that begins with number base, on the page at a place or,
// where that is older or broken, on the page behind; and the place of the next one.
func (s *packed) frameFrom(one *segment, at int64, base uint64) (found *packedFrame, next int64, err error) {
	for _, page := range []int64{at, at + segmentAlign} {
		f, err := s.packedAt(one, page)
		if err != nil {
			return nil, 0, err
		}
		switch {
		case f == nil || f.base != base:
		case page > at && (f.size > segmentAlign || f.gone != nil || f.seq == base):
			// It is no second version of a frame that would be at this place.
		case found == nil || f.seq > found.seq:
			found, next = f, min(aligned(page+f.size), one.size)
		}
		if found != nil && (found.size > segmentAlign || found.gone != nil) {
			break
		}
	}
	return found, next, nil
}

// nothingNewer looks for a frame from a place on with a number above want: then the one
// that is broken there is no write that was cut off.
func (s *packed) nothingNewer(one *segment, at int64, want uint64) error {
	buf := make([]byte, writeStep)
	for from := at; from < one.size; from += int64(len(buf)) {
		n, err := one.f.ReadAt(buf[:min(int64(len(buf)), one.size-from)], from)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for p := 0; p+packedHead <= n; p += segmentAlign {
			if f, _, ok := one.key.parsePackedHead(buf[p:n]); ok && f.seq > want {
				return fmt.Errorf("%w: frame %d is broken", errSeal, want)
			}
		}
	}
	return nil
}

// secure puts the newest frame on the disk, as replayer.secure does. A file without
// frames may have a name that is not on the disk.
func (s *packed) secure(one *segment, f *packedFrame) error {
	if f == nil {
		return s.syncDir(s.dir)
	}
	b := make([]byte, f.size)
	if _, err := one.f.ReadAt(b, f.at); err != nil {
		return err
	}
	if _, err := one.f.WriteAt(b, f.at); err != nil {
		return err
	}
	return one.f.Sync()
}

// dropIndexes removes those of files that are not there.
func (s *packed) dropIndexes() error {
	found, err := filepath.Glob(filepath.Join(s.dir, indexPrefix+"*"))
	for _, path := range found {
		name := strings.TrimSuffix(filepath.Base(path), newSuffix)
		_, id, ok := parseSegment(name)
		if ok && name == filepath.Base(path) && s.files[id] != nil && s.files[id] != s.cur {
			continue
		}
		err = errors.Join(err, os.Remove(path))
	}
	return err
}
