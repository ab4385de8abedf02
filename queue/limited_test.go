package queue

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/queue/limit"
)

// limited is an agent that finds one limit for all domains, and what a leader of one node would answer.
type limited struct {
	gates *limit.Gates
	began time.Time

	mu         sync.Mutex
	jobs, most int
	begun      []time.Duration
	perJob     []int
}

func (l *limited) deliver(_ context.Context, j *Job) []Verdict {
	p := &j.Limits
	gates := l.gates.For("site:x")
	if !p.Pass.Same(gates) || p.Pass == nil && len(gates) > 0 {
		p.Gates, p.Found = gates, true
		if p.Pass = limit.Begin(gates, len(j.Recipients)); p.Pass == nil && len(gates) > 0 {
			return all(j, Verdict{Outcome: Deferred, Untried: true})
		}
	}
	if p.Pass.Start(len(j.Recipients)) != "" {
		return all(j, Verdict{Outcome: Deferred, Untried: true})
	}
	l.mu.Lock()
	l.jobs++
	l.most = max(l.most, l.jobs)
	l.begun, l.perJob = append(l.begun, time.Since(l.began)), append(l.perJob, len(j.Recipients))
	l.mu.Unlock()
	time.Sleep(50 * time.Millisecond)
	l.mu.Lock()
	l.jobs--
	l.mu.Unlock()
	return all(j, Verdict{Outcome: Delivered, Reply: "250 Ok"})
}

// lead answers the asks of the node until ctx ends.
func (l *limited) lead(ctx context.Context, m *Manager, text string) {
	set, err := limit.ParseSet([]string{text})
	if err != nil {
		panic(err)
	}
	l.gates.SetLimits(set)
	ledger := limit.NewLedger()
	ledger.SetLimits(set)
	ledger.Lead(1, func() []string { return []string{"n1"} }, time.Since(l.began))
	for ctx.Err() == nil {
		ask, _ := l.gates.Ask(1)
		answer, err := ledger.Take("n1", ask, time.Since(l.began))
		if err != nil {
			panic(err)
		}
		granted, _ := l.gates.Grant(ask, answer)
		for _, g := range granted {
			m.Kick(g)
		}
		for next := time.Since(l.began) + limit.Period; time.Since(l.began) < next; time.Sleep(5 * time.Millisecond) {
			for _, g := range l.gates.Due() {
				m.Kick(g)
			}
		}
	}
}

func limitedRun(t *testing.T, text string, messages int, f func(l *limited, w *world, m *Manager)) {
	t.Helper()
	w, l := newWorld(), &limited{}
	w.deliver = l.deliver
	w.run(t, Config{}, func(m *Manager) {
		l.began = time.Now()
		l.gates = limit.NewGates(func() time.Duration { return time.Since(l.began) }, func() {})
		ctx, stop := context.WithCancel(context.Background())
		var leads sync.WaitGroup
		leads.Go(func() { l.lead(ctx, m, text) })
		w.wait(time.Second)
		for i := range messages {
			m.Add(w.message(fmt.Sprintf("a@d%d.example", i%5), fmt.Sprintf("b@d%d.example", i%5)))
		}
		f(l, w, m)
		stop()
		leads.Wait()
	})
}

// TestJobsWithinALimit: of five domains of one site, no more jobs run than the limit has connections, and all are done.
func TestJobsWithinALimit(t *testing.T) {
	limitedRun(t, "site:x connections=3", 100, func(l *limited, w *world, m *Manager) {
		w.wait(3 * time.Second)
		require.Zero(t, m.Stats().Ready+m.Stats().Active)
		require.Equal(t, 3, l.most)
		require.EqualValues(t, 200, m.Stats().Totals.Delivered)
		require.Less(t, m.Stats().Totals.Jobs, uint64(130), "hardly any job is loaded in vain")
	})
}

// TestMessagesWithinARate: they begin one by one, and what waits says why.
func TestMessagesWithinARate(t *testing.T) {
	limitedRun(t, "site:x rate=20/s", 100, func(l *limited, w *world, m *Manager) {
		w.wait(2 * time.Second)
		require.InDelta(t, 40, len(l.begun), 6)
		waits := 0
		for _, ref := range w.refs() {
			if m.Why(ref) == "waiting for its turn within the limit of site:x (rate=20/s)" {
				waits++
			}
		}
		require.Greater(t, waits, 80)
		w.wait(5 * time.Second)
		require.EqualValues(t, 200, m.Stats().Totals.Delivered)
	})
}

// TestRecipientsWithinARate: a message of more recipients than may begin goes in parts.
func TestRecipientsWithinARate(t *testing.T) {
	limitedRun(t, "site:x recipients=10/s", 20, func(l *limited, w *world, m *Manager) {
		w.wait(6 * time.Second)
		require.EqualValues(t, 40, m.Stats().Totals.Delivered)
		require.Greater(t, l.begun[len(l.begun)-1]-l.begun[0], 3*time.Second)
	})
}

// TestALimitTakenAway: what waited goes on at once.
func TestALimitTakenAway(t *testing.T) {
	limitedRun(t, "site:x rate=1/m", 50, func(l *limited, w *world, m *Manager) {
		w.wait(5 * time.Second)
		require.LessOrEqual(t, len(l.begun), 2)
		for _, g := range l.gates.SetLimits(nil) {
			m.Kick(g)
		}
		w.wait(2 * time.Second)
		require.EqualValues(t, 100, m.Stats().Totals.Delivered)
	})
}

func (w *world) refs() (refs []Ref) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for r := range w.items {
		refs = append(refs, r)
	}
	return refs
}
