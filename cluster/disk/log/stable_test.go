package log

import (
	"bytes"
	"path/filepath"
	"testing"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/stretchr/testify/require"
)

// promise makes a log with a term and a vote, sealed or not, and closes it.
func promise(t *testing.T, dir string, seal bool) {
	l := openLog(t, dir)
	require.NoError(t, l.SetUint64([]byte(termKey), 7))
	require.NoError(t, l.SetUint64([]byte(voteTerm), 7))
	require.NoError(t, l.Set([]byte(voteFor), []byte("n2")))
	if seal {
		require.NoError(t, l.SealPromises())
	}
	require.NoError(t, l.Close())
}

// raw changes what bbolt has, as an older build, or damage, would.
func raw(t *testing.T, dir string, fn func(db *raftboltdb.BoltStore)) {
	db, err := raftboltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
	require.NoError(t, err)
	fn(db)
	require.NoError(t, db.Close())
}

func requirePromise(t *testing.T, l *Log, term uint64, candidate string) {
	for _, key := range []string{termKey, voteTerm} {
		n, err := l.GetUint64([]byte(key))
		require.NoError(t, err)
		require.Equal(t, term, n, "%s", key)
	}
	v, err := l.Get([]byte(voteFor))
	require.NoError(t, err)
	require.Equal(t, candidate, string(v))
}

// Until SealPromises an older build reads all there is.
func TestUnsealedPromisesAreAsBefore(t *testing.T) {
	dir := t.TempDir()
	promise(t, dir, false)
	raw(t, dir, func(db *raftboltdb.BoltStore) {
		v, err := db.Get([]byte(voteKey))
		require.NoError(t, err)
		require.Equal(t, "\x00\x00\x00\x00\x00\x00\x00\x07n2", string(v))
		n, err := db.GetUint64([]byte(termKey))
		require.NoError(t, err)
		require.EqualValues(t, 7, n)
		_, err = db.Get([]byte(sealedVoteKey))
		require.ErrorIs(t, err, raftboltdb.ErrKeyNotFound)
	})
}

// Afterwards it finds the vote shorter than eight octets, and refuses the log:
// it would vote a second time in a term else.
func TestSealedPromisesAreNotForOlderBuilds(t *testing.T) {
	dir := t.TempDir()
	promise(t, dir, true)
	raw(t, dir, func(db *raftboltdb.BoltStore) {
		v, err := db.Get([]byte(voteKey))
		require.NoError(t, err)
		require.Less(t, len(v), 8)
	})
	l := openLog(t, dir)
	requirePromise(t, l, 7, "n2")
	require.NoError(t, l.SetUint64([]byte(termKey), 9))
	require.NoError(t, l.SetUint64([]byte(voteTerm), 9))
	require.NoError(t, l.Set([]byte(voteFor), []byte("a name with 4 octets behind")))
	require.NoError(t, l.Close())
	l = openLog(t, dir)
	requirePromise(t, l, 9, "a name with 4 octets behind")
	spy := &spyBackend{backend: l.db}
	l.db = spy
	require.NoError(t, l.SealPromises())
	require.Empty(t, spy.sets, "it is done once")
}

func TestNodeThatNeverVotedCanSeal(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir)
	require.NoError(t, l.SealPromises())
	require.NoError(t, l.Close())
	l = openLog(t, dir)
	n, err := l.GetUint64([]byte(termKey))
	require.NoError(t, err)
	require.Zero(t, n)
	_, err = l.Get([]byte(voteFor))
	require.EqualError(t, err, "not found")
	require.NoError(t, l.SetUint64([]byte(termKey), 1))
	require.NoError(t, l.SetUint64([]byte(voteTerm), 1))
	require.NoError(t, l.Set([]byte(voteFor), []byte("n1")))
	require.NoError(t, l.Close())
	requirePromise(t, openLog(t, dir), 1, "n1")
}

// A crash between the steps of SealPromises changes neither term nor vote, and
// the rest is done later.
func TestSealPromisesAfterACrash(t *testing.T) {
	for _, last := range []string{termKey, sealedVoteKey} {
		t.Run(last, func(t *testing.T) {
			dir := t.TempDir()
			promise(t, dir, true)
			raw(t, dir, func(db *raftboltdb.BoltStore) { // what was there before
				require.NoError(t, db.Set([]byte(voteKey), []byte("\x00\x00\x00\x00\x00\x00\x00\x07n2")))
			})
			if last == termKey {
				dir = t.TempDir()
				promise(t, dir, false)
				raw(t, dir, func(db *raftboltdb.BoltStore) {
					require.NoError(t, db.Set([]byte(termKey), sealedAs(termKey, []byte{0, 0, 0, 0, 0, 0, 0, 7})))
				})
			}
			l := openLog(t, dir)
			requirePromise(t, l, 7, "n2")
			require.NoError(t, l.SealPromises())
			require.True(t, l.stable.marked)
			require.NoError(t, l.Close())
			requirePromise(t, openLog(t, dir), 7, "n2")
		})
	}
}

// The log is refused in a sentence if any octet of term and vote is damaged, and if
// either of them is gone.
func TestDamagedPromisesAreRefused(t *testing.T) {
	dir := t.TempDir()
	promise(t, dir, true)
	refused := func(what string, damage func(db *raftboltdb.BoltStore)) {
		before := map[string][]byte{}
		raw(t, dir, func(db *raftboltdb.BoltStore) {
			for _, key := range []string{termKey, sealedVoteKey} {
				v, err := db.Get([]byte(key))
				require.NoError(t, err)
				before[key] = bytes.Clone(v)
			}
			damage(db)
		})
		_, err := Open(dir, Options{GrowTo: -1})
		require.ErrorContains(t, err, "term or vote is damaged", what)
		raw(t, dir, func(db *raftboltdb.BoltStore) {
			for key, v := range before {
				require.NoError(t, db.Set([]byte(key), v))
			}
		})
	}
	for _, key := range []string{termKey, sealedVoteKey} {
		for _, at := range []int{0, 7, -1, -3} {
			refused(key, func(db *raftboltdb.BoltStore) {
				v, err := db.Get([]byte(key))
				require.NoError(t, err)
				v = bytes.Clone(v)
				v[(at+len(v))%len(v)] ^= 0x10
				require.NoError(t, db.Set([]byte(key), v))
			})
		}
	}
	refused("a term of the former format",
		func(db *raftboltdb.BoltStore) { require.NoError(t, db.SetUint64([]byte(termKey), 7)) })
	refused("a vote that is cut short", func(db *raftboltdb.BoltStore) {
		require.NoError(t, db.Set([]byte(sealedVoteKey), []byte{1}))
	})
	refused("a term before the vote's", func(db *raftboltdb.BoltStore) {
		require.NoError(t, db.Set([]byte(termKey), sealedAs(termKey, make([]byte, 8))))
	})
	requirePromise(t, openLog(t, dir), 7, "n2")
}
