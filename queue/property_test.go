package queue

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestAnyOrderOfEvents plays random events and then checks that everything has
// come to an end: each recipient settled for good exactly once, nothing left
// in memory, no list or ring out of order on the way.
func TestAnyOrderOfEvents(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld()
		outcomes := rapid.SliceOfN(rapid.IntRange(0, 9), 1, 40).Draw(rt, "outcomes")
		calls := 0
		w.deliver = func(ctx context.Context, j *Job) []Verdict {
			w.mu.Lock()
			k := outcomes[calls%len(outcomes)]
			if calls++; calls > 400 {
				k = 0
			}
			w.mu.Unlock()
			switch k {
			case 1:
				return all(j, Verdict{Outcome: Deferred, Reply: "451 later"})
			case 2:
				return all(j, Verdict{Outcome: Deferred, NextHop: true, Reply: "4.4.1 dead"})
			case 3:
				return all(j, Verdict{Outcome: Failed, Reply: "550 no"})
			case 4:
				v := all(j, Verdict{Outcome: Delivered})
				v[0].Outcome = Deferred
				return v[:1]
			case 5:
				time.Sleep(time.Duration(k) * time.Minute)
			case 6:
				return all(j, Verdict{Outcome: Deferred, Untried: true})
			}
			return all(j, Verdict{Outcome: Delivered, Reply: "250 Ok"})
		}
		w.after = func(n int) error {
			if n%7 == 3 {
				return ErrUnknown
			}
			return nil
		}
		events := rapid.SliceOfN(rapid.IntRange(0, 99), 1, 60).Draw(rt, "events")
		w.run(t, Config{
			Policy: RetryPolicy{First: time.Minute, Max: 10 * time.Minute, Lifetime: 2 * time.Hour, DelayNotice: time.Hour},
			Limits: Limits{Workers: 3, Initial: 2, PerDestination: 3, Recipients: 2, Verdicts: 5, Unsettled: 6},
		}, func(m *Manager) {
			var known [][]Waiting
			for i, e := range events {
				switch pick := e / 10; {
				case pick < 4 || len(known) == 0:
					var to []string
					for k := range e%5 + 1 {
						to = append(to, fmt.Sprintf("u%d@d%d.example", k, (e+k)%4))
					}
					x := w.message(to...)
					for k := range x {
						x[k].Priority = int32(e%3 - 1)
					}
					known = append(known, x)
					m.Add(x)
				case pick < 6:
					w.wait(time.Duration(e-40) * time.Minute)
				case pick == 6:
					m.Reset()
				case pick == 7: // an operator's retry
					w.mu.Lock()
					var x []Waiting
					for _, y := range known[i%len(known)] {
						if it := w.items[y.Ref]; !it.gone {
							it.Next, it.Parked = time.Now(), false
							x = append(x, it.Waiting)
						}
					}
					w.mu.Unlock()
					m.Add(x)
				case pick == 8: // held
					w.mu.Lock()
					it := w.items[known[i%len(known)][0].Ref]
					it.Parked = !it.gone
					x := []Waiting{it.Waiting}
					gone := it.gone
					w.mu.Unlock()
					if !gone {
						m.Add(x)
					}
				default: // deleted
					w.mu.Lock()
					it := w.items[known[i%len(known)][0].Ref]
					it.gone = true
					ref := it.Ref
					w.mu.Unlock()
					m.Drop([]Ref{ref})
				}
				m.check(t)
			}
			w.mu.Lock()
			var free []Waiting
			for _, it := range w.items {
				if it.Parked && !it.gone {
					it.Parked = false
					free = append(free, it.Waiting)
				}
			}
			w.mu.Unlock()
			m.Add(free)
			w.wait(4 * time.Hour)
			synctest.Wait()
			m.check(t)
			s := m.Stats()
			require.Zero(t, s.Waiting+s.Ready+s.Active+s.Parked+s.Unsettled, "%+v", s)
			final := map[Ref]int{}
			for _, v := range w.settled {
				if v.Outcome != Deferred {
					final[v.Ref]++
				}
			}
			for ref, it := range w.items {
				require.True(t, it.gone)
				require.LessOrEqual(t, final[ref], 1)
			}
		})
	})
}

// check looks at the whole state.
func (m *Manager) check(t *testing.T) {
	t.Helper()
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	require.NoError(t, m.queue.Check(time.Now().UnixNano()))
}
