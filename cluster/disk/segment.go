package disk

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// segments keeps the data of the log's larger entries in files of a fixed size
// beside bbolt, which holds the entries themselves and says where their data
// is. A B+tree rewrites its neighbours with every large value; here data is
// written once, in order, and a file that nothing refers to any more is written
// over by a later one, so that in the long run no block is ever allocated.
//
// write is called by one goroutine at a time; the other methods by any.
type segments struct {
	dir    string
	size   int64 // of a file
	spares int   // as many unused files are kept
	zeros  bool  // new files are filled, so that no later write allocates
	open   func(path string) (segmentFile, error)

	buf []byte // of write

	mu    sync.RWMutex // held for reading while data is read: no file is reused under a reader
	files map[uint64]*segment
	cur   *segment // what write goes on with; also in files
	spare []string // paths
	last  uint64   // the highest id ever used
}

// segmentFile is what segments need of an *os.File.
type segmentFile interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Close() error
}

type segment struct {
	id    uint64
	f     segmentFile
	path  string
	end   int64  // where the next write begins
	dirty bool   // written since the last sync
	top   uint64 // highest index of an entry whose data was ever put here
}

// place is where an entry's data lies.
type place struct {
	segment uint64
	offset  uint64
	size    uint32
}

const (
	placeSize   = 20
	segmentSize = 16 << 20
	spillFrom   = 1 << 10 // data this large goes to a segment
	writeStep   = 1 << 20 // octets collected for one write
	// A write begins on a page of its own: one that is cut off must not be able
	// to damage what an earlier one has put on the disk.
	segmentAlign = 4 << 10

	livePrefix, sparePrefix = "data-", "spare-"
)

func (p place) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, p.segment)
	b = binary.BigEndian.AppendUint64(b, p.offset)
	return binary.BigEndian.AppendUint32(b, p.size)
}

func parsePlace(b []byte) place {
	return place{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint32(b[16:])}
}

func openSegment(path string) (segmentFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return dataFile{f}, nil
}

// dataFile syncs what is needed to read the data again, and no time stamps.
type dataFile struct{ *os.File }

func (f dataFile) Sync() error { return datasync(f.File) }

// load finds the files in the directory. What is not a spare one is opened; the
// caller tells by seen which data is in use, and then calls tidy.
func (s *segments) load() error {
	s.files = make(map[uint64]*segment)
	names, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		name, unfinished := strings.CutSuffix(n.Name(), newSuffix)
		kind, id, ok := parseSegment(name)
		path := filepath.Join(s.dir, n.Name())
		switch {
		case !ok:
			continue
		case unfinished:
			err = errors.Join(err, os.Remove(path))
			continue
		case kind == sparePrefix:
			s.spare = append(s.spare, path)
		default:
			f, openErr := s.open(path)
			if openErr != nil {
				return errors.Join(err, openErr)
			}
			s.files[id] = &segment{id: id, f: f, path: path}
		}
		s.last = max(s.last, id)
	}
	return err
}

const newSuffix = ".new"

func parseSegment(name string) (kind string, id uint64, ok bool) {
	for _, kind = range []string{livePrefix, sparePrefix} {
		if rest, found := strings.CutPrefix(name, kind); found {
			id, err := strconv.ParseUint(rest, 16, 64)
			return kind, id, err == nil && len(rest) == 16
		}
	}
	return "", 0, false
}

func (s *segments) name(kind string, id uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%s%016x", kind, id))
}

// seen says that an entry in the log has its data at a place.
func (s *segments) seen(p place, index uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.files[p.segment]
	if one == nil {
		return fmt.Errorf("%w: entry %d has its data in segment %d, which is not there", errSeal, index, p.segment)
	}
	one.end = max(one.end, int64(p.offset)+int64(p.size))
	one.top = max(one.top, index)
	return nil
}

// tidy makes spare files of those that hold nothing, and goes on with the
// newest of the others.
func (s *segments) tidy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var newest *segment
	for _, one := range s.files {
		if one.top > 0 && (newest == nil || one.id > newest.id) {
			newest = one
		}
	}
	if s.cur = newest; newest != nil {
		newest.end = aligned(newest.end)
	}
	return s.recycle(func(one *segment) bool { return one.top == 0 })
}

// release gives back the files whose data belongs to entries up to index only,
// which the log has deleted.
func (s *segments) release(index uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recycle(func(one *segment) bool { return one != s.cur && one.top <= index })
}

// recycle needs mu.
func (s *segments) recycle(which func(*segment) bool) error {
	var gone []*segment
	for _, one := range s.files {
		if which(one) {
			gone = append(gone, one)
		}
	}
	slices.SortFunc(gone, func(a, b *segment) int { return cmp.Compare(a.id, b.id) })
	var err error
	for _, one := range gone {
		delete(s.files, one.id)
		err = errors.Join(err, one.f.Close())
		if len(s.spare) >= s.spares {
			err = errors.Join(err, os.Remove(one.path))
			continue
		}
		to := s.name(sparePrefix, one.id)
		err = errors.Join(err, os.Rename(one.path, to))
		s.spare = append(s.spare, to)
	}
	return err
}

// fill makes spare files ahead of time.
func (s *segments) fill(n int) error {
	for range n {
		s.last++
		path := s.name(sparePrefix, s.last)
		if err := s.make(path); err != nil {
			return err
		}
		s.spare = append(s.spare, path)
	}
	return syncPath(s.dir)
}

// make creates a file of the full size, or an empty one.
func (s *segments) make(path string) error {
	tmp := path + newSuffix
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if s.zeros {
		if err := grow(tmp, s.size); err != nil {
			return err
		}
	}
	return os.Rename(tmp, path)
}

// next makes a fresh segment the current one. What the former one got is synced
// first. It is called by write.
func (s *segments) next() error {
	if s.cur != nil {
		if err := s.cur.sync(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	path := s.name(livePrefix, s.last)
	var err error
	if n := len(s.spare); n > 0 {
		err = os.Rename(s.spare[n-1], path)
		s.spare = s.spare[:n-1]
	} else {
		err = s.make(path)
	}
	if err == nil {
		err = syncPath(s.dir)
	}
	if err != nil {
		return err
	}
	f, err := s.open(path)
	if err != nil {
		return err
	}
	s.cur = &segment{id: s.last, f: f, path: path}
	s.files[s.last] = s.cur
	return nil
}

func (one *segment) sync() error {
	if !one.dirty {
		return nil
	}
	one.dirty = false
	return one.f.Sync()
}

// fits reports whether data goes to a segment at all.
func (s *segments) fits(data []byte) bool {
	return len(data) >= spillFrom && int64(len(data)) <= s.size
}

// write puts the data of entries on the disk and tells where it lies, by add,
// in order. When it returns nil the data is synced.
func (s *segments) write(data [][]byte, indexes []uint64, add func(i int, p place)) error {
	if len(data) == 0 {
		return nil
	}
	from := int64(-1) // where buf goes
	flush := func() error {
		if len(s.buf) == 0 {
			return nil
		}
		_, err := s.cur.f.WriteAt(s.buf, from)
		s.cur.dirty = true
		s.buf, from = s.buf[:0], -1
		return err
	}
	for i, d := range data {
		if s.cur == nil || s.cur.end+int64(len(d)) > s.size {
			if err := flush(); err != nil {
				return err
			}
			if err := s.next(); err != nil {
				return err
			}
		}
		one := s.cur
		if from < 0 {
			from = one.end
		}
		add(i, place{one.id, uint64(one.end), uint32(len(d))})
		s.buf = append(s.buf, d...)
		s.mu.Lock()
		one.end += int64(len(d))
		one.top = max(one.top, indexes[i])
		s.mu.Unlock()
		if len(s.buf) >= writeStep {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	s.cur.end = aligned(s.cur.end)
	if cap(s.buf) > 4*writeStep {
		s.buf = nil
	}
	return s.cur.sync()
}

func aligned(n int64) int64 { return (n + segmentAlign - 1) &^ (segmentAlign - 1) }

// errReused says that a segment is gone: the entries it held were deleted.
var errReused = errors.New("disk: the segment was given back")

// read returns the data at a place.
func (s *segments) read(p place) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	one := s.files[p.segment]
	if one == nil {
		return nil, errReused
	}
	if int64(p.size) > s.size {
		return nil, errSeal
	}
	data := make([]byte, p.size)
	if _, err := one.f.ReadAt(data, int64(p.offset)); err != nil {
		return nil, fmt.Errorf("segment %d at %d: %w", p.segment, p.offset, err)
	}
	return data, nil
}

// bytes is what the files take, spare ones too.
func (s *segments) bytes() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return int64(len(s.files)+len(s.spare)) * s.size
}

func (s *segments) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for _, one := range s.files {
		err = errors.Join(err, one.f.Close())
	}
	s.files, s.cur = nil, nil
	return err
}

// syncPath makes the names in a directory durable.
func syncPath(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
