package queue

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"relay/queue/bounce"
	"relay/queue/replyclass"
	"relay/queue/retry"
)

func ownRules(t *testing.T, rules ...string) *retry.Table {
	table, err := retry.Parse(rules)
	require.NoError(t, err)
	return table
}

// noJitter is a Rand with which waits are as the policy says.
func noJitter() float64 { return 0.5 }

// TestRetriesByDomainAndClass: what the last reply means, and the domain, decide on the next attempt.
func TestRetriesByDomainAndClass(t *testing.T) {
	w := newWorld()
	w.deliver = func(_ context.Context, j *Job) []Verdict {
		reply := "451 4.2.0 try later"
		if j.Domain == "grey.example" && j.Recipients[0].Attempts == 0 {
			reply = "450 4.7.1 Greylisted, come back in 5 minutes"
		}
		return all(j, Verdict{Outcome: Deferred, Reply: reply})
	}
	rules := ownRules(t, "* greylist first=90s max=90s", "slow.example first=1h max=2h factor=2")
	w.run(t, Config{Rand: noJitter, Policy: RetryPolicy{Rules: rules}}, func(m *Manager) {
		begin := time.Now()
		m.Add(w.message("a@grey.example"))
		m.Add(w.message("a@slow.example"))
		m.Add(w.message("a@other.example"))
		w.wait(time.Second)
		waits := map[string]time.Duration{}
		for _, v := range w.settled {
			waits[w.items[v.Ref].Domain] = v.Next.Sub(begin).Truncate(time.Second)
		}
		require.Equal(t, map[string]time.Duration{
			"grey.example": 90 * time.Second, "slow.example": time.Hour, "other.example": 5 * time.Minute,
		}, waits)
		w.wait(2 * time.Minute)
		require.Len(t, w.settled, 4)
		last := w.settled[3]
		require.Equal(t, "grey.example", w.items[last.Ref].Domain)
		require.Equal(t, 9*time.Minute, last.Next.Sub(last.At).Truncate(time.Second), "no longer greylisted")
	})
}

// TestLifetimeByDomain: a recipient whose domain has a time of its own is given up by it, also while its destination
// does not answer, and its sender is told in time.
func TestLifetimeByDomain(t *testing.T) {
	w := newWorld()
	w.deliver = func(_ context.Context, j *Job) []Verdict {
		return all(j, Verdict{Outcome: Deferred, NextHop: true, Reply: "4.4.1 connection refused"})
	}
	w.lifetimes = map[string]time.Duration{"short.example": 6 * time.Hour}
	rules := ownRules(t, "short.example expire=6h notice=1h", "quiet.example notice=never")
	w.run(t, Config{Policy: RetryPolicy{Rules: rules}}, func(m *Manager) {
		for range 20 {
			m.Add(w.message("a@short.example"))
			m.Add(w.message("a@long.example"))
			m.Add(w.message("a@quiet.example"))
		}
		w.wait(90 * time.Minute)
		require.Equal(t, map[string]int{"short.example": 20}, w.toldOf(bounce.Delay))
		w.wait(3*time.Hour + 15*time.Minute)
		require.Equal(t, map[string]int{"short.example": 20, "long.example": 20}, w.toldOf(bounce.Delay))
		w.wait(90 * time.Minute)
		require.EqualValues(t, 20, m.Stats().Totals.Expired)
		require.Equal(t, map[string]int{"short.example": 20}, w.toldOf(bounce.Failure))
		require.Len(t, w.notices, 60)
	})
}

// TestHopOfManyDomains: where a hop takes several domains, a look that comes too early for one of them does not keep
// its sender from being told later.
func TestHopOfManyDomains(t *testing.T) {
	w := newWorld()
	w.deliver = func(_ context.Context, j *Job) []Verdict {
		return all(j, Verdict{Outcome: Deferred, NextHop: true, Reply: "4.4.1 connection refused"})
	}
	rules := ownRules(t, "soon.example notice=1h")
	hop := func(string) string { return "smtp:hop.example" }
	w.run(t, Config{Route: hop, Policy: RetryPolicy{Rules: rules}}, func(m *Manager) {
		for range 20 {
			m.Add(w.message("a@soon.example"))
			m.Add(w.message("a@later.example"))
		}
		w.wait(2 * time.Hour)
		require.Equal(t, map[string]int{"soon.example": 20}, w.toldOf(bounce.Delay))
		w.wait(3 * time.Hour)
		require.Equal(t, map[string]int{"soon.example": 20, "later.example": 20}, w.toldOf(bounce.Delay))
	})
}

// TestStrangersHearOfDelaysOnRequestOnly: RFC 3461 §4.1 leaves it to us without NOTIFY; of failures everybody hears.
func TestStrangersHearOfDelaysOnRequestOnly(t *testing.T) {
	for name, c := range map[string]struct {
		stranger bool
		notify   uint32
		want     int
	}{
		"known":                {false, 0, 1},
		"stranger":             {true, 0, 0},
		"stranger asks":        {true, NotifyDelay, 1},
		"stranger wants other": {true, NotifyFailure, 0},
		"known wants other":    {false, NotifyFailure, 0},
		"known wants nothing":  {false, NotifyNever, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.stranger = c.stranger
			w.deliver = func(_ context.Context, j *Job) []Verdict {
				return all(j, Verdict{Outcome: Deferred, Reply: "451 4.2.0 try later"})
			}
			w.run(t, Config{}, func(m *Manager) {
				x := w.message("a@one.example")
				w.items[x[0].Ref].notify = c.notify
				m.Add(x)
				w.wait(10 * time.Hour)
				require.Equal(t, c.want, w.toldOf(bounce.Delay)["one.example"], "once at most")
			})
		})
	}
}

// TestDelayNoticeOff: nobody is told, whoever asked.
func TestDelayNoticeOff(t *testing.T) {
	w := newWorld()
	w.deliver = func(_ context.Context, j *Job) []Verdict {
		return all(j, Verdict{Outcome: Deferred, Reply: "451 4.2.0 try later"})
	}
	w.run(t, Config{Policy: RetryPolicy{DelayNotice: -time.Second}}, func(m *Manager) {
		m.Add(w.message("a@one.example"))
		w.wait(24 * time.Hour)
		require.Empty(t, w.notices)
	})
}

// TestNoticesByTemplate: notices say what the operator wants from the next on.
func TestNoticesByTemplate(t *testing.T) {
	w := newWorld()
	w.deliver = func(_ context.Context, j *Job) []Verdict {
		return all(j, Verdict{Outcome: Failed, Reply: "550 5.1.1 no"})
	}
	w.run(t, Config{}, func(m *Manager) {
		own, err := bounce.ParseTemplate("[failure]\nSubject: sorry\n\nOur house regrets.\n{recipients}\n")
		require.NoError(t, err)
		for i, want := range []string{"It will not be tried again", "Our house regrets.", "It will not be tried again"} {
			m.Add(w.message("a@one.example"))
			synctest.Wait()
			require.Len(t, w.notices, i+1)
			require.Contains(t, string(w.notices[i].Body), want)
			if m.SetTemplate(own); i == 1 {
				m.SetTemplate(nil)
			}
		}
	})
}

// TestSlowsDownWhereAHostSaysSo: with the setting a destination that wants less at a time gets less, also where it took
// some; without it, and of other replies, it goes on as it was.
func TestSlowsDownWhereAHostSaysSo(t *testing.T) {
	for name, c := range map[string]struct {
		slow  []replyclass.Class
		reply string
		want  bool
	}{
		"rate":          {[]replyclass.Class{replyclass.Blocklist, replyclass.Rate}, "451 4.7.1 rate limit exceeded", true},
		"another reply": {[]replyclass.Class{replyclass.Rate}, "452 4.2.2 mailbox full", false},
		"the default":   {nil, "451 4.7.1 rate limit exceeded", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.deliver = func(_ context.Context, j *Job) []Verdict {
				verdicts := all(j, Verdict{Outcome: Deferred, Reply: c.reply})
				verdicts[0] = Verdict{Ref: verdicts[0].Ref, Outcome: Delivered, Reply: "250 Ok"}
				return verdicts
			}
			w.run(t, Config{Policy: RetryPolicy{Slow: c.slow}}, func(m *Manager) {
				for range 30 {
					m.Add(w.message("a@one.example", "b@one.example"))
				}
				w.wait(time.Second)
				require.Equal(t, c.want, m.Stats().Ready > 0, "%+v", m.Stats())
				require.Equal(t, c.want, len(w.jobs) < 30)
			})
		})
	}
}
