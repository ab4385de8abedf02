package queue

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// ruledWorld is a world with one rule, on recipients whose name begins with "x".
func ruledWorld(is Ruling) *world {
	w := newWorld()
	is.Rule = 7
	w.rules = func(address string) *Ruling {
		if strings.HasPrefix(address, "x") {
			return &is
		}
		return nil
	}
	return w
}

// TestRuleHolds: held mail costs no attempt and no commit, and goes as soon as the rule is gone.
func TestRuleHolds(t *testing.T) {
	w := ruledWorld(Ruling{Act: Hold})
	w.run(t, Config{Policy: RetryPolicy{Lifetime: time.Hour, DelayNotice: 30 * time.Minute}}, func(m *Manager) {
		x := w.message("x@one.example", "a@one.example", "xx@two.example")
		m.Add(x)
		w.wait(3 * time.Hour)
		require.Equal(t, []string{"one.example/1"}, w.jobs, "beside it all goes on")
		require.Len(t, w.settled, 1)
		require.Empty(t, w.notices)
		require.Equal(t, 2, m.Stats().Parked)
		require.Contains(t, m.Why(x[0].Ref), "for a rule to end")
		m.Reset()
		w.wait(time.Second)
		require.Equal(t, 2, m.Stats().Parked, "the rule is still there")
		w.mu.Lock()
		w.rules = func(string) *Ruling { return nil }
		w.mu.Unlock()
		m.Reset()
		w.wait(time.Second)
		require.Len(t, w.settled, 3)
		require.Zero(t, m.Stats().Parked)
	})
}

// TestRuleGoesWhileItIsObeyed: an entry that was loaded under a rule that is gone by the time it would be parked does
// not stay there.
func TestRuleGoesWhileItIsObeyed(t *testing.T) {
	w := ruledWorld(Ruling{Act: Hold})
	held := w.rules
	w.run(t, Config{}, func(m *Manager) {
		x := w.message("x@one.example")
		w.mu.Lock()
		w.rules = func(address string) *Ruling {
			w.rules = func(string) *Ruling { return nil } // it goes now
			m.mu.Lock()
			m.queue.BeginScan()
			m.queue.Put(&x[0], time.Now().UnixNano(), true) // and a scan meets the entry
			m.mu.Unlock()
			return held(address)
		}
		w.mu.Unlock()
		m.Add(x)
		w.wait(time.Second)
		require.Len(t, w.settled, 1)
		require.Zero(t, m.Stats().Parked)
	})
}

// TestRuleSuspends: suspended mail ages. Its sender hears of the delay, and in the end of the failure, without an
// attempt.
func TestRuleSuspends(t *testing.T) {
	w := ruledWorld(Ruling{Act: Suspend, Reply: "4.3.2 suspended by the operator: moving house"})
	w.run(t, Config{Policy: RetryPolicy{Lifetime: 4 * time.Hour, DelayNotice: time.Hour}}, func(m *Manager) {
		m.Add(w.message("x@one.example"))
		w.wait(30 * time.Minute)
		require.Empty(t, w.settled)
		m.Reset()
		w.wait(45 * time.Minute)
		require.Len(t, w.settled, 1, "the delay")
		require.Equal(t, "rule 7", w.settled[0].Host)
		require.Contains(t, string(w.notices[0].Body), "Action: delayed")
		require.Contains(t, string(w.notices[0].Body), "moving house")
		require.NotContains(t, string(w.notices[0].Body), "rule 7", "which means nothing to the sender")
		w.wait(4 * time.Hour)
		require.Len(t, w.settled, 2)
		require.Equal(t, Expired, w.settled[1].Outcome)
		require.Contains(t, string(w.notices[1].Body), "Action: failed")
		require.Empty(t, w.jobs)
	})
}

// TestSuspendedMailGoesOn when its rule is gone.
func TestSuspendedMailGoesOn(t *testing.T) {
	w := ruledWorld(Ruling{Act: Suspend})
	w.run(t, Config{}, func(m *Manager) {
		x := w.message("x@one.example")
		m.Add(x)
		w.wait(10 * time.Minute)
		w.mu.Lock()
		w.rules = func(string) *Ruling { return nil }
		w.mu.Unlock()
		m.Reset()
		w.wait(time.Second)
		require.Len(t, w.settled, 1)
		require.Equal(t, Delivered, w.settled[0].Outcome)
	})
}

// TestRuleRedirects: mail goes to the other hop, and shares its limits; when the rule is gone, what waits goes back.
func TestRuleRedirects(t *testing.T) {
	w := ruledWorld(Ruling{Act: Redirect, Hop: "smtp:other.example"})
	w.run(t, Config{}, func(m *Manager) {
		x := w.message("x@one.example", "a@one.example")
		m.Add(x)
		synctest.Wait()
		require.ElementsMatch(t, []string{"one.example/1", "smtp:other.example/1"}, w.jobs)
		require.Len(t, w.settled, 2)

		w.deliver = func(_ context.Context, j *Job) []Verdict {
			return all(j, Verdict{Outcome: Deferred, Reply: "451 later"})
		}
		m.Add(w.message("x2@one.example"))
		w.wait(time.Minute)
		w.mu.Lock()
		w.deliver, w.jobs = nil, nil
		w.rules = func(string) *Ruling { return nil }
		w.mu.Unlock()
		w.wait(20 * time.Minute)
		require.Equal(t, []string{"one.example/1"}, w.jobs)
	})
}

// TestRuleEnds: a rule that bounces gives its reason to the sender; one that discards tells nobody. Neither waits for a
// destination that does not answer.
func TestRuleEnds(t *testing.T) {
	for act, reply := range map[Act]string{Refuse: "5.7.1 we know you", Discard: "2.0.0 discarded by rule 7"} {
		w := ruledWorld(Ruling{Act: act, Reply: reply})
		w.deliver = func(_ context.Context, j *Job) []Verdict {
			return all(j, Verdict{Outcome: Deferred, NextHop: true, Reply: "4.4.1 dead"})
		}
		w.run(t, Config{}, func(m *Manager) {
			m.Add(w.message("a@one.example"))
			synctest.Wait()
			require.Len(t, w.settled, 1, "the destination is backed off from now")
			x := w.message("x@one.example", "b@one.example")
			x[0].Ends, x[0].Next = true, time.Time{}
			m.Add(x)
			synctest.Wait()
			require.Len(t, w.settled, 2)
			got := w.settled[1]
			require.Equal(t, x[0].Ref, got.Ref)
			require.Equal(t, []string{reply, "rule 7"}, []string{got.Reply, got.Host})
			s := m.Stats()
			if act == Discard {
				require.Equal(t, Discarded, got.Outcome)
				require.EqualValues(t, 1, s.Totals.Discarded)
				require.Empty(t, w.notices)
				return
			}
			require.Equal(t, Failed, got.Outcome)
			require.Len(t, w.notices, 1)
			require.Contains(t, string(w.notices[0].Body), "5.7.1 we know you")
		})
	}
}

// TestRuleEndsSome: of a message to several, those that a rule ends are ended and the others are tried.
func TestRuleEndsSome(t *testing.T) {
	w := ruledWorld(Ruling{Act: Refuse, Reply: "5.7.1 no"})
	w.run(t, Config{}, func(m *Manager) {
		m.Add(w.message("a@one.example", "x@one.example", "b@one.example", "xx@one.example"))
		synctest.Wait()
		require.Len(t, w.settled, 4)
		s := m.Stats().Totals
		require.EqualValues(t, 2, s.Delivered)
		require.EqualValues(t, 2, s.Failed)
		require.Equal(t, []string{"one.example/2"}, w.jobs)
		require.Len(t, w.notices, 1)
	})
}

// TestSuspendedMailIsLookedAtInTime: when its sender is to be told, by the policy or by DELIVERBY, or it is over.
func TestSuspendedMailIsLookedAtInTime(t *testing.T) {
	now := time.Unix(1e9, 0)
	p := &policy{RetryPolicy: RetryPolicy{Lifetime: 5 * time.Hour, DelayNotice: 4 * time.Hour}}
	by := &DeliverBy{Until: now.Add(2 * time.Hour)}
	for _, c := range []struct {
		by   *DeliverBy
		told bool
		want time.Duration
	}{{nil, false, 4 * time.Hour}, {nil, true, 5 * time.Hour}, {by, false, 2 * time.Hour}, {by, true, 5 * time.Hour}} {
		until := new(Manager).suspendedUntil(&Job{Created: now, DeliverBy: c.by}, &Recipient{DelayTold: c.told}, p, now)
		require.Equal(t, c.want, until.Sub(now))
	}
}
