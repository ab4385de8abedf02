package log

import (
	"errors"
	"fmt"
	"sort"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// tail is the end of the log that is in the segments only: bbolt does not have
// it yet. Its entries' indexes rise.
//
// The order is: frame, sync (promised) … entries in bbolt, synced; position in bbolt,
// synced; only then the tail is forgotten, and only then is anything of it deleted. At
// start the frames behind the position are read again (replay.go) and given to bbolt:
// the same entries, if it had got them. So a crash between any two steps changes
// nothing, and a deletion never comes undone. An orderly stop leaves no tail.
//
// Rejected: moving the tail on a goroutine of its own, which saves a hiccup of about
// two milliseconds every 256 entries, and makes every deletion a race.
type tail struct {
	all   []waiting
	bytes int64 // of their data; small data may keep a large buffer in memory
}

// waiting is an entry of the tail.
type waiting struct {
	e   raft.Log // without data that has a place
	p   place
	sum uint64 // of the whole entry
}

const (
	// A transaction of bbolt costs about two milliseconds at that many, and one
	// for every few entries costs more than all else that a write does.
	tailEntries = 256
	tailBytes   = 8 << 20

	tailKey = "tail" // in the stable store: the position up to which bbolt has the frames
)

func (t *tail) add(e *raft.Log, p place) {
	w := waiting{e: *e, p: p, sum: checksum(e)}
	t.bytes += int64(len(e.Data))
	if len(e.Data) < spillFrom {
		w.p = place{}
	} else {
		w.e.Data = nil
	}
	t.all = append(t.all, w)
}

func (t *tail) due(entries int) bool { return len(t.all) >= entries || t.bytes >= tailBytes }

func (t *tail) last() uint64 {
	if len(t.all) == 0 {
		return 0
	}
	return t.all[len(t.all)-1].e.Index
}

func (t *tail) get(index uint64) (waiting, bool) {
	i := sort.Search(len(t.all), func(i int) bool { return t.all[i].e.Index >= index })
	if i == len(t.all) || t.all[i].e.Index != index {
		return waiting{}, false
	}
	return t.all[i], true
}

func (t *tail) overlaps(lo, hi uint64) bool {
	return len(t.all) > 0 && lo <= t.last() && hi >= t.all[0].e.Index
}

// store writes entries to the segments, and to bbolt what does not fit there.
// The caller holds storing.
func (l *Log) store(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	fits, prev := true, l.tail.last()
	for _, e := range logs {
		fits = fits && entryLen(e) <= l.data.room()-frameHead-frameTail && e.Index > prev
		prev = e.Index
	}
	if !fits {
		return l.storeAtOnce(logs)
	}
	places := make([]place, len(logs))
	if err := l.data.append(logs, func(i int, p place) { places[i] = p }); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, e := range logs {
		l.tail.add(e, places[i])
	}
	return nil
}

// storeAtOnce is for what raft does not do today: entries larger than a segment,
// and entries that replace others which were not deleted before.
func (l *Log) storeAtOnce(logs []*raft.Log) error {
	if err := l.move(); err != nil {
		return err
	}
	defer l.forgetScratch()
	for _, e := range logs {
		l.seal(e, place{}, checksum(e))
	}
	return l.db.StoreLogs(l.sealed())
}

// move gives bbolt the tail. The position goes last: until it is there, the
// frames are found again at the next start, and give bbolt the same entries.
// The caller holds storing.
func (l *Log) move() error {
	if len(l.tail.all) == 0 {
		return nil
	}
	defer l.forgetScratch()
	for i := range l.tail.all {
		w := &l.tail.all[i]
		l.seal(&w.e, w.p, w.sum)
	}
	at := l.data.at()
	if err := l.db.StoreLogs(l.sealed()); err != nil {
		return err
	}
	if err := l.db.Set([]byte(tailKey), at.append(nil)); err != nil {
		return err
	}
	l.mu.Lock()
	clear(l.tail.all)
	l.tail.all, l.tail.bytes = l.tail.all[:0], 0
	first := l.ledger.first()
	l.mu.Unlock()
	l.data.isMoved(at.seq)
	l.count.moves.Add(1)
	if first == 0 {
		return nil
	}
	return l.data.release(first - 1)
}

// fetchWaiting completes an entry of the tail and checks it.
func (l *Log) fetchWaiting(w *waiting, to *raft.Log) error {
	*to = w.e
	if w.p.segment > 0 {
		data, err := l.dataAt(w.p, w.e.Index)
		if err != nil {
			return err
		}
		to.Data = data
	}
	if checksum(to) != w.sum {
		return errSeal
	}
	return nil
}

// replay brings what bbolt lacks from the segments. Nobody else has the log yet.
func (l *Log) replay() error {
	var from *position
	b, err := l.db.Get([]byte(tailKey))
	if err == nil {
		var p position
		p, err = parsePosition(b)
		from = &p
	} else if errors.Is(err, raftboltdb.ErrKeyNotFound) {
		err = nil
	}
	if err != nil {
		return err
	}
	err = l.data.replay(from, func(id uint64, f *foundFrame) error {
		for i := range f.logs {
			e := &f.logs[i]
			p := place{id, f.at[i], uint32(len(e.Data))}
			if len(e.Data) >= spillFrom {
				if err := l.data.seen(p, e.Index); err != nil {
					return err
				}
			}
			if last := l.tail.last(); e.Index <= last {
				return fmt.Errorf("%w: entry %d follows entry %d", errSeal, e.Index, last)
			}
			l.ledger.put(e.Index, entrySize(e))
			l.tail.add(e, p)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if from == nil && len(l.tail.all) == 0 {
		// All frames that come now have a header.
		return l.db.Set([]byte(tailKey), position{segment: l.data.last, offset: segmentAlign}.append(nil))
	}
	return l.move()
}
