package node

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/node/config"
)

// The cluster gets the sizes and times that the configuration has.
func TestTuningOfConfiguration(t *testing.T) {
	text := "[storage]\ncache = \"12MB\"\n[cluster]\nlatency = \"200ms\"\n"
	c, problems := config.Parse([]byte(text), func(string) (string, bool) { return "", false })
	require.NotNil(t, c, problems)
	got := tuningOf(c, cluster.Tuning{MemTable: 1})
	require.EqualValues(t, 12*config.MB, got.BlockCache)
	require.Equal(t, 200*time.Millisecond, got.Latency)
	require.EqualValues(t, 1, got.MemTable)
	require.EqualValues(t, 5, tuningOf(c, cluster.Tuning{BlockCache: 5}).BlockCache, "a test's own comes first")
}
