package log

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
)

// deleteStep is how many entries one transaction deletes: raft's main loop must
// not wait for a long one before it can store.
const deleteStep = 512

// DeleteRange implements raft.LogStore. Old entries go in small transactions,
// from the oldest on; a suffix that a new leader replaces goes in one, because
// a part of it must not stay behind.
//
// Prefixes go 512 entries at a time, so that raft's main loop can store in between; a
// crash leaves a shorter prefix. Half of a suffix would leave a hole below the last
// entry, which raft can not get out of.
func (l *Log) DeleteRange(lo, hi uint64) error {
	l.mu.RLock()
	first, last := l.ledger.first(), l.ledger.last()
	l.mu.RUnlock()
	if first == 0 || hi < first || lo > last || lo > hi {
		return l.usable()
	}
	hi = min(hi, last)
	if lo <= first && hi < last {
		return l.deleteOld(hi)
	}
	if floor := l.floorNow(); max(lo, first) <= floor {
		return l.fail(fmt.Errorf("disk: the entries from %d on are to be replaced, but all up to %d is committed here: "+
			"keep this directory, stop the other nodes, and see \"A node from the past\" in the guide", lo, floor))
	}
	if p := l.packed.Load(); p != nil {
		return l.deletePacked(p, indexes{lo, hi})
	}
	return l.deleteOnce(lo, hi)
}

// Floor tells the log up to which index everything is committed. From then on
// it fails, as it does when a write fails, where a part of that is to be replaced.
// fn may be called by any goroutine and must not call the log.
func (l *Log) Floor(fn func() uint64) { l.floor.Store(&fn) }

func (l *Log) floorNow() uint64 {
	if fn := l.floor.Load(); fn != nil {
		return (*fn)()
	}
	return 0
}

// deleteOld removes all entries up to hi.
func (l *Log) deleteOld(hi uint64) error {
	for {
		if p := l.packed.Load(); p != nil {
			return l.deletePacked(p, indexes{0, hi})
		}
		l.mu.RLock()
		lo, to := l.ledger.step(deleteStep, hi)
		l.mu.RUnlock()
		if lo == 0 {
			return nil
		}
		if err := l.deleteOnce(lo, to); err != nil {
			return err
		}
	}
}

func (l *Log) deleteOnce(lo, hi uint64) error {
	l.deleting.RLock()
	defer l.deleting.RUnlock()
	if p := l.packed.Load(); p != nil { // since just now
		return l.deletePacked(p, indexes{lo, hi})
	}
	if l.storing.Lock(); l.tail.overlaps(lo, hi) {
		// Or they would be back at the next start.
		defer l.storing.Unlock()
		if err := l.write("move entries of the log", l.move); err != nil {
			return err
		}
	} else {
		l.storing.Unlock()
	}
	err := l.write("delete from the log", func() error {
		if err := l.db.DeleteRange(lo, hi); err != nil {
			return err
		}
		return l.deleted(lo, hi)
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.ledger.remove(lo, hi)
	l.cache.remove(lo, hi)
	first := l.ledger.first()
	l.mu.Unlock()
	gone := hi
	if first > 0 {
		gone = first - 1
	}
	return l.release(gone)
}

// release gives back the segments that only entries up to an index need.
func (l *Log) release(index uint64) error {
	return l.watched("give back segments of the log", func() error { return l.data.release(index) })
}

// deleted makes sure that the book is right: a suffix that is not gone would
// come back at the next start.
func (l *Log) deleted(lo, hi uint64) error {
	first, err := l.db.FirstIndex()
	if err == nil && first > 0 && lo <= first && first <= hi {
		err = fmt.Errorf("entry %d was not deleted", first)
	}
	last, err2 := l.db.LastIndex()
	if err2 == nil && last > 0 && lo <= last && last <= hi {
		err2 = fmt.Errorf("entry %d was not deleted", last)
	}
	return errors.Join(err, err2)
}

// Guard tells the log that the state now begins behind the snapshot at index,
// whose last entry had that term. The store calls it through its OnInstall.
//
// If the log has another entry there, or none, what it has up to there is
// not the history of that snapshot, and must never be sent to another member:
// it is deleted. And raft asks for the entry at index to check what follows
// it; it gets one with the right term, or it would refuse everything the
// leader sends and ask for snapshots for ever (hashicorp/raft#697). Entries
// behind index are left to raft, which replaces them.
//
// Not covered: a stale log that ends exactly there, which raft answers from memory
// until the next snapshot or restart.
func (l *Log) Guard(index, term uint64) error {
	var have raft.Log
	err := l.usable()
	if err == nil {
		l.mu.RLock()
		hit := l.cache.get(index, &have)
		l.mu.RUnlock()
		if !hit {
			err = l.read(index, &have)
		}
	}
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	l.mu.Lock()
	l.guard.index, l.guard.term = index, term
	first, last := l.ledger.first(), l.ledger.last()
	l.mu.Unlock()
	if err == nil && have.Term == term || first == 0 || first > index {
		return nil
	}
	l.o.Log.Warn("the log does not lead to the snapshot; its beginning is dropped",
		zap.Uint64("snapshot", index), zap.Uint64("first", first), zap.Uint64("last", last))
	return l.deleteOld(index)
}
