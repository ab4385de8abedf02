package queue

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// skewed is a clock that is wrong by a settable difference.
type skewed struct{ by atomic.Int64 }

func (s *skewed) now() time.Time       { return time.Now().Add(time.Duration(s.by.Load())) }
func (s *skewed) step(d time.Duration) { s.by.Add(int64(d)) }

// TestMailIsDueByTheConfiguredClock, whatever the machine's says.
func TestMailIsDueByTheConfiguredClock(t *testing.T) {
	for _, by := range []time.Duration{-10 * 24 * time.Hour, -45 * time.Second, 45 * time.Second, 2 * time.Hour} {
		w := newWorld()
		s := &skewed{}
		s.step(by)
		w.run(t, Config{Now: s.now}, func(m *Manager) {
			x := w.message("a@one.example", "b@two.example")
			x[0].Next, x[1].Next = s.now(), s.now().Add(time.Minute)
			m.Add(x)
			w.wait(time.Second)
			require.Len(t, w.settled, 1, "%s", by)
			require.WithinDuration(t, s.now(), w.settled[0].At, 2*time.Second, "verdicts are of that clock")
			w.wait(time.Minute)
			require.Len(t, w.settled, 2, "%s", by)
		})
	}
}

// TestAStepForwardIsSeenWithoutAWake: the scheduler never sleeps for longer than
// five seconds.
func TestAStepForwardIsSeenWithoutAWake(t *testing.T) {
	w := newWorld()
	s := &skewed{}
	w.run(t, Config{Now: s.now}, func(m *Manager) {
		x := w.message("a@one.example")
		x[0].Next = s.now().Add(time.Hour)
		m.Add(x)
		w.wait(7 * time.Second)
		s.step(time.Hour)
		w.wait(longSleep)
		require.Len(t, w.settled, 1)
	})
}

// TestABackOffSurvivesNoStepBack: a destination keeps its back-off,
// not until the clock is again where it was.
func TestABackOffSurvivesNoStepBack(t *testing.T) {
	w := newWorld()
	s := &skewed{}
	var up atomic.Bool
	w.deliver = func(_ context.Context, j *Job) []Verdict {
		if up.Load() {
			return all(j, Verdict{Outcome: Delivered, Reply: "250 Ok", Host: "mx"})
		}
		return all(j, Verdict{Outcome: Deferred, Reply: "4.4.1 refused", Host: "mx", NextHop: true})
	}
	w.run(t, Config{Now: s.now}, func(m *Manager) {
		s.step(10 * 24 * time.Hour)
		m.Add(w.message("a@one.example"))
		w.wait(time.Second)
		require.Len(t, w.settled, 1)
		s.step(-10 * 24 * time.Hour)
		up.Store(true)
		x := w.message("b@one.example")
		m.Add(x)
		m.Reset()
		w.wait(31 * time.Second)
		require.Len(t, w.settled, 2)
		require.Equal(t, x[0].Ref, w.settled[1].Ref)
	})
}

// TestNothingIsGivenUpWhileTheClockIsInDoubt: no end, no notice of a delay, and no
// attempt more than the schedule has; when the clock can be relied on, both come.
func TestNothingIsGivenUpWhileTheClockIsInDoubt(t *testing.T) {
	w := newWorld()
	s := &skewed{}
	var sure atomic.Bool
	w.deliver = func(_ context.Context, j *Job) []Verdict {
		return all(j, Verdict{Outcome: Deferred, Reply: "451 no", Host: "mx"})
	}
	w.run(t, Config{Now: s.now, Ageing: sure.Load}, func(m *Manager) {
		m.Add(w.message("a@one.example"))
		w.wait(time.Second)
		s.step(10 * 24 * time.Hour)
		w.wait(24 * time.Hour)
		require.NotEmpty(t, w.settled)
		require.Less(t, len(w.settled), 20, "tried by the schedule")
		for _, v := range w.settled {
			require.Equal(t, Deferred, v.Outcome)
		}
		require.Empty(t, w.notices)
		sure.Store(true)
		w.wait(5 * time.Hour)
		require.Equal(t, Expired, w.settled[len(w.settled)-1].Outcome)
		require.NotEmpty(t, w.notices)
	})
}

// TestLongestIsNeverSurpassed: whatever the jitter, no wait is longer, and there
// is none before the first attempt.
func TestLongestIsNeverSurpassed(t *testing.T) {
	p := RetryPolicy{First: time.Minute, Max: 10 * time.Minute, Factor: 2, Jitter: 0.2}
	require.Zero(t, p.Longest(0))
	require.Zero(t, p.Longest(-1))
	require.Equal(t, 72*time.Second, p.Longest(1))
	require.Equal(t, 144*time.Second, p.Longest(2))
	require.Equal(t, 12*time.Minute, p.Longest(1000))
	require.Equal(t, 330*time.Second, RetryPolicy{}.Longest(1), "the defaults")
	for _, p := range []RetryPolicy{p, {}, {First: time.Second, Max: time.Second}} {
		for attempts := 1; attempts < 200; attempts++ {
			for _, rnd := range []float64{0, 0.5, 0.999999} {
				wait, _ := p.Schedule()(attempts, 0, rnd)
				require.LessOrEqual(t, wait, p.Longest(attempts))
			}
		}
	}
}
