package disk

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// No file of ours is compressed with it, but a database that has such files is
// read.
func TestZstdWithoutC(t *testing.T) {
	fs := vfs.NewMem()
	o := func() *pebble.Options {
		o := &pebble.Options{FS: fs, DisableWAL: true}
		for i := range o.Levels {
			o.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.ZstdCompression }
		}
		return o
	}
	db, err := pebble.Open("db", o())
	require.NoError(t, err)
	value := func(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "value %d ", i), 500) }
	for i := range 50 {
		require.NoError(t, db.Set(fmt.Appendf(nil, "key %d", i), value(i), pebble.NoSync))
	}
	require.NoError(t, db.Flush())
	require.NoError(t, db.Compact(t.Context(), []byte("a"), []byte("z"), false))
	require.Less(t, db.Metrics().DiskSpaceUsage(), uint64(100_000))
	require.NoError(t, db.Close())
	db, err = pebble.Open("db", o())
	require.NoError(t, err)
	for i := range 50 {
		v, c, err := db.Get(fmt.Appendf(nil, "key %d", i))
		require.NoError(t, err)
		require.Equal(t, value(i), v)
		require.NoError(t, c.Close())
	}
	require.NoError(t, db.Close())
}
