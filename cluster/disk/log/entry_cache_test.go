package log

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// The cache forgets the entries of a load when others come later, and its ring shrinks;
// it keeps the young ones.
func TestEntriesAreCachedForATime(t *testing.T) {
	now := time.Unix(1e9, 0)
	c := entryCache{limit: 1 << 20, keep: time.Second}
	add := func(from, to uint64) {
		c.age(now)
		for i := from; i <= to; i++ {
			e := &raft.Log{Index: i, Term: 1, Data: []byte("entry")}
			c.add(e, entrySize(e))
		}
	}
	has := func(first, last uint64) {
		t.Helper()
		require.Equal(t, [2]uint64{first, last}, [2]uint64{c.first, c.next - 1})
		bytes := int64(0)
		for i := first; i <= last; i++ {
			var e raft.Log
			require.True(t, c.get(i, &e))
			require.Equal(t, i, e.Index)
			bytes += int64(entrySize(&e))
		}
		require.Equal(t, bytes, c.bytes)
		require.False(t, c.get(first-1, new(raft.Log)))
		require.False(t, c.get(last+1, new(raft.Log)))
	}
	add(1, 500)
	has(1, 500)
	require.Len(t, c.ring, 512)
	now = now.Add(900 * time.Millisecond)
	add(501, 510)
	has(1, 510)
	now = now.Add(200 * time.Millisecond) // over keep: the mark is set behind 510
	add(511, 511)
	has(1, 511)
	now = now.Add(time.Second)
	add(512, 512)
	has(511, 512)
	require.Len(t, c.ring, leastRing)
	add(513, 700)
	has(511, 700)
	c.remove(600, 700)
	has(511, 599)
	now = now.Add(time.Second)
	add(600, 600) // the mark was set at 512
	has(512, 600)

	c.keep = 0
	now = now.Add(time.Hour)
	add(601, 601)
	has(512, 601)
}

func TestOldEntriesAreReadFromTheDisk(t *testing.T) {
	l := openLog(t, t.TempDir(), func(o *Options) { o.packed, o.CacheFor = true, time.Nanosecond })
	for i := uint64(1); i <= 20; i++ {
		require.NoError(t, l.StoreLogs(entries(1, i, i)))
	}
	for _, e := range entries(1, 1, 20) {
		requireEntry(t, l, e)
	}
	require.NotZero(t, l.Metrics().CacheMisses)
	require.Less(t, l.cache.next-l.cache.first, uint64(10))
}
