package log

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

	"github.com/hashicorp/raft"
)

// segments are files of a fixed size beside bbolt. A packed log (packed.go) uses them in
// its own way. Of another, every write goes to the current one first, as a frame (see
// frame.go) and with one sync; bbolt gets the entries later, many at a time, but not the
// data of larger ones: that stays where it is. A B+tree rewrites its neighbours with
// every large value and syncs twice with every commit; here data is written once, in
// order, and a file that nothing refers to any more is written over by a later one, so
// that in the long run no block is ever allocated.
//
// append is called by one goroutine at a time; the other methods by any.
//
// bbolt gets 256 entries at a time, without data from 1 KiB on; the entry says where
// that is. A transaction for each write cost two more syncs and a multiple of the
// processor time; a B+tree rewrites up to four neighbours with each append of a large
// value, and is read through a memory map, whose pages count as the process's memory. A
// file that bbolt has all frames of and whose entries are deleted is written over later
// (spare-N, eight at most); deleting old entries costs bbolt small pages only. release
// waits for readers, and a write for none of them; a place in a file that was given
// back is ErrLogNotFound, if the entry is gone too.
type segments struct {
	dir    string
	prefix string // of the files' names
	size   int64  // of a file
	spares int    // as many unused files are kept
	full   bool   // new files have their size from the beginning
	open   func(path string) (segmentFile, error)
	// syncDir makes the names in the directory durable.
	syncDir func(dir string) error

	buf []byte // of append
	seq uint64 // of the newest frame

	mu    sync.RWMutex // never held while the disk works: append needs it
	files map[uint64]*segment
	cur   *segment // what append goes on with; also in files
	spare []string // paths
	named bool     // a file has become a spare one, and that name is not synced
	last  uint64   // the highest id ever used
	low   uint64   // of a packed log: the lowest id that is needed
	moved uint64   // frames up to it are in bbolt
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
	key   frameKey  // of its frames; known for those that may be written to
	end   int64     // where the next frame begins
	dirty bool      // written since the last sync
	top   uint64    // highest index of an entry that has its data here for bbolt
	seq   uint64    // of its newest frame
	size  int64     // of the file; more than that of others for an entry that fits into none
	first uint64    // in a packed log: the seq of its first frame
	gone  []indexes // indexes that frames of a packed log say are deleted

	reads sync.RWMutex // held for reading while data is read: no file is reused under a reader
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
	spillFrom   = 1 << 10 // data this large stays in its segment
	writeStep   = 1 << 20 // octets collected for one write
	// A frame takes whole pages: one that is cut off must not be able to damage
	// what an earlier one has put on the disk, and no page has to be read first.
	segmentAlign = 4 << 10

	livePrefix, sparePrefix = "data-", "spare-"
	packedPrefix            = "log-"   // of a packed log's segments
	indexPrefix             = "index-" // of the files with the index of one of them
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

// load finds the files in the directory. It opens all that are no spare ones; the
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
		case kind == s.prefix:
			f, openErr := s.open(path)
			if openErr != nil {
				return errors.Join(err, openErr)
			}
			s.files[id] = &segment{id: id, f: f, path: path, size: max(s.size, sizeOf(n))}
		case kind == indexPrefix && s.prefix == packedPrefix: // of a file that is there, or open removes it
		default: // of a conversion that was cut off, or that is done
			err = errors.Join(err, os.Remove(path))
		}
		s.last = max(s.last, id)
	}
	return err
}

const newSuffix = ".new"

func sizeOf(n os.DirEntry) int64 {
	if st, err := n.Info(); err == nil {
		return st.Size()
	}
	return 0
}

func parseSegment(name string) (kind string, id uint64, ok bool) {
	for _, kind = range []string{livePrefix, sparePrefix, packedPrefix, indexPrefix} {
		if rest, found := strings.CutPrefix(name, kind); found {
			id, err := strconv.ParseUint(rest, 16, 64)
			return kind, id, err == nil && rest == segmentNumber(id)
		}
	}
	return "", 0, false
}

func (s *segments) name(kind string, id uint64) string {
	return filepath.Join(s.dir, kind+segmentNumber(id))
}

func segmentNumber(id uint64) string { return fmt.Sprintf("%016x", id) }

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

// tidy makes spare files of those that hold nothing. All frames are in bbolt.
func (s *segments) tidy() error {
	return s.recycle(func(one *segment) bool { return one != s.cur && one.top == 0 })
}

// release gives back the files whose frames are in bbolt, as far as their data
// belongs to entries up to index only, which the log has deleted.
func (s *segments) release(index uint64) error {
	return s.recycle(func(one *segment) bool { return one != s.cur && one.top <= index && one.seq <= s.moved })
}

// recycle calls which with mu held.
func (s *segments) recycle(which func(*segment) bool) error {
	var gone []*segment
	s.mu.Lock()
	for _, one := range s.files {
		if which(one) {
			gone = append(gone, one)
			delete(s.files, one.id)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(gone, func(a, b *segment) int { return cmp.Compare(a.id, b.id) })
	var err error
	for _, one := range gone {
		err = errors.Join(err, s.makeSpare(one))
	}
	return err
}

// makeSpare makes a spare file of a segment that nobody finds any more, when its
// last reader is done.
func (s *segments) makeSpare(one *segment) error {
	one.reads.Lock()
	defer one.reads.Unlock()
	err := one.f.Close()
	s.mu.RLock()
	enough := len(s.spare) >= s.spares || one.size != s.size
	s.mu.RUnlock()
	if enough {
		return errors.Join(err, os.Remove(one.path))
	}
	to := s.name(sparePrefix, one.id)
	if err = errors.Join(err, os.Rename(one.path, to)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spare, s.named = append(s.spare, to), true
	return nil
}

// keepSpares sets how many unused files are kept, and removes those beyond it.
func (s *segments) keepSpares(n int) error {
	s.mu.Lock()
	s.spares = n
	keep := min(n, len(s.spare))
	gone := slices.Clone(s.spare[keep:])
	s.spare = s.spare[:keep]
	s.mu.Unlock()
	var err error
	for _, path := range gone {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// fill makes spare files ahead of time.
func (s *segments) fill(n int) error {
	for range n {
		s.last++
		path := s.name(sparePrefix, s.last)
		if err := s.make(path, s.size, true); err != nil {
			return err
		}
		s.spare = append(s.spare, path)
	}
	return s.syncDir(s.dir)
}

// make creates a file, full of zeros if it is made ahead of time. Later there is
// a write that waits, and it gets blocks only, which is at once: to write them
// twice is a sixth of what large messages cost, until files are reused. It has
// its place on the disk either way.
func (s *segments) make(path string, size int64, ahead bool) error {
	tmp := path + newSuffix
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if s.full && !ahead {
		err = allocate(f, size)
	}
	err = errors.Join(err, f.Close())
	if err == nil && s.full && ahead {
		err = grow(tmp, size)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}

// next makes a fresh segment of a size the current one. Data in the former one is
// synced first. It is called by append.
func (s *segments) next(size int64) error {
	if s.cur != nil {
		if err := s.cur.sync(); err != nil {
			return err
		}
	}
	id, from, err := s.unused(size)
	if err != nil {
		return err
	}
	h := firstPage{key: newFrameKey(), first: s.seq + 1}
	if s.prefix == packedPrefix {
		if s.cur == nil {
			s.low = id
		}
		h.lowest = s.low
	}
	if err := s.label(from, h.page(id)); err != nil {
		return err
	}
	path := s.name(s.prefix, id)
	if err := os.Rename(from, path); err != nil {
		return err
	}
	if err := s.syncDir(s.dir); err != nil {
		return err
	}
	f, err := s.open(path)
	if err != nil {
		return err
	}
	one := &segment{id: id, f: f, path: path, key: h.key, first: h.first, end: segmentAlign, size: size,
		seq: s.seq}
	if s.prefix == livePrefix {
		one.seq = 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[id] = one
	s.cur = one
	return nil
}

// unused draws the id of a fresh segment and finds a file for it: a spare one, or one
// that it makes.
func (s *segments) unused(size int64) (id uint64, path string, err error) {
	s.mu.Lock()
	named := s.named
	s.last++
	id = s.last
	if n := len(s.spare); n > 0 && size == s.size {
		path = s.spare[n-1]
		s.spare = s.spare[:n-1]
		s.named = false
	}
	s.mu.Unlock()
	if path == "" {
		path = s.name(sparePrefix, id)
		return id, path, s.make(path, size, false)
	}
	if named {
		// Or a power failure brings its former name back, with a first page that is not
		// of that name.
		return id, path, s.syncDir(s.dir)
	}
	return id, path, nil
}

// label gives a file its first page. It is on the disk before the file has the
// name of a segment: one without it is damaged.
func (s *segments) label(path string, page []byte) error {
	f, err := s.open(path)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(page, 0)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (one *segment) sync() error {
	if !one.dirty {
		return nil
	}
	one.dirty = false
	return one.f.Sync()
}

// room is how large a frame can be.
func (s *segments) room() int { return int(s.size) - segmentAlign }

// append writes entries as frames, as few as it can, and tells where the data
// of each lies, by add, in order. When it returns nil they are synced. Each of
// them fits into a frame.
func (s *segments) append(logs []*raft.Log, add func(i int, p place)) error {
	for from := 0; from < len(logs); {
		size, to := frameHead+frameTail, from
		for to < len(logs) && size+entryLen(logs[to]) <= s.room() {
			size += entryLen(logs[to])
			to++
		}
		if s.cur == nil || s.cur.end+int64(size) > s.size {
			if err := s.next(s.size); err != nil {
				return err
			}
		}
		if err := s.frame(logs[from:to], size, func(i int, p place) { add(from+i, p) }); err != nil {
			return err
		}
		from = to
	}
	if cap(s.buf) > 4*writeStep {
		s.buf = nil
	}
	return s.cur.sync()
}

// frame writes one frame of the given size to the current segment, in which
// there is room for it.
func (s *segments) frame(logs []*raft.Log, size int, add func(i int, p place)) error {
	one := s.cur
	start := one.end
	at := start // where buf goes
	w := one.key.begin(s.buf[:0], s.seq+1, len(logs), size)
	top := one.top
	for i, e := range logs {
		w.entry(e)
		add(i, place{one.id, uint64(at) + uint64(len(w.buf)-len(e.Data)), uint32(len(e.Data))})
		if len(e.Data) >= spillFrom {
			top = max(top, e.Index)
		}
		if len(w.buf) >= writeStep {
			n := len(w.buf) &^ (segmentAlign - 1)
			if _, err := one.f.WriteAt(w.buf[:n], at); err != nil {
				return err
			}
			at += int64(n)
			w.cut(n)
		}
	}
	w.end()
	end := aligned(start + int64(size))
	w.pad(int(min(end, s.size) - at))
	one.dirty = true
	s.buf = w.buf
	if _, err := one.f.WriteAt(w.buf, at); err != nil {
		return err
	}
	s.seq++
	s.mu.Lock()
	defer s.mu.Unlock()
	one.end, one.top, one.seq = end, top, s.seq
	return nil
}

// at is the place behind the newest frame.
func (s *segments) at() position {
	if s.cur == nil {
		return position{seq: s.seq}
	}
	return position{segment: s.cur.id, offset: uint64(s.cur.end), seq: s.seq}
}

func aligned(n int64) int64 { return (n + segmentAlign - 1) &^ (segmentAlign - 1) }

// errReused says that a segment is gone: the entries it held were deleted.
var errReused = errors.New("disk: the segment was given back")

// read returns the data at a place.
func (s *segments) read(p place) ([]byte, error) {
	data, _, err := s.readKeyed(p)
	return data, err
}

// readKeyed returns the key of the segment, too.
func (s *segments) readKeyed(p place) ([]byte, frameKey, error) {
	s.mu.RLock()
	one := s.files[p.segment]
	if one == nil {
		s.mu.RUnlock()
		return nil, frameKey{}, errReused
	}
	one.reads.RLock() // does not wait: the goroutine that locks it has taken it out of files
	s.mu.RUnlock()
	defer one.reads.RUnlock()
	if int64(p.size) > one.size {
		return nil, one.key, errSeal
	}
	data := make([]byte, p.size)
	if _, err := one.f.ReadAt(data, int64(p.offset)); err != nil {
		return nil, one.key, fmt.Errorf("segment %d at %d: %w", p.segment, p.offset, err)
	}
	return data, one.key, nil
}

// isMoved says that bbolt has the frames up to one.
func (s *segments) isMoved(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moved = max(s.moved, seq)
}

// bytes is what the files take, spare ones too.
func (s *segments) bytes() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return int64(len(s.files)+len(s.spare)) * s.size
}

func (s *segments) close() error {
	s.mu.Lock()
	all := s.files
	s.files, s.cur = nil, nil
	s.mu.Unlock()
	var err error
	for _, one := range all {
		one.reads.Lock()
		err = errors.Join(err, one.f.Close())
		one.reads.Unlock()
	}
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
