package cluster

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCrowdIsGathered(t *testing.T) {
	c := crowd{longest: time.Millisecond, share: shares}
	now := time.Now()
	require.Zero(t, c.patience(5, now), "nobody was here before")
	c.answered(10, 10, now.Add(-time.Hour), now)
	require.Equal(t, time.Millisecond, c.patience(10, now), "the ten that were answered may come back")
	require.Zero(t, c.patience(18, now.Add(100*time.Microsecond)), "nearly all are here")
	c.answered(20, 0, now.Add(-600*time.Microsecond), now)
	require.Zero(t, c.patience(0, now), "an empty group waits for the first")
	require.Equal(t, 300*time.Microsecond, c.patience(1, now), "at most half of what the last group took")
}

func TestCrowdOfFewDoesNotWait(t *testing.T) {
	c := crowd{longest: time.Millisecond, share: shares}
	now := time.Now()
	c.answered(3, 0, now.Add(-time.Second), now)
	require.Zero(t, c.patience(1, now))
}

func TestCrowdThatDoesNotComeBackIsNotWaitedFor(t *testing.T) {
	c := crowd{longest: time.Millisecond, share: shares}
	now := time.Now()
	waits := 0
	for range probeEvery {
		c.answered(20, 1, now.Add(-time.Second), now)
		if d := c.patience(1, now); d > 0 {
			waits++
			now = now.Add(d)
			require.Zero(t, c.patience(1, now), "the time is over")
		}
	}
	require.Less(t, waits, 8)
	paid := 0
	for range 3 * probeEvery {
		c.answered(20, 0, now.Add(-time.Second), now)
		if c.patience(1, now) > 0 {
			paid++
			require.Zero(t, c.patience(20, now))
		}
	}
	require.Greater(t, paid, probeEvery, "where it pays it is done again")
}
