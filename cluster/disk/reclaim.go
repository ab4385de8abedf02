package disk

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"
)

// Bodies that were deleted take their place on the disk until three things have
// happened: the deletion is flushed, a compaction has carried it down to the
// table that refers to the body, and no table refers to the blob file any more or
// the file was rewritten without it. Pebble hurries none of them for the sake of
// space. Reclaim does, while the disk is short.
//
// While space is plenty, all that waits for Pebble's own reasons: memtables that are
// full, levels that are too large, a third of garbage in files older than a minute.
// While mail is refused for want of space nothing is written either, so no memtable
// would ever be full: Reclaim does the three steps on purpose, as long as SetShort
// holds.
//
// Compactions take room before they give any. A table holds references, not bodies, so
// that is little; pieces of 64 MiB of tables are compacted one after the other, each
// only if the disk has twice its size and a memtable's. The sizes that tombstones stand for
// are read from the tables' properties and so survive a restart. Garbage that a reader's
// snapshot keeps is tried again after five minutes, not before, and garbage in blob files too
// young is looked at every twenty seconds.
type reclaiming struct {
	short   atomic.Bool
	deleted atomic.Int64 // octets of bodies, by what was committed

	mu   sync.Mutex // one Reclaim at a time; guards what follows
	done int64      // of deleted, at the last Reclaim that did something
	left int64      // octets that tombstones still stood for behind it
	at   time.Time  // when it was
	ever bool
}

const (
	// reclaimStep is how much of the tables one compaction rewrites about: it
	// needs as much room before it gives any.
	reclaimStep = 64 << 20
	// reclaimAgain is when tombstones that a compaction could not get rid of,
	// because somebody was still reading what they delete, are tried once more.
	reclaimAgain = 5 * time.Minute
	// shortAgain is when the garbage of blob files that were too young is
	// looked at again.
	shortAgain = 20 * time.Second
)

// bodies are the bounds of the keys of bodies.
func bodies() (lo, hi []byte) { return []byte{'b'}, []byte{'b' + 1} }

// SetShort says whether the disk is short of space. While it is, blob files are
// rewritten for less garbage than else, and no compaction copies bodies for the
// sake of their order. A checkpoint that was kept at hand is let go.
func (s *Store) SetShort(short bool) {
	if was := s.reclaiming.short.Swap(short); short && !was {
		s.forget()
	}
}

// separation says from which share of garbage on blob files are rewritten, and to
// how many of them a table may refer before a compaction copies the bodies, for
// which there must be room twice.
func (s *Store) separation() (garbage float64, depth int) {
	if s.reclaiming.short.Load() {
		return 0.1, 1000
	}
	return 0.3, 10
}

// Reclaim makes the files smaller by the bodies that were deleted. It flushes, and
// compacts those tables that have deletions of bodies, piece by piece and each only
// if the disk has room for it. If less than Options.ReclaimFrom was deleted since the
// last time it does nothing, so it may be called again and again, while SetShort
// holds: without, partly used blob files stay as they are. Files go a moment after it
// has returned. It reports whether it has compacted anything, and ends early with ctx.
// Any goroutine may call it.
func (s *Store) Reclaim(ctx context.Context) (bool, error) {
	h, err := s.acquire()
	if err != nil {
		return false, err
	}
	defer h.release()
	r := &s.reclaiming
	r.mu.Lock()
	defer r.mu.Unlock()
	deleted := r.deleted.Load()
	retry := r.left >= s.o.ReclaimFrom && time.Since(r.at) >= reclaimAgain
	if r.ever && deleted-r.done < s.o.ReclaimFrom && !retry {
		return false, s.nudge(h)
	}
	if err := s.flush(h); err != nil {
		return false, err
	}
	worth, err := h.deletedSpace(ctx)
	if err != nil {
		return false, s.checked(err)
	}
	compacted := false
	if worth.octets >= s.o.ReclaimFrom &&
		(retry || worth.octets-r.left >= s.o.ReclaimFrom || deleted-r.done >= s.o.ReclaimFrom) {
		for _, p := range worth.pieces {
			if !s.room(h, p.size) {
				s.log.Warn("too little space to make more of it by a compaction",
					zap.Uint64("octets", p.size), zap.Int64("deleted", worth.octets))
				continue
			}
			if err := h.db.Compact(ctx, p.lo, p.hi, false); err != nil {
				return compacted, fmt.Errorf("disk: reclaim: %w", err)
			}
			compacted = true
		}
		if worth, err = h.deletedSpace(ctx); err != nil {
			return compacted, s.checked(err)
		}
		s.count.reclaims.Add(1)
	}
	r.done, r.left, r.at, r.ever = deleted, worth.octets, time.Now(), true
	return compacted, nil
}

// nudge has Pebble look for blob files to rewrite, which it does of itself behind
// a flush or a compaction only.
func (s *Store) nudge(h *handle) error {
	r := &s.reclaiming
	garbage, _ := s.separation()
	b := h.db.Metrics().BlobFiles
	if !r.short.Load() || time.Since(r.at) < shortAgain ||
		float64(b.ValueSize-b.ReferencedValueSize) <= garbage*float64(b.ValueSize) ||
		b.ValueSize-b.ReferencedValueSize < uint64(s.o.ReclaimFrom) {
		return nil
	}
	r.at = time.Now()
	return s.flush(h)
}

// room reports whether a compaction of tables of that size may begin: its output
// has its place before its input has gone, beside a flush.
func (s *Store) room(h *handle, size uint64) bool {
	u, err := s.fs.GetDiskUsage(s.dir.path(h.name))
	return err != nil || u.AvailBytes >= 2*size+uint64(s.o.MemTableSize)
}

// deletedSpace is what deletions in the tables stand for, and the pieces of the key
// range they are in.
type deletedSpace struct {
	octets int64
	pieces []piece
}

// piece is a range of keys, both ends included, and the size of the tables that
// have keys in it.
type piece struct {
	lo, hi []byte
	size   uint64
}

func (h *handle) deletedSpace(ctx context.Context) (deletedSpace, error) {
	lo, hi := bodies()
	levels, err := h.db.SSTables(pebble.WithProperties(), pebble.WithKeyRangeFilter(lo, hi))
	if err != nil || ctx.Err() != nil {
		return deletedSpace{}, cmp.Or(err, ctx.Err())
	}
	var all deletedSpace
	var tables []piece
	var cuts [][]byte
	for _, level := range levels {
		for _, t := range level {
			p := piece{t.Smallest.UserKey, t.Largest.UserKey, t.Size}
			tables = append(tables, p)
			if n := t.Properties.RawPointTombstoneValueSize; n > 0 {
				all.octets += int64(n)
				all.pieces = append(all.pieces, p.within(lo, hi))
			}
		}
		if len(level) > 0 { // what is lowest is largest
			cuts = cuts[:0]
			for _, t := range level {
				cuts = append(cuts, t.Largest.UserKey)
			}
		}
	}
	all.pieces = divide(unite(all.pieces), cuts, tables)
	return all, nil
}

// within cuts a piece to the range from lo to before hi.
func (p piece) within(lo, hi []byte) piece {
	if bytes.Compare(p.lo, lo) < 0 {
		p.lo = lo
	}
	if bytes.Compare(p.hi, hi) >= 0 {
		p.hi = hi
	}
	return p
}

// unite makes one of pieces that touch.
func unite(pieces []piece) []piece {
	slices.SortFunc(pieces, func(a, b piece) int { return bytes.Compare(a.lo, b.lo) })
	var out []piece
	for _, p := range pieces {
		if n := len(out); n > 0 && bytes.Compare(p.lo, out[n-1].hi) <= 0 {
			if bytes.Compare(p.hi, out[n-1].hi) > 0 {
				out[n-1].hi = p.hi
			}
			continue
		}
		out = append(out, p)
	}
	return out
}

// divide cuts pieces at the ends of tables, which ascend, so that each covers about
// reclaimStep of all tables, and says how much it covers.
func divide(pieces []piece, cuts [][]byte, tables []piece) []piece {
	var out []piece
	for _, p := range pieces {
		for _, cut := range cuts {
			if bytes.Compare(cut, p.lo) <= 0 || bytes.Compare(cut, p.hi) >= 0 {
				continue
			}
			if first := (piece{lo: p.lo, hi: cut}); covered(first, tables) >= reclaimStep {
				first.size = covered(first, tables)
				out = append(out, first)
				p.lo = append(bytes.Clone(cut), 0)
			}
		}
		p.hi = append(bytes.Clone(p.hi), 0) // a single key is no range for Pebble
		p.size = covered(p, tables)
		out = append(out, p)
	}
	return out
}

func covered(p piece, tables []piece) (n uint64) {
	for _, t := range tables {
		if bytes.Compare(t.lo, p.hi) <= 0 && bytes.Compare(t.hi, p.lo) >= 0 {
			n += t.size
		}
	}
	return n
}
