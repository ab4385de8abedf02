package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/hashicorp/raft"
)

// packed is a log that is in its segments alone, under names of its own (log-N): there
// is no second copy, and bbolt has but the mark that it is so. Its state is what its
// frames say, in order: entries come, and ranges of indexes go. append and remove are
// called by one goroutine at a time; the other methods by any.
//
// A frame takes whole pages, or the write of one that is cut off could damage what is
// on the disk before it. So that small entries do not take a page each, the newest frame
// is open for more while it is smaller than a page: the next write repeats its entries
// and adds its own, in a frame that stands for both, on the page behind. The one after
// that goes to the first of these two pages again, as the frame there is not needed any
// more, and so on in turns. A write that is cut off leaves the frame before it whole, on
// the other page. Rejected: to go on in the middle of a page, which relies on a disk
// that never spoils the sector that it writes.
//
// The lowest segment that is needed stands in each frame that deletes, and in the first
// page of each segment. Files go only behind a frame that says so, and oldest first. A
// file below that is left of a crash; one from there on that is missing is damage.
type packed struct {
	segments
	open group
	left []*segment // that are full, and have no file of their index yet

	writeFile func(path string, b []byte, mode os.FileMode) error // of an index
}

// group is the newest frame while it is open for more entries.
type group struct {
	frame packedFrame
	first int64  // it is on the page here or on the one behind
	body  []byte // its entries; nil: none is open
}

func newPacked(dir string, o Options) *packed {
	return &packed{segments: segments{
		dir: dir, prefix: packedPrefix, size: o.segmentBytes, spares: spareSegments, full: o.GrowTo >= 0,
		open: o.openSegment, syncDir: o.syncDir,
	}, writeFile: o.writeFile}
}

// append writes entries, in one frame if they fit into a segment, and returns where they
// are, together with others that it had to write again. When it returns they are synced.
func (s *packed) append(logs []*raft.Log) ([]line, error) {
	var all []line
	for len(logs) > 0 {
		size, n := recordLen(logs[0]), 1
		for n < len(logs) && packedHead+size+recordLen(logs[n])+frameTail <= s.room() {
			size += recordLen(logs[n])
			n++
		}
		lines, err := s.write(logs[:n], size)
		if err != nil {
			return nil, err
		}
		all, logs = append(all, lines...), logs[n:]
	}
	if cap(s.buf) > 4*writeStep {
		s.buf = nil
	}
	return all, s.cur.sync()
}

// write writes one frame with entries of that size.
func (s *packed) write(logs []*raft.Log, size int) ([]line, error) {
	g := &s.open
	if other, ok := s.other(size); ok {
		g.frame.at = other
		g.frame.size += int64(size)
	} else {
		*g = group{frame: packedFrame{base: s.seq + 1, size: int64(packedHead + size + frameTail)}}
		if err := s.fit(g.frame.size); err != nil {
			return nil, err
		}
		g.frame.at, g.first = s.cur.end, s.cur.end
	}
	g.frame.seq = s.seq + 1
	if g.frame.size > segmentAlign {
		lines, err := s.stream(&g.frame, logs)
		*g = group{}
		return lines, err
	}
	for _, e := range logs {
		from := len(g.body)
		g.body = s.cur.key.record(g.body, e)
		g.frame.lines = append(g.frame.lines, line{
			index: e.Index, segment: uint32(s.cur.id), offset: uint32(packedHead + from), size: uint32(recordLen(e)),
		})
	}
	return s.openPage()
}

// other returns the page to which the open frame goes together with more entries; false
// where they do not fit, or there is none.
func (s *packed) other(size int) (int64, bool) {
	g := &s.open
	if g.body == nil || g.frame.size+int64(size) > segmentAlign {
		return 0, false
	}
	at := g.first
	if g.frame.at == at {
		at += segmentAlign
	}
	return at, at+segmentAlign <= s.cur.size
}

// openPage writes the open frame to its page.
func (s *packed) openPage() ([]line, error) {
	g := &s.open
	w := s.cur.key.beginPacked(s.buf, packedMagic, &g.frame)
	w.buf = append(w.buf, g.body...)
	lines := make([]line, len(g.frame.lines))
	for i, one := range g.frame.lines {
		from := one.offset
		_, _ = w.sum.Write(w.buf[from : from+recordHead])
		one.offset += uint32(g.frame.at)
		lines[i] = one
	}
	return lines, s.finish(w, &g.frame, g.frame.at)
}

// stream writes a frame of any size, in steps.
func (s *packed) stream(f *packedFrame, logs []*raft.Log) ([]line, error) {
	one, at := s.cur, f.at
	f.lines = make([]line, len(logs))
	w := one.key.beginPacked(s.buf, packedMagic, f)
	for i, e := range logs {
		f.lines[i] = line{
			index: e.Index, segment: uint32(one.id), offset: uint32(at) + uint32(len(w.buf)), size: uint32(recordLen(e)),
		}
		w.entry(e)
		if len(w.buf) < writeStep {
			continue
		}
		n := len(w.buf) &^ (segmentAlign - 1)
		one.dirty = true
		if _, err := one.f.WriteAt(w.buf[:n], at); err != nil {
			return nil, err
		}
		at += int64(n)
		w.cut(n)
	}
	return f.lines, s.finish(w, f, at)
}

// finish writes the rest of a frame, which goes to at.
func (s *packed) finish(w *packedWriter, f *packedFrame, at int64) error {
	w.end()
	end := aligned(f.at + f.size)
	w.pad(int(end - at))
	one := s.cur
	one.dirty = true
	s.buf = w.buf
	if _, err := one.f.WriteAt(w.buf, at); err != nil {
		return err
	}
	s.seq++
	s.mu.Lock()
	defer s.mu.Unlock()
	one.end, one.seq = end, s.seq
	return nil
}

// fit makes a fresh segment the current one if a frame has no room in the one that is.
func (s *packed) fit(size int64) error {
	if s.cur != nil && aligned(s.cur.end+size) <= s.cur.size {
		return nil
	}
	if full := s.cur; full != nil {
		defer func() { s.left = append(s.left, full) }()
	}
	return s.next(max(s.size, segmentAlign+aligned(size)))
}

// remove says that a range of indexes is deleted, and that no segment below the lowest
// is needed from then on; 0: none but the current one. When it returns that is synced.
func (s *packed) remove(gone indexes, lowest uint64) error {
	s.open = group{}
	f := packedFrame{size: packedHead + goneBody + frameTail}
	if err := s.fit(f.size); err != nil {
		return err
	}
	if lowest == 0 {
		lowest = s.cur.id
	}
	f.at, f.seq, f.base = s.cur.end, s.seq+1, s.seq+1
	w := s.cur.key.beginPacked(s.buf, goneMagic, &f)
	for _, n := range []uint64{gone.lo, gone.hi, lowest} {
		w.buf = binary.BigEndian.AppendUint64(w.buf, n)
	}
	_, _ = w.sum.Write(w.buf[packedHead:])
	if err := s.finish(w, &f, f.at); err != nil {
		return err
	}
	if err := s.cur.sync(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cur.gone = append(s.cur.gone, gone)
	s.low = max(s.low, lowest)
	return nil
}

// drop gives back the segments that are not needed, and their indexes.
func (s *packed) drop() error {
	s.mu.RLock()
	var ids []uint64
	for id := range s.files {
		if id < s.low {
			ids = append(ids, id)
		}
	}
	s.mu.RUnlock()
	for _, id := range ids {
		if err := os.Remove(s.name(indexPrefix, id)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return s.recycle(func(one *segment) bool { return one.id < s.low })
}

// fetch reads an entry.
func (s *packed) fetch(at line, to *raft.Log) error {
	p := place{uint64(at.segment), uint64(at.offset), at.size}
	b, key, err := s.readKeyed(p)
	if err != nil {
		return err
	}
	if err := key.parseRecord(b, at.index, to); err != nil {
		return fmt.Errorf("%w: segment %d at %d", err, p.segment, p.offset)
	}
	return nil
}

// takeSpares takes the spare files of another log in this directory.
func (s *packed) takeSpares(from *segments) {
	from.mu.Lock()
	defer from.mu.Unlock()
	s.spare, s.named, s.last, s.files = from.spare, from.named, from.last, map[uint64]*segment{}
	s.spares = from.spares
	from.spare = nil
}

// discard removes a log that was not taken into use.
func (s *packed) discard(back *segments) error {
	files := s.files
	err := s.close()
	for id, one := range files {
		err = errors.Join(err, os.Remove(one.path))
		if gone := os.Remove(s.name(indexPrefix, id)); !errors.Is(gone, os.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	back.mu.Lock()
	defer back.mu.Unlock()
	back.spare, back.named, back.last = s.spare, s.named, s.last
	return err
}

// adopt makes spare files of all segments of another log.
func (s *packed) adopt(from *segments) error {
	err := from.recycle(func(*segment) bool { return true })
	from.mu.Lock()
	spare, named := from.spare, from.named
	from.spare, from.cur = nil, nil
	from.mu.Unlock()
	s.mu.Lock()
	n := min(len(spare), max(0, s.spares-len(s.spare)))
	s.spare, s.named = append(s.spare, spare[:n]...), s.named || named
	s.mu.Unlock()
	for _, path := range spare[n:] {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}
