package spool_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"relay/cluster/spool"
)

func TestBorder(t *testing.T) {
	now := time.Date(2026, 12, 1, 10, 59, 59, 0, time.UTC)
	var id spool.ID
	require.NoError(t, id.SetTime(uint64(time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC).UnixMilli())))
	cut := string(id[:6])
	for start, want := range map[string]string{
		"": "\x01", "\x00meta": "\x01", "\x01": "T", "B1": "T", "S": "T", "T1": "U", "U": "b", "a": "b",
		"c": "e", "d": "e", "e": "f", "g": "h", "i": "m", "l": "m", "n": "r", "q": "r", "s": "", "z": "", "\xff": "",
		"m":             "m" + cut,
		"m\x00":         "m" + cut,
		"m" + cut:       "n",
		"m" + cut + "0": "n",
		"b\x01":         "b" + cut,
		"f\x01":         "f" + cut,
		"h\x01":         "h" + cut,
		"r\xff":         "s",
	} {
		require.Equal(t, want, string(spool.Border([]byte(start), now)), "%q", start)
	}
	require.Equal(t, "n", string(spool.Border([]byte("m1"), time.Time{})), "a clock before 1970")
}

// A border is always behind the key that asks for it: else a compaction would never end.
func TestBorderIsAhead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "start")
		now := time.UnixMilli(rapid.Int64Range(-1<<40, 1<<49).Draw(t, "now"))
		if end := spool.Border(start, now); end != nil {
			require.Positive(t, bytes.Compare(end, start))
		}
	})
}
