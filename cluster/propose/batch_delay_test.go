package propose

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBatchDelayGathersProposers(t *testing.T) {
	c := batchDelay{longest: time.Millisecond, share: shares}
	now := time.Now()
	require.Zero(t, c.left(5, now), "nobody was here before")
	c.answered(10, 10, now.Add(-time.Hour), now)
	require.Equal(t, time.Millisecond, c.left(10, now), "the ten that were answered may come back")
	require.Zero(t, c.left(18, now.Add(100*time.Microsecond)), "nearly all are here")
	c.answered(20, 0, now.Add(-600*time.Microsecond), now)
	require.Zero(t, c.left(0, now), "an empty group waits for the first")
	require.Equal(t, 300*time.Microsecond, c.left(1, now), "at most half of what the last group took")
}

func TestBatchDelayOfFewIsNone(t *testing.T) {
	c := batchDelay{longest: time.Millisecond, share: shares}
	now := time.Now()
	c.answered(3, 0, now.Add(-time.Second), now)
	require.Zero(t, c.left(1, now))
}

func TestBatchDelayThatDoesNotPayShrinks(t *testing.T) {
	c := batchDelay{longest: time.Millisecond, share: shares}
	now := time.Now()
	waits := 0
	for range probeEvery {
		c.answered(20, 1, now.Add(-time.Second), now)
		if d := c.left(1, now); d > 0 {
			waits++
			now = now.Add(d)
			require.Zero(t, c.left(1, now), "the time is over")
		}
	}
	require.Less(t, waits, 8)
	paid := 0
	for range 3 * probeEvery {
		c.answered(20, 0, now.Add(-time.Second), now)
		if c.left(1, now) > 0 {
			paid++
			require.Zero(t, c.left(20, now))
		}
	}
	require.Greater(t, paid, probeEvery, "where it pays it is done again")
}
