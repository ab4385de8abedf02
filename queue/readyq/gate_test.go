package readyq

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// door is a gate of tests.
type door struct{ room, jobs, ready, attached int }

func (d *door) Room() int { return d.room }

func (d *door) Demand(jobs, ready int) { d.jobs, d.ready = d.jobs+jobs, d.ready+ready }

func (d *door) Attached(n int) { d.attached += n }

func gatedQueue() *Queue {
	return New(Limits{Workers: 64, PerDestination: 20, Initial: 5, Recipients: 100, BackOffFirst: time.Second,
		BackOffMax: time.Minute}, nil)
}

func putMail(q *Queue, n int, domain string) {
	var id ID
	id[14], id[15] = byte(n>>8), byte(n)
	q.Put(&Waiting{Ref: Ref{ID: id}, Domain: domain, Next: time.Unix(0, 1)}, 1, false)
}

// TestAGateStopsAndLetsGo: destinations of one gate go in turns, as many at a time as it has room for.
func TestAGateStopsAndLetsGo(t *testing.T) {
	q, gate, now := gatedQueue(), &door{}, int64(10)
	learn := func(domain string) {
		putMail(q, 60000+int(domain[0]), domain)
		var a Affinity
		var b Batch
		require.True(t, q.Take(&b, &a, now))
		q.Attach(&b, []Gate{gate}, now)
		q.Finish(b.Slots[0], false, 0, 0, now)
		q.Release(&b, Good, "", now)
	}
	domains := []string{"a.example", "b.example", "c.example"}
	for _, domain := range domains {
		learn(domain)
	}
	for i := range 12 {
		putMail(q, i, domains[i%3])
	}
	require.NoError(t, q.Check(now))
	require.False(t, q.HasWork())
	require.Equal(t, &door{jobs: 12, ready: 12, attached: 3}, gate)
	var order []string
	for len(order) < 12 {
		gate.room = 1
		q.Kick(gate, now)
		var a Affinity
		var b Batch
		require.True(t, q.Take(&b, &a, now))
		gate.room = 0
		domain, _ := b.Place()
		order = append(order, domain)
		require.False(t, q.Take(new(Batch), &a, now), "there was room for one")
		q.Finish(b.Slots[0], false, 0, 0, now)
		q.Release(&b, Good, "", now)
		require.NoError(t, q.Check(now))
	}
	for i, domain := range order[:9] {
		require.Equal(t, order[(i+3)%9], domain, "in turns: %v", order)
	}
	require.Equal(t, &door{attached: 3}, gate)
	require.Empty(t, q.lines)
}

// TestAGateTakenAwayLetsAllGo: what stood in its line goes on.
func TestAGateTakenAwayLetsAllGo(t *testing.T) {
	q, gate := gatedQueue(), &door{}
	putMail(q, 1, "a.example")
	var a Affinity
	var b Batch
	require.True(t, q.Take(&b, &a, 2))
	q.Attach(&b, []Gate{gate}, 2)
	putMail(q, 2, "a.example")
	require.False(t, q.HasWork())
	require.Equal(t, &door{jobs: 2, ready: 1, attached: 1}, gate)
	q.Attach(&b, nil, 2)
	require.True(t, q.HasWork())
	require.Equal(t, &door{}, gate)
	require.NoError(t, q.Check(2))
}

// TestGatesLoseNothing: whatever room gates have, and whoever is of them, all mail is taken once they let go.
func TestGatesLoseNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q, now := gatedQueue(), int64(10)
		gates := []*door{{}, {}}
		left := rapid.IntRange(1, 60).Draw(t, "mail")
		for i := range left {
			putMail(q, i, fmt.Sprintf("d%d.example", rapid.IntRange(0, 4).Draw(t, "domain")))
		}
		var running []*Batch
		finish := func(i int) {
			b := running[i]
			running = append(running[:i], running[i+1:]...)
			for _, slot := range b.Slots {
				q.Finish(slot, false, 0, 0, now)
				left--
			}
			q.Release(b, Good, "", now)
		}
		var a Affinity
		for range rapid.IntRange(0, 100).Draw(t, "steps") {
			g := gates[rapid.IntRange(0, 1).Draw(t, "gate")]
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				if b := new(Batch); q.Take(b, &a, now) {
					for _, g := range b.Gates() {
						g.(*door).room--
						require.GreaterOrEqual(t, g.Room(), 0)
					}
					var of []Gate
					for k, g := range gates {
						if rapid.IntRange(0, 3).Draw(t, "of")>>k&1 == 1 {
							of = append(of, g)
						}
					}
					running = append(running, b)
					q.Attach(b, of, now)
				}
			case 1:
				if len(running) > 0 {
					finish(rapid.IntRange(0, len(running)-1).Draw(t, "job"))
				}
			case 2:
				g.room = rapid.IntRange(0, 3).Draw(t, "room")
				q.Kick(g, now)
			case 3:
				g.room = 0
			}
			require.NoError(t, q.Check(now))
		}
		for _, g := range gates {
			g.room = 1000
			for range 3 {
				q.Kick(g, now)
			}
		}
		for left > 0 {
			b := new(Batch)
			if q.Take(b, &a, now) {
				running = append(running, b)
			} else if len(running) == 0 {
				t.Fatalf("%d are never taken", left)
			}
			if len(running) > 0 {
				finish(0)
			}
		}
		for _, g := range gates {
			attached := 0
			for _, d := range q.dests.all {
				if d != nil && d.gated != nil && slices.Contains(d.gated.gates, Gate(g)) {
					attached++
				}
			}
			require.Equal(t, &door{room: g.room, attached: attached}, g)
		}
		require.NoError(t, q.Check(now))
	})
}

// TestALongLineGoesAsAWhole: when a limit is taken away, in slices.
func TestALongLineGoesAsAWhole(t *testing.T) {
	q, gate := gatedQueue(), &door{room: 1}
	const many = 3 * Slice
	for i := range many {
		putMail(q, i, fmt.Sprintf("d%d.example", i))
		var a Affinity
		var b Batch
		require.True(t, q.Take(&b, &a, 2))
		q.Attach(&b, []Gate{gate}, 2)
		q.Finish(b.Slots[0], true, 3, 0, 2)
		q.Release(&b, Nothing, "", 2)
	}
	gate.room = 0
	for q.Advance(10, Ages{}) {
	}
	require.False(t, q.HasWork())
	gate.room = 1 << 30
	slices := 1
	for q.Kick(gate, 10) {
		slices++
	}
	require.Equal(t, 3, slices)
	require.Equal(t, many, q.inRings)
}
