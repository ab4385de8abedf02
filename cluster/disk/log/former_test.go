package log

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/stretchr/testify/require"
)

// moveAll gives bbolt all entries: the builds before 2026-12-01 did so with every 256,
// and when they closed the log.
func moveAll(l *Log) error {
	l.storing.Lock()
	defer l.storing.Unlock()
	return l.moveWatched()
}

// formerLog is what a build before 2026-12-01 finds in a copy of dir: entries of bbolt,
// and behind the position frames whose indexes rise, of which it deletes none.
func formerLog(t *testing.T, dir string) map[uint64]raft.Log {
	dir = crash(t, dir)
	found := map[uint64]raft.Log{}
	db, err := raftboltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
	require.NoError(t, err)
	defer db.Close()
	s := segments{dir: dir, size: 64 << 10, open: openSegment, syncDir: syncPath}
	require.NoError(t, s.load())
	defer s.close()
	first, err := db.FirstIndex()
	require.NoError(t, err)
	last, err := db.LastIndex()
	require.NoError(t, err)
	for i := first; first > 0 && i <= last; i++ {
		var e raft.Log
		if err := db.GetLog(i, &e); errors.Is(err, raft.ErrLogNotFound) {
			continue
		}
		p, spilled, err := placeOf(&e)
		require.NoError(t, err)
		if spilled {
			require.NoError(t, s.seen(p, i))
			e.Data, err = s.read(p)
			require.NoError(t, err)
		}
		require.NoError(t, unseal(&e, i))
		found[i] = e
	}
	b, err := db.Get([]byte("tail"))
	require.NoError(t, err)
	at, err := parsePosition(b)
	require.NoError(t, err)
	before := uint64(0)
	require.NoError(t, s.replay(&at, func(_ uint64, f *foundFrame) error {
		for _, e := range f.logs {
			if e.Index <= before {
				return fmt.Errorf("entry %d follows entry %d", e.Index, before)
			}
			before = e.Index
			found[e.Index] = e
		}
		return nil
	}))
	return found
}

// requireFormer requires that a former build, to which a node may go back, finds all
// entries of a log, nothing behind them, and before them only what has been deleted
// because it was old.
func requireFormer(t *testing.T, dir string, first, last uint64, want map[uint64]*raft.Log) {
	found := formerLog(t, dir)
	_, end := uint64(0), uint64(0)
	for i := range found {
		end = max(end, i)
	}
	require.Equal(t, last, end)
	for i := first; i <= last; i++ {
		e, ok := found[i]
		require.True(t, ok, "entry %d", i)
		require.Equal(t, want[i].Term, e.Term)
		require.Equal(t, want[i].Data, e.Data)
	}
	for i, e := range found {
		if i < first && want[i] != nil {
			require.Equal(t, want[i].Term, e.Term, "entry %d is of another history", i)
			require.Equal(t, want[i].Data, e.Data)
		}
	}
}

// A directory of a former build is taken over as it is: its entries stay in bbolt until
// they are deleted, and what comes behind them is in frames alone. There is no step that
// a crash could cut off.
func TestDirectoryOfAFormerBuild(t *testing.T) {
	for name, closes := range map[string]bool{"closed": true, "killed": false} {
		t.Run(name, func(t *testing.T) {
			from := t.TempDir()
			want := map[uint64]*raft.Log{}
			change := func(o *Options) { o.segmentBytes, o.CacheBytes = 64<<10, 1 }
			l := openLog(t, from, change)
			add := func(lo, hi uint64) {
				for i := lo; i <= hi; i++ {
					want[i] = large(i, []int{10, 1500, 20000}[i%3])
					require.NoError(t, l.StoreLog(want[i]))
				}
			}
			check := func(first, last uint64) {
				require.Equal(t, [2]uint64{first, last}, span(t, l))
				for i := first; i <= last; i++ {
					requireEntry(t, l, want[i])
				}
				requireFormer(t, l.data.dir, first, last, want)
			}
			add(1, 20)
			require.NoError(t, moveAll(l))
			add(21, 30)
			if closes {
				require.NoError(t, moveAll(l))
			}
			dir := crash(t, from)
			clearKeys(t, dir, firstKey, endKey) // they know none of these
			l = openLog(t, dir, change)
			check(1, 30)
			spy := &spyBackend{backend: l.db}
			l.db = spy
			add(31, 40)
			require.Empty(t, spy.sets, "no entry is written twice")
			check(1, 40)
			require.NoError(t, l.DeleteRange(1, 5))
			check(6, 40)
			require.NoError(t, l.DeleteRange(1, 25))
			check(26, 40)
			require.NoError(t, l.DeleteRange(39, 40))
			check(26, 38)
			add(39, 45)
			require.NoError(t, l.DeleteRange(1, 42))
			check(43, 45)
			l = openLog(t, crash(t, l.data.dir), change)
			check(43, 45)
		})
	}
}

// A former build that ran in between may have had old entries back that were deleted.
// They stay.
func TestFormerBuildInBetween(t *testing.T) {
	dir := t.TempDir()
	change := func(o *Options) { o.segmentBytes = 64 << 10 }
	l := openLog(t, dir, change)
	require.NoError(t, l.StoreLogs(entries(1, 1, 20)))
	require.NoError(t, l.DeleteRange(1, 12))
	require.NoError(t, l.Close())
	require.Len(t, formerLog(t, dir), 20)
	raw(t, dir, func(db *raftboltdb.BoltStore) { // all that it found
		former := &Log{}
		for i, e := range entries(1, 1, 20) {
			former.seal(e, place{}, checksum(e))
			require.EqualValues(t, i+1, e.Index)
		}
		require.NoError(t, db.StoreLogs(former.sealed()))
		b, err := db.Get([]byte(endKey))
		require.NoError(t, err)
		require.NoError(t, db.Set([]byte(tailKey), b))
	})
	l = openLog(t, dir, change)
	require.Equal(t, [2]uint64{1, 20}, span(t, l))
	require.NoError(t, l.StoreLogs(entries(1, 21, 22)))
	require.NoError(t, l.Close())
	l = openLog(t, dir, change)
	require.Equal(t, [2]uint64{1, 22}, span(t, l))
	require.Len(t, formerLog(t, dir), 22)
	for _, e := range entries(1, 1, 22) {
		requireEntry(t, l, e)
	}
	require.NoError(t, l.DeleteRange(1, 21))
	require.Equal(t, [2]uint64{22, 22}, span(t, openLog(t, crash(t, dir), change)))
}
