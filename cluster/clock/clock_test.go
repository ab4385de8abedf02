package clock

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestNowIsNeverBeforeAStamp: an entry made due "now" is due on every node that can
// see it, however late its entry came.
func TestNowIsNeverBeforeAStamp(t *testing.T) {
	at := time.Hour
	s := &StateClock{quick: func() time.Duration { return at }, wall: func() time.Time { return time.UnixMilli(77) }}
	require.Equal(t, time.UnixMilli(77), s.Now(), "a new cluster goes by the wall clock")
	const state = int64(1_800_000_000_000)
	s.Applied(state, true)
	require.Equal(t, state, s.Now().UnixMilli())
	at += time.Minute
	require.Equal(t, state+60_000, s.Now().UnixMilli(), "it runs without entries")
	s.Applied(state+59_000, false)
	require.Equal(t, state+60_000, s.Now().UnixMilli(), "an entry that was delayed")
	s.Applied(state+60_400, false)
	require.Equal(t, state+60_400, s.Now().UnixMilli())
}

// TestNowFollowsASlewDownwards, after ten seconds at most, and a jump at once.
func TestNowFollowsASlewDownwards(t *testing.T) {
	at := time.Hour
	s := &StateClock{quick: func() time.Duration { return at }, wall: time.Now}
	const state = int64(1_800_000_000_000)
	clock := state
	s.Applied(clock, true)
	for range 300 {
		at, clock = at+time.Second, clock+900
		s.Applied(clock, false)
		require.GreaterOrEqual(t, s.Now().UnixMilli(), clock)
		require.LessOrEqual(t, s.Now().UnixMilli(), clock+1100)
	}
	s.Applied(state, true)
	require.Equal(t, state, s.Now().UnixMilli())
	at += 20 * time.Second
	require.Equal(t, state+20_000, s.Now().UnixMilli(), "buckets turn only when an entry comes")
}

// TestClocksAreInjected: clocks that are given take the place of the machine's.
func TestClocksAreInjected(t *testing.T) {
	k := NewClocks(func() time.Time { return time.UnixMilli(5) }, func() time.Duration { return 7 })
	require.Equal(t, time.UnixMilli(5), k.Wall())
	require.Equal(t, time.Duration(7), k.Boot())
	require.Equal(t, time.Duration(7), k.Quick())
	k = NewClocks(nil, nil)
	agrees := func(other func() time.Duration) {
		before := k.Boot()
		now, most := other(), 100*time.Millisecond
		require.GreaterOrEqual(t, now, before-most)
		require.LessOrEqual(t, now, k.Boot()+most)
	}
	agrees(k.Quick)
	k.slept.Add(-int64(time.Hour)) // as after a suspend of an hour
	k.Resync()
	agrees(k.Quick)
	k.slept.Add(-int64(time.Hour))
	k.asked.Add(-int64(freshness))
	agrees(k.Recent)
}

func TestBootClockRuns(t *testing.T) {
	a := BootNow()
	b := BootNow()
	require.Positive(t, a)
	require.GreaterOrEqual(t, b, a)
}
