package spool

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// History of finished messages goes by windows: the messages whose ids are of one
// minute. Ids are in the order of time, so the records of a window lie together, and one
// deletion of a range takes them away, whatever their number.
//
//   - A message that is finished within windowLate of its window's end is on time: the
//     window counts it, and its references (kRefs) are deleted.
//   - Any other is late: it was deferred for long, or was in a mailbox. It is in the expiry
//     index (kExpiry), as all messages are before cluster version 2, and its references
//     stay, marked, until its history goes. So an id that has references has a history of
//     its own time.
//   - A window is due when each message that it counts is due. Sweep closes it, so that what
//     is finished later is late, and deletes the ranges between the ids that have references.
//
// The counters of history are the sums of the windows and of the expiry index.
const (
	windowMs   = 60 * 1000
	windowLate = 10 * 60 * 1000
	// maxSurvivors is between how many messages that stay ranges of a window are deleted.
	// Sweep looks at each message of a window that has more.
	maxSurvivors = 128
	// windowsPerSweep is how many windows one Sweep takes at most.
	windowsPerSweep = 16
)

// windows is what Apply keeps of them in memory. They are written as the counters are.
type windows struct {
	all    map[uint64]*pb.Window
	order  []uint64 // ascending; history may be set to last for years
	dirty  map[uint64]struct{}
	closed uint64 // windows before it take nothing
}

func (s *windows) load(r Reader) error {
	*s = windows{all: map[uint64]*pb.Window{}, dirty: map[uint64]struct{}{}}
	v, err := r.Get(key(kMeta, "swept"))
	if err != nil {
		return err
	}
	if len(v) == 8 {
		s.closed = binary.BigEndian.Uint64(v)
	}
	var bad error
	err = r.Scan([]byte{kWindow}, []byte{kWindow + 1}, func(k, v []byte) bool {
		one := new(pb.Window)
		if bad = proto.Unmarshal(v, one); bad != nil || len(k) != sizeNumber {
			bad = fmt.Errorf("record %q is corrupt: %w", k, bad)
			return false
		}
		s.all[numberOf(k)] = one
		s.order = append(s.order, numberOf(k))
		return true
	})
	if bad != nil {
		return bad
	}
	return err
}

func (s *windows) flush(b Batch) error {
	for _, w := range slices.Sorted(maps.Keys(s.dirty)) {
		one := s.all[w]
		if one == nil {
			if err := b.Delete(keyWindow(w)); err != nil {
				return err
			}
			continue
		}
		v, err := marshal.Marshal(one)
		if err != nil {
			return err
		}
		if err := b.Set(keyWindow(w), v); err != nil {
			return err
		}
	}
	clear(s.dirty)
	return nil
}

// take returns the window with a number, to be changed.
func (s *windows) take(w uint64) *pb.Window {
	one := s.all[w]
	if one == nil {
		one = &pb.Window{}
		s.all[w] = one
		at, _ := slices.BinarySearch(s.order, w)
		s.order = slices.Insert(s.order, at, w)
	}
	s.dirty[w] = struct{}{}
	return one
}

// oldest returns the first window; false where there is none.
func (s *windows) oldest() (w uint64, ok bool) {
	if len(s.order) == 0 {
		return 0, false
	}
	return s.order[0], true
}

// drop forgets the first window.
func (s *windows) drop() {
	w := s.order[0]
	s.order = s.order[1:]
	delete(s.all, w)
	s.dirty[w] = struct{}{}
}

// windowOf is the window of a time in milliseconds.
func windowOf(ms int64) uint64 { return uint64(max(ms, 0)) / windowMs }

// windowDone is when nothing is on time for a window any more.
func windowDone(w uint64) int64 { return int64(w+1)*windowMs + windowLate }

// onTime returns the window that takes a message which is finished now; false: it is late.
// An id from the future is late too, as its window would be there for too long.
func (t *tx) onTime(id ID) (uint64, bool) {
	w := id.Time() / windowMs
	ok := t.at(2) && w >= t.windows.closed && t.clock < windowDone(w) && w <= windowOf(t.clock+windowLate)
	return w, ok
}

// finished keeps the history of a message, which has size octets, for the configured
// time. Nothing needs the message any more, and its references are deleted.
func (t *tx) finished(id ID, size uint64) {
	t.count(CountHistoryMessages, 1)
	t.count(CountHistoryBytes, int64(size))
	w, ok := t.onTime(id)
	if !ok {
		if t.at(2) {
			t.write(keyID(kRefs, id), &pb.Refs{Late: true})
		}
		t.set(keyExpiry(t.clock, id), appendUvarint(size))
		return
	}
	one := t.windows.take(w)
	one.Count++
	one.Bytes += size
}

// closeWindows makes what is finished in a window before w late.
func (t *tx) closeWindows(w uint64) {
	if w > t.windows.closed {
		t.windows.closed = w
		t.set(key(kMeta, "swept"), binary.BigEndian.AppendUint64(nil, w))
	}
}

// sweepHistory deletes the history of messages that were finished for long, and of the
// oldest ones where there is more than the bound.
func (t *tx) sweepHistory(limit int, ages bool, res *pb.Result) {
	keep, bound := historyBounds(t.settings, VersionOf(t.cluster))
	if !t.at(2) {
		t.sweepExpiry(limit, res, func(done int64) bool {
			return ages && done < t.clock-keep || t.counters[CountHistoryBytes] > bound && done < t.clock-minHistoryMs
		})
		return
	}
	first, any := t.windows.oldest()
	t.sweepExpiry(limit, res, func(done int64) bool {
		over := t.counters[CountHistoryBytes] > bound && done < t.clock-minHistoryMs
		return ages && done < t.clock-keep || over && (!any || done <= windowDone(first))
	})
	for n := 0; ; n++ {
		w, ok := t.windows.oldest()
		if !ok || t.err != nil {
			return
		}
		old := ages && windowDone(w)+keep <= t.clock
		over := t.counters[CountHistoryBytes] > bound && windowDone(w)+minHistoryMs <= t.clock
		if !old && !over {
			return
		}
		if n == windowsPerSweep || int(res.Count) >= limit || !t.sweepWindow(w, limit-int(res.Count), res) {
			res.Count = max(res.Count, uint32(limit)) // more is due, however little was deleted
			return
		}
	}
}

// sweepExpiry deletes the history of messages in the expiry index that are due. From
// cluster version 2 on it ends at the first that is not.
func (t *tx) sweepExpiry(limit int, res *pb.Result, due func(done int64) bool) {
	late, end := t.at(2), false
	t.scan([]byte{kExpiry}, limit, func(k, v []byte) {
		if end || !due(int64(numberOf(k))) {
			end = late
			return
		}
		id, _ := toID(behindNumber(k))
		t.scan(keyID(kHistory, id), 0, func(h, _ []byte) { t.del(h) })
		t.del(keyID(kMessage, id))
		if late {
			t.del(keyID(kRefs, id))
		}
		t.del(k)
		size, _ := binary.Uvarint(v)
		t.count(CountHistoryMessages, -1)
		t.count(CountHistoryBytes, -int64(size))
		res.Count++
	})
}

// sweepWindow deletes what the oldest window counts, and reports whether nothing is left
// of it.
func (t *tx) sweepWindow(w uint64, limit int, res *pb.Result) bool {
	t.closeWindows(w + 1)
	lo, hi := windowBounds(w)
	one := t.windows.all[w]
	if len(one.Cursor) == 0 {
		survivors := t.referenced(lo, hi, maxSurvivors+1)
		if len(survivors) <= maxSurvivors {
			t.sweepBetween(lo, hi, survivors)
			t.dropOldest(one, res)
			return true
		}
	}
	if len(one.Cursor) > 0 {
		lo = one.Cursor
	}
	next := t.sweepEach(one, lo, hi, limit, res)
	if next == nil {
		t.dropOldest(one, res)
		return true
	}
	one.Cursor = next
	t.windows.dirty[w] = struct{}{}
	t.sums.write('w', keyWindow(w), next)
	return false
}

// windowBounds are the first id of a window, and the first behind it, as octets; nil is
// behind all ids.
func windowBounds(w uint64) (lo, hi []byte) {
	bound := func(w uint64) []byte {
		var id ID
		if id.SetTime(w*windowMs) != nil {
			return nil
		}
		return id[:6]
	}
	return bound(w), bound(w + 1)
}

// span is the keys of a kind in a range of ids.
func span(kind byte, lo, hi []byte) (from, to []byte) {
	from, to = append([]byte{kind}, lo...), []byte{kind + 1}
	if hi != nil {
		to = append([]byte{kind}, hi...)
	}
	return from, to
}

// referenced returns the first max ids in a range that have references.
func (t *tx) referenced(lo, hi []byte, max int) (ids [][]byte) {
	if t.err != nil {
		return nil
	}
	from, to := span(kRefs, lo, hi)
	t.fail(t.b.Scan(from, to, func(k, _ []byte) bool {
		ids = append(ids, slices.Clone(k[1:]))
		return len(ids) < max
	}))
	return ids
}

// sweepBetween deletes messages and history in a range of ids, but of those that stay.
func (t *tx) sweepBetween(lo, hi []byte, stay [][]byte) {
	for _, kind := range []byte{kHistory, kMessage} {
		from := lo
		for _, id := range stay {
			t.delRange(kind, from, id)
			if from = after(id); from == nil {
				break
			}
		}
		if from != nil {
			t.delRange(kind, from, hi)
		}
	}
}

// sweepEach looks at up to limit messages in a range of a window's ids and deletes those
// without references. It returns where to go on; nil: it is through.
func (t *tx) sweepEach(one *pb.Window, lo, hi []byte, limit int, res *pb.Result) (next []byte) {
	if t.err != nil {
		return nil
	}
	var ids []ID
	from, to := span(kMessage, lo, hi)
	t.fail(t.b.Scan(from, to, func(k, _ []byte) bool {
		id, _ := toID(k[1:])
		ids = append(ids, id)
		return len(ids) < limit
	}))
	for _, id := range ids {
		if t.get(keyID(kRefs, id)) == nil {
			t.scan(keyID(kHistory, id), 0, func(h, _ []byte) { t.del(h) })
			t.del(keyID(kMessage, id))
			t.uncount(one, res)
		}
	}
	if len(ids) < limit {
		return nil
	}
	return after(ids[len(ids)-1][:])
}

// uncount takes a message and its share of the octets out of a window.
func (t *tx) uncount(one *pb.Window, res *pb.Result) {
	if one.Count == 0 {
		return
	}
	share := one.Bytes / one.Count
	one.Count, one.Bytes = one.Count-1, one.Bytes-share
	t.count(CountHistoryMessages, -1)
	t.count(CountHistoryBytes, -int64(share))
	res.Count++
}

// dropOldest forgets the first window, whose history is gone.
func (t *tx) dropOldest(one *pb.Window, res *pb.Result) {
	t.count(CountHistoryMessages, -int64(one.Count))
	t.count(CountHistoryBytes, -int64(one.Bytes))
	res.Count += uint32(min(one.Count, 1<<31))
	t.windows.drop()
}
