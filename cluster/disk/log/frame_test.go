package log

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// crash copies the log's files as they are, entries that bbolt has not got
// included.
func crash(t *testing.T, from string) string {
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(from)))
	return dir
}

// spoil flips a bit in a file.
func spoil(t *testing.T, path string, at int) {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	b[at] ^= 1
	require.NoError(t, os.WriteFile(path, b, 0o600))
}

// A broken frame is damage, unless nothing is behind it: then its write was cut
// off, as far as anybody can tell.
func TestBrokenFrames(t *testing.T) {
	for name, m := range modes() {
		t.Run(name, func(t *testing.T) { breakFrames(t, m) })
	}
}

func breakFrames(t *testing.T, m mode) {
	from := t.TempDir()
	change := func(o *Options) { m.set(o); o.segmentBytes = 64 << 10 }
	l := openLog(t, from, change)
	for i := range uint64(12) {
		require.NoError(t, l.StoreLogs([]*raft.Log{large(2*i+1, 100), large(2*i+2, 4000)})) // two pages
	}
	first, second := m.segment(1), m.segment(2)
	require.Equal(t, []string{first, second}, names(t, from, m.prefix+"*"))
	for _, path := range names(t, from, indexPrefix+"*") { // a start reads all
		require.NoError(t, os.Remove(filepath.Join(from, path)))
	}
	frame := func(n int) int { return segmentAlign * (1 + 2*n) } // of a file
	for _, c := range []struct {
		name, file string
		at         int
		last       uint64 // 0: refused
	}{
		{"nothing", "raft.db", 1 << 20, 24},
		{"the first", first, frame(0) + 60, 0},
		{"data in the middle", first, frame(3) + 4100, 0},
		{"a head in the middle", first, frame(3) + 1, 0},
		{"the last of the first file", first, frame(6) + 4100, 0},
		{"the last", second, frame(4) + 4100, 22},
		{"the last head", second, frame(4) + 9, 22},
		{"the last checksum", second, frame(4) + map[string]int{
			livePrefix: frameHead + 2*entryHead, packedPrefix: packedHead + 2*recordHead}[m.prefix] + 4100, 22},
		{"the middle of the newest file", second, frame(2) + 4100, 0},
		{"a head in the newest file", second, frame(0) + 1, 0},
		{"padding", second, frame(4) + 8180, 24},
		{"the first page", first, 20, 0},
		{"the first page of the newest", second, 20, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := crash(t, from)
			if c.at < 1<<20 {
				spoil(t, filepath.Join(dir, c.file), c.at)
			}
			if c.last == 0 {
				_, err := Open(dir, Options{GrowTo: -1, segmentBytes: 64 << 10})
				require.ErrorIs(t, err, errSeal)
				require.ErrorContains(t, err, "damaged")
				return
			}
			l := openLog(t, dir, change)
			require.Equal(t, [2]uint64{1, c.last}, span(t, l))
			for i := range c.last {
				requireEntry(t, l, large(i+1, map[bool]int{true: 100, false: 4000}[i%2 == 0]))
			}
			require.NoError(t, l.StoreLog(large(c.last+1, 10)))
			l = openLog(t, crash(t, dir), change)
			require.Equal(t, [2]uint64{1, c.last + 1}, span(t, l))
		})
	}
}

// Frames of a file's former use, and frames that a mail has for a body, are not
// this log's frames.
func TestForeignFrames(t *testing.T) {
	for name, m := range modes() {
		t.Run(name, func(t *testing.T) { putForeignFrames(t, m) })
	}
}

func putForeignFrames(t *testing.T, m mode) {
	other := t.TempDir()
	l := openLog(t, other, m.set)
	for i := range uint64(200) {
		require.NoError(t, l.StoreLog(large(i+1, 100)))
	}
	b, err := os.ReadFile(filepath.Join(other, m.segment(1)))
	require.NoError(t, err)
	body := append(make([]byte, segmentAlign-frameHead-entryHead), b...) // as if they lay on pages
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "spare-0000000000000001"), b, 0o600))
	l = openLog(t, dir, m.set)
	require.NoError(t, l.StoreLog(&raft.Log{Index: 1, Term: 1, Data: body}))
	require.NoError(t, l.DeleteRange(1, 1))
	require.NoError(t, l.StoreLog(large(1, 10)))
	l = openLog(t, crash(t, dir), m.set)
	require.Equal(t, [2]uint64{1, 1}, span(t, l))

	// A file bears its name only with its own first page in it.
	dir = t.TempDir()
	require.NoError(t, openLog(t, dir, m.set).Close())
	require.NoError(t, os.WriteFile(filepath.Join(dir, m.segment(2)), b, 0o600))
	_, err = Open(dir, Options{GrowTo: -1})
	require.ErrorIs(t, err, errSeal)
}

// A new raft.db would have no votes, and a node that forgot its vote votes twice.
func TestLostBoltIsRefused(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir)
	require.NoError(t, l.StoreLog(large(1, 10)))
	require.NoError(t, l.Close())
	require.NoError(t, os.Remove(filepath.Join(dir, "raft.db")))
	_, err := Open(dir, Options{GrowTo: -1})
	require.ErrorIs(t, err, errSeal)
	require.ErrorContains(t, err, "join anew")
}

// An identifier is never used twice, or a position could mean another file.
func TestSegmentIDsRise(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, former)
	require.NoError(t, l.StoreLogs(entries(1, 1, tailEntries)))
	require.NoError(t, l.Close())
	require.NoError(t, os.Remove(filepath.Join(dir, livePrefix+segmentNumber(1))))
	l = openLog(t, dir, former)
	require.NoError(t, l.StoreLogs(entries(1, tailEntries+1, tailEntries+2)))
	require.Equal(t, []string{"data-0000000000000002"}, names(t, dir, "data-*"))
	l = openLog(t, crash(t, dir), former)
	require.Equal(t, [2]uint64{1, tailEntries + 2}, span(t, l))
}

// A file is begun when all before it is synced: then the last frame there is
// no write that was cut off, though nothing is in the new file.
func TestBrokenFrameBeforeAnEmptyFile(t *testing.T) {
	change := func(o *Options) { former(o); o.segmentBytes = 16 << 10 }
	from := t.TempDir()
	l := openLog(t, from, change)
	for i := range uint64(4) { // each takes a page, of three
		require.NoError(t, l.StoreLog(large(i+1, 100)))
	}
	const second = "data-0000000000000002"
	dir := crash(t, from)
	spoil(t, filepath.Join(dir, second), segmentAlign+50)
	require.Equal(t, [2]uint64{1, 3}, span(t, openLog(t, dir, change)), "the newest was cut off")
	dir = crash(t, from)
	spoil(t, filepath.Join(dir, second), segmentAlign+50)
	spoil(t, filepath.Join(dir, livePrefix+segmentNumber(1)), 3*segmentAlign+50)
	_, err := Open(dir, Options{GrowTo: -1, segmentBytes: 16 << 10})
	require.ErrorIs(t, err, errSeal)
}

// Frames behind the position are not cut off because it is wrong or gone.
func TestDamagedPosition(t *testing.T) {
	t.Parallel()
	from := t.TempDir()
	l := openLog(t, from, former)
	require.NoError(t, l.StoreLogs(entries(1, 1, tailEntries)))
	for i := range uint64(5) {
		require.NoError(t, l.StoreLog(large(tailEntries+1+i, 5000)))
	}
	change := func(fn func([]byte) []byte) error {
		dir := crash(t, from)
		db, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, "raft.db"), NoSync: true})
		require.NoError(t, err)
		b, err := db.Get([]byte(tailKey))
		require.NoError(t, err)
		require.NoError(t, db.Set([]byte(tailKey), fn(b)))
		require.NoError(t, db.Close())
		l, err := Open(dir, Options{GrowTo: -1})
		if err == nil {
			require.Equal(t, [2]uint64{1, tailEntries + 5}, span(t, l))
			require.NoError(t, l.Close())
		}
		return err
	}
	require.NoError(t, change(func(b []byte) []byte { return b }))
	require.ErrorIs(t, change(func(b []byte) []byte { return b[:24] }), errSeal)
	for bit := 0; bit < 32*8; bit += 5 {
		require.ErrorIs(t, change(func(b []byte) []byte { b[bit/8] ^= 1 << (bit % 8); return b }), errSeal)
	}

	dir := crash(t, from)
	db, err := bbolt.Open(filepath.Join(dir, "raft.db"), 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("conf")).Delete([]byte(tailKey)) }))
	require.NoError(t, db.Close())
	_, err = Open(dir, Options{GrowTo: -1})
	require.ErrorIs(t, err, errSeal)
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte("some data"), []byte("ext"), uint64(7), uint16(3), []byte{1})
	f.Fuzz(func(t *testing.T, data, ext []byte, seq uint64, at uint16, junk []byte) {
		key := newFrameKey()
		want := []raft.Log{
			{Index: 5, Term: 2, Type: raft.LogCommand, Data: data, Extensions: ext},
			{Index: 6, Term: 3, Type: raft.LogNoop},
		}
		size := frameHead + frameTail
		for i := range want {
			size += entryLen(&want[i])
			if len(want[i].Data) == 0 {
				want[i].Data = nil
			}
			if len(want[i].Extensions) == 0 {
				want[i].Extensions = nil
			}
		}
		w := key.begin(nil, seq, len(want), size)
		for i := range want {
			w.entry(&want[i])
		}
		w.end()
		require.Len(t, w.buf, size)
		got, err := key.frameAt(bytes.NewReader(w.buf), 0, int64(size))
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(want, got.logs))
		require.Equal(t, seq, got.seq)
		for i, e := range got.logs {
			require.Equal(t, string(e.Data), string(w.buf[got.at[i]:got.at[i]+uint64(len(e.Data))]))
		}
		if len(junk) == 0 {
			return
		}
		bad := bytes.Clone(w.buf)
		n := copy(bad[int(at)%len(bad):], junk)
		got, err = key.frameAt(bytes.NewReader(bad), 0, int64(size))
		require.NoError(t, err)
		require.Equal(t, n > 0 && !bytes.Equal(bad, w.buf), got == nil)
	})
}
