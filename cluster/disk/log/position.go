package log

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// The position says where in the segments the log begins: a start replays the frames
// behind it. Entries that stand before it, if any, are in bbolt; their indexes are
// below all others. Three keys of the stable store:
const (
	tailKey  = "tail"      // the position
	firstKey = "log/first" // the lowest index that is not deleted, with a checksum
	endKey   = "log/end"   // the end at the last orderly stop or start, written as a position
)

// moveStep is how many entries move in one transaction of bbolt, to bound the memory.
const moveStep = 8192

// store writes entries to the segments, and to bbolt what does not fit there.
// The caller holds storing.
func (l *Log) store(logs []*raft.Log) ([]line, error) {
	if len(logs) == 0 {
		return nil, nil
	}
	l.mu.RLock()
	fits, prev := true, l.ledger.last()
	l.mu.RUnlock()
	lowest := l.lowest
	lines := make([]line, len(logs))
	for i, e := range logs {
		lowest = min(lowest, e.Index)
		fits = fits && entryLen(e) <= l.data.room()-frameHead-frameTail && e.Index > prev
		prev = e.Index
		lines[i] = line{index: e.Index, size: entrySize(e)}
	}
	if lowest < l.lowest {
		if err := l.setLowest(lowest); err != nil {
			return nil, err
		}
	}
	if !fits {
		return lines, l.storeAtOnce(logs)
	}
	return lines, l.data.append(logs, func(i int, p place, sum uint64) { lines[i].at, lines[i].sum = p, sum })
}

// storeAtOnce is for what raft does not do today: entries larger than a segment,
// and entries that replace others which were not deleted before.
func (l *Log) storeAtOnce(logs []*raft.Log) error {
	if err := l.move(direct); err != nil {
		return err
	}
	defer l.forgetScratch()
	for _, e := range logs {
		l.seal(e, place{}, checksum(e))
	}
	return l.db.StoreLogs(l.sealed())
}

// move gives bbolt all entries, though not their data from 1 KiB on, and puts the
// position behind the newest frame. That comes last: until it is there, the next start
// finds the frames again. It takes about 20 µs an entry; so step runs each part, and
// each has its own watchdog. The caller holds storing.
func (l *Log) move(step func(part func() error) error) error {
	var all []line
	l.mu.RLock()
	for _, one := range l.ledger.lines() {
		if one.at.segment > 0 {
			all = append(all, one)
		}
	}
	l.mu.RUnlock()
	if len(all) == 0 {
		return nil
	}
	for from := 0; from < len(all); from += l.o.moveStep {
		some := all[from:min(from+l.o.moveStep, len(all))]
		if err := step(func() error { return l.moveSome(some) }); err != nil {
			return err
		}
	}
	if err := step(func() error { return l.setPosition(l.data.at()) }); err != nil {
		return err
	}
	l.mu.Lock()
	all = l.ledger.lines()
	for i := range all {
		all[i].at, all[i].sum = place{}, 0
	}
	l.mu.Unlock()
	l.count.moves.Add(1)
	return nil
}

func (l *Log) moveSome(lines []line) error {
	defer l.forgetScratch()
	for i := range lines {
		var e raft.Log
		if err := l.readFrame(&lines[i], &e); err != nil {
			return fmt.Errorf("entry %d: %w", lines[i].index, err)
		}
		var p place
		if len(e.Data) >= spillFrom {
			p = lines[i].at.data(&e)
		}
		l.seal(&e, p, checksum(&e))
	}
	return l.db.StoreLogs(l.sealed())
}

// data is the place of an entry's data.
func (p place) data(e *raft.Log) place {
	n := uint32(len(e.Data))
	return place{p.segment, p.offset + uint64(p.size-n), n}
}

// setPosition puts the position at a place. The caller holds storing.
func (l *Log) setPosition(p position) error {
	if err := l.db.Set([]byte(tailKey), p.append(nil)); err != nil {
		return err
	}
	l.begin = p
	l.data.isMoved(p.seq)
	return nil
}

// advance puts the position before the segment of the first entry, or at the end
// where there is none. The caller holds storing.
func (l *Log) advance() error {
	l.mu.RLock()
	n, all := l.ledger.len(), l.ledger.framed()
	l.mu.RUnlock()
	switch {
	case n == 0 && l.begin.seq < l.data.seq:
		return l.setPosition(l.data.at())
	case n > 0 && n == len(all) && all[0].at.segment > l.begin.segment:
		return l.setPosition(l.data.begins(all[0].at.segment))
	}
	return nil
}

// setLowest says that entries below index are deleted. The caller holds storing.
func (l *Log) setLowest(index uint64) error {
	v := sealedAs(firstKey, binary.BigEndian.AppendUint64(nil, index))
	if err := l.db.Set([]byte(firstKey), v); err != nil {
		return err
	}
	l.lowest = index
	return nil
}

// setEnd notes that the frames up to now are on the disk: one of them that is broken
// later is damage, also where it is the newest. The caller holds storing.
func (l *Log) setEnd() error {
	at := l.data.at()
	if at.seq == l.end {
		return nil
	}
	if err := l.db.Set([]byte(endKey), at.append(nil)); err != nil {
		return err
	}
	l.end = at.seq
	return nil
}

// loadKeys reads position, lowest index and end; from is nil where the log has no
// position yet.
func (l *Log) loadKeys() (from *position, err error) {
	get := func(key string) ([]byte, error) {
		b, err := l.db.Get([]byte(key))
		if errors.Is(err, raftboltdb.ErrKeyNotFound) {
			return nil, nil
		}
		return b, err
	}
	b, err := get(tailKey)
	if err == nil && b != nil {
		l.begin, err = parsePosition(b)
		from = &l.begin
	}
	if err != nil {
		return nil, err
	}
	if b, err = get(firstKey); err == nil && b != nil {
		v, ok := unsealed(firstKey, b)
		if !ok || len(v) != 8 {
			return nil, fmt.Errorf("%w: the lowest index", errSeal)
		}
		l.lowest = binary.BigEndian.Uint64(v)
	}
	if err != nil {
		return nil, err
	}
	if b, err = get(endKey); err == nil && b != nil {
		var p position
		p, err = parsePosition(b)
		l.end = p.seq
	}
	return from, err
}

// replay finds the entries in the segments. Nobody else has the log yet.
func (l *Log) replay() error {
	from, err := l.loadKeys()
	if err != nil {
		return err
	}
	var copied bool
	last, before := uint64(0), l.ledger.last()
	err = l.data.replay(from, func(id uint64, f *foundFrame) error {
		for i := range f.logs {
			e, p := &f.logs[i], f.at[i]
			p.segment = id
			if e.Index <= last {
				return fmt.Errorf("%w: entry %d follows entry %d", errSeal, e.Index, last)
			}
			if last = e.Index; last < l.lowest {
				continue
			}
			if len(e.Data) >= spillFrom {
				if err := l.data.seen(p.data(e), e.Index); err != nil {
					return err
				}
			}
			copied = copied || e.Index <= before
			l.ledger.put(line{index: e.Index, size: entrySize(e), at: p, sum: f.sums[i]})
		}
		return nil
	})
	if err == nil && l.data.seq < l.end {
		err = fmt.Errorf("%w: frame %d is broken or gone", errSeal, l.data.seq+1)
	}
	if err != nil {
		return err
	}
	if from == nil && l.data.seq == 0 {
		// All frames that come now have a header.
		return l.setPosition(position{segment: l.data.last, offset: segmentAlign})
	}
	if copied { // the process ended while they moved
		return l.move(direct)
	}
	return nil
}

func direct(part func() error) error { return part() }

// moveWatched is move where raft waits.
func (l *Log) moveWatched() error {
	return l.move(func(part func() error) error { return l.write("move entries of the log", part) })
}

// settle finishes what the end of the former process has interrupted.
func (l *Log) settle() error {
	if first := l.ledger.first(); first > 0 && first < l.lowest {
		// In bbolt, from which old entries go first: a former build has had them back.
		if err := l.setLowest(first); err != nil {
			return err
		}
	}
	if err := l.advance(); err != nil {
		return err
	}
	if err := l.setEnd(); err != nil {
		return err
	}
	return l.data.release(l.gone())
}
