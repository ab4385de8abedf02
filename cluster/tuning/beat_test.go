package tuning

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Beats of one period, or of a multiple of it, that begin at odd moments tick together.
func TestBeatsTickTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(17 * time.Millisecond)
		short := NewBeat(100 * time.Millisecond)
		defer short.Stop()
		time.Sleep(90 * time.Millisecond)
		long := NewBeat(200 * time.Millisecond)
		defer long.Stop()
		begin := time.Now()
		<-long.Next()
		require.Equal(t, 93*time.Millisecond, time.Since(begin), "at 200 ms")
		<-short.Next()
		require.Equal(t, 193*time.Millisecond, time.Since(begin), "the tick at 200 ms was not awaited")
		<-long.Next()
		<-short.Next()
		require.Equal(t, 393*time.Millisecond, time.Since(begin))
	})
}

// A loop that works once a period does so, though a timer fires a little early.
func TestNextBeatIsAboutAPeriodAway(t *testing.T) {
	at := time.Unix(1000, 0)
	for late, want := range map[time.Duration]time.Duration{
		0: 800, 1: 799, 600: 200, 700: 100, 701: 899, 799: 801,
	} {
		require.Equal(t, want*time.Millisecond, NextBeat(at.Add(late*time.Millisecond), 800*time.Millisecond), "%d ms", late)
	}
}

// Each fourth tick comes while it need not be more.
func TestRareBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rare := true
		b := NewBeat(100 * time.Millisecond).RareWhile(func() bool { return rare })
		defer b.Stop()
		begin := time.Now() // a multiple of all periods
		require.True(t, b.Wait(t.Context()))
		require.Equal(t, 400*time.Millisecond, time.Since(begin))
		rare = false
		require.True(t, b.Wait(t.Context()))
		require.Equal(t, 500*time.Millisecond, time.Since(begin))
	})
}
