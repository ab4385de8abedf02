package tuning

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The caches of a store have no more than its memory together, unless that is very
// little.
func TestMemoryIsShared(t *testing.T) {
	for _, memory := range []int64{16 << 20, 40 << 20, 64 << 20, 160 << 20, 1 << 40} {
		var got Tuning
		got.ShareMemory(memory)
		require.Equal(t, memory, got.BlockCache+2*got.MemTable+got.LogCache)
		require.GreaterOrEqual(t, got.BlockCache, memory/4)
		require.LessOrEqual(t, got.MemTable, int64(32<<20))
	}
	var got Tuning
	got.ShareMemory(1 << 20)
	require.Equal(t, Tuning{BlockCache: 1 << 20, MemTable: 4 << 20, LogCache: 1 << 20}, got, "less does not work")

	got = Tuning{}
	got.ShareMemory(0)
	require.Equal(t, Tuning{}, got)
	got = Tuning{MemTable: 1, LogCache: 2}
	got.ShareMemory(12 << 20)
	require.Equal(t, Tuning{BlockCache: 12 << 20, MemTable: 1, LogCache: 2}, got)
}
