package disk

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/stretchr/testify/require"
)

// Pebble measures by the clock: its reports after a pause count from when they were
// made.
func TestSlownessCountsNoPause(t *testing.T) {
	var s slowness
	now := time.Now()
	tell := func(after time.Duration) time.Duration {
		return s.lasted(pebble.DiskSlowInfo{Path: "x", Duration: after}, now.Add(after))
	}
	require.Less(t, tell(time.Hour), 10*time.Second, "a pause")
	at := time.Hour
	for range 12 {
		at += slowEvery
		require.Less(t, tell(at), 32*time.Second)
	}
	require.GreaterOrEqual(t, tell(at+slowEvery), 30*time.Second, "it hangs since then")
	now = now.Add(3 * time.Hour)
	require.Less(t, tell(40*time.Second), 10*time.Second, "another one")
}
