package log

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.uber.org/zap"
)

// packedMark stands at tailKey since the log is packed. A build that knows no packed
// logs takes it for a damaged position, and refuses the log instead of starting with an
// empty one. A single flipped bit makes neither of a mark and a position the other.
var packedMark = []byte("packed, in log-*, since cluster version 2")

const (
	endKey = "end" // in the stable store of a packed log: a position that it has reached, as one of the tail

	packStep  = 1 << 20 // octets of a write while the log is packed
	packSmall = 4 << 20 // a log of no more octets is packed while raft runs
)

// isPacked says what kind of log the directory has. Files of a packed one without the
// mark, where a position stands, are of a conversion that was cut off.
func (l *Log) isPacked(dir string) (bool, error) {
	v, err := l.db.Get([]byte(tailKey))
	if errors.Is(err, raftboltdb.ErrKeyNotFound) {
		if found, err := anyOf(dir, packedPrefix); err != nil || found {
			return false, errors.Join(err, l.damaged(fmt.Errorf("%w: the mark of a packed log is lost", errSeal)))
		}
		return false, nil
	}
	if err != nil || bytes.Equal(v, packedMark) {
		return err == nil, err
	}
	if _, err := parsePosition(v); err != nil {
		return false, l.damaged(err)
	}
	return false, nil
}

func (l *Log) damaged(err error) error {
	return fmt.Errorf("disk: the log in %s is damaged: %w: %s", l.data.dir, err, Rebuild)
}

// openPacked opens the segments of a packed log.
func (l *Log) openPacked(p *packed) error {
	l.packed.Store(p)
	l.ledger = ledger{}
	v, err := l.db.Get([]byte(endKey))
	if err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return err
	}
	end, err := parsePosition(v)
	if err != nil {
		return l.damaged(err)
	}
	err = p.load(end, func(c contents) {
		for _, r := range c.gone {
			l.ledger.remove(r.lo, r.hi)
		}
		for _, one := range c.lines {
			l.ledger.set(one)
		}
	})
	if errors.Is(err, errSeal) {
		return l.damaged(err)
	} else if err != nil {
		return fmt.Errorf("disk: read the log in %s: %w", l.data.dir, err)
	}
	if err := l.noteEnd(p); err != nil {
		return err
	}
	return l.emptyBolt(func(_ string, fn func() error) error { return fn() })
}

// noteEnd writes to bbolt how far the log has come: damage of its newest frame is no
// write that was cut off, then. It is called at each start and orderly stop, and for
// each new segment.
func (l *Log) noteEnd(p *packed) error {
	at := position{seq: p.seq}
	if p.cur != nil {
		at.segment = p.cur.id
	}
	v := at.append(nil)
	if old, err := l.db.Get([]byte(endKey)); err == nil && bytes.Equal(old, v) {
		return nil
	}
	return l.db.Set([]byte(endKey), v)
}

// storePacked writes entries. The caller holds storing.
func (l *Log) storePacked(p *packed, logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	lines, err := p.append(logs)
	if err != nil {
		return err
	}
	l.mu.Lock()
	for _, one := range lines {
		l.ledger.set(one)
	}
	l.mu.Unlock()
	return l.leave(p)
}

// leave makes the indexes of segments that are full, and notes that there is another.
func (l *Log) leave(p *packed) error {
	if len(p.left) == 0 {
		return nil
	}
	if err := l.indexLeft(p, &l.ledger); err != nil {
		return err
	}
	return l.noteEnd(p)
}

func (l *Log) indexLeft(p *packed, g *ledger) error {
	for _, one := range p.left {
		l.mu.RLock()
		c := contents{gone: one.gone, lines: g.of(one.id), last: one.seq, lowest: p.low}
		l.mu.RUnlock()
		if err := p.writeIndex(one, c); err != nil {
			return err
		}
	}
	p.left = nil
	return nil
}

// readPacked gets an entry from its segment. Small ones are written again while their
// frame is open, and their former place is used by others then.
func (l *Log) readPacked(p *packed, index uint64, to *raft.Log) error {
	for {
		l.mu.RLock()
		at, ok := l.ledger.get(index)
		l.mu.RUnlock()
		if !ok {
			return raft.ErrLogNotFound
		}
		err := p.fetch(at, to)
		if err == nil {
			return nil
		}
		l.mu.RLock()
		now, ok := l.ledger.get(index)
		l.mu.RUnlock()
		if ok && now == at {
			return err
		}
	}
}

// deletePacked deletes a range of entries: one frame says so. The files that are not
// needed any more wait for their readers, and a write does not wait for that.
func (l *Log) deletePacked(p *packed, gone indexes) error {
	if err := l.sayGone(p, gone); err != nil {
		return err
	}
	return l.watched("give back segments of the log", p.drop)
}

func (l *Log) sayGone(p *packed, gone indexes) error {
	l.storing.Lock()
	defer l.storing.Unlock()
	return l.write("delete from the log", func() error {
		l.mu.RLock()
		lowest := l.ledger.lowest(gone)
		none := l.ledger.find(gone.lo) == l.ledger.find(gone.hi+1)
		l.mu.RUnlock()
		if none {
			return nil
		}
		if err := p.remove(gone, lowest); err != nil {
			return err
		}
		l.mu.Lock()
		l.ledger.remove(gone.lo, gone.hi)
		l.cache.remove(gone.lo, gone.hi)
		l.mu.Unlock()
		return l.leave(p)
	})
}

// packSmall packs a log that has little in it, while raft runs.
func (l *Log) packSmall() error {
	l.mu.RLock()
	large := l.ledger.bytes > packSmall
	l.mu.RUnlock()
	if large || l.packed.Load() != nil || l.noRoom.Load() {
		return l.usable()
	}
	l.deleting.Lock()
	defer l.deleting.Unlock()
	l.storing.Lock()
	defer l.storing.Unlock()
	if l.closed.Load() {
		return ErrClosed
	}
	if err := l.write("move entries of the log", l.move); err != nil {
		return err
	}
	p := newPacked(l.data.dir, l.o)
	var g ledger
	if err := l.copyTo(p, &g, l.guarded); errors.Is(err, syscall.ENOSPC) {
		return l.stayAsItIs(p, err)
	} else if err != nil {
		return l.fail(fmt.Errorf("disk: convert the log: %w", err))
	}
	return l.commit(p, g, l.write)
}

// packAtStart packs the log before anybody has it.
func (l *Log) packAtStart() error {
	alone := func(_ string, fn func() error) error { return guarded(fn) }
	p := newPacked(l.data.dir, l.o)
	var g ledger
	if err := l.copyTo(p, &g, alone); errors.Is(err, syscall.ENOSPC) {
		return l.stayAsItIs(p, err)
	} else if err != nil {
		return errors.Join(fmt.Errorf("disk: convert the log: %w", err), p.close())
	}
	return l.commit(p, g, alone)
}

// stayAsItIs takes back a conversion for which the disk has no room.
func (l *Log) stayAsItIs(p *packed, why error) error {
	l.o.Log.Warn("the disk has no room to convert the log; that is tried again at the next start", zap.Error(why))
	l.noRoom.Store(true)
	return p.discard(&l.data)
}

// copyTo writes all entries to a packed log, which nobody takes for the log yet. The
// caller holds deleting and storing, or has the log alone. The tail is empty.
func (l *Log) copyTo(p *packed, g *ledger, run func(what string, fn func() error) error) error {
	p.takeSpares(&l.data)
	for at := 0; at < l.ledger.len(); {
		err := run("convert the log", func() error {
			var err error
			at, err = l.copySome(p, g, at)
			return err
		})
		if err != nil {
			return err
		}
	}
	return run("convert the log", func() error { return l.indexLeft(p, g) })
}

// commit makes a copy the log, by one write to bbolt. Until then a start finds the log
// as it was; from then on it removes what is left of that.
func (l *Log) commit(p *packed, g ledger, run func(what string, fn func() error) error) error {
	err := run("convert the log", func() error {
		if err := l.noteEnd(p); err != nil {
			return err
		}
		return l.db.Set([]byte(tailKey), packedMark)
	})
	if err != nil {
		return errors.Join(err, p.close())
	}
	l.mu.Lock()
	l.ledger = g
	l.mu.Unlock()
	l.packed.Store(p)
	l.o.Log.Info("the log is written once from now on", zap.Int("entries", g.len()), zap.Int64("bytes", g.bytes))
	if err := l.emptyBolt(run); err != nil {
		return err
	}
	return run("remove the former log", func() error { return p.adopt(&l.data) })
}

// copySome copies entries from a place of the ledger on, and returns the next place.
func (l *Log) copySome(p *packed, g *ledger, at int) (int, error) {
	var logs []*raft.Log
	for size := 0; at < l.ledger.len() && size < packStep; at++ {
		e := &raft.Log{}
		if err := l.readFormer(l.ledger.lines()[at].index, e); err != nil {
			return at, err
		}
		logs, size = append(logs, e), size+recordLen(e)
	}
	lines, err := p.append(logs)
	for _, one := range lines {
		g.set(one)
	}
	return at, err
}

// emptyBolt deletes the entries that bbolt has of a log that is packed now.
func (l *Log) emptyBolt(run func(what string, fn func() error) error) error {
	first, err := l.db.FirstIndex()
	if err != nil || first == 0 {
		return err
	}
	last, err := l.db.LastIndex()
	for ; err == nil && first <= last; first += deleteStep {
		err = run("remove the former log", func() error {
			return l.db.DeleteRange(first, min(last, first+deleteStep-1))
		})
	}
	return err
}
