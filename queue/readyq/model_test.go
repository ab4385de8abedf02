package readyq

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// modelled is what the model knows of an entry.
type modelled struct {
	domain           string
	due              int64
	attempts         uint32
	parked, active   bool
	touched, dropped bool // while it was active
	touchedParked    bool
	scanned          bool
}

// model is a queue in the simplest way: one map.
type model struct {
	t       *rapid.T
	q       *Queue
	now     int64
	entries map[Ref]*modelled
	running []*Batch
	known   []Ref
}

func (m *model) domainOf(r Ref) string {
	return fmt.Sprintf("d%d.example", (int(r.ID[15])+int(r.Recipient))%4)
}

func (m *model) put(r Ref, due int64, attempts uint32, parked, scan bool) {
	w := Waiting{
		Ref: r, Domain: m.domainOf(r), Next: time.Unix(0, due), Attempts: attempts, Parked: parked,
		Priority: int32(r.ID[15]%3) - 1,
	}
	m.q.Put(&w, m.now, scan)
	e := m.entries[r]
	switch {
	case e == nil:
		m.entries[r] = &modelled{domain: w.Domain, due: due, attempts: attempts, parked: parked}
		m.known = append(m.known, r)
	case e.active && !scan:
		e.due, e.attempts, e.touched, e.dropped, e.touchedParked = due, attempts, true, false, parked
		e.domain = w.Domain
	case e.active:
		e.scanned = true
	case attempts < e.attempts, due == e.due && parked == e.parked && e.domain == w.Domain:
	default:
		e.due, e.attempts, e.parked, e.domain = due, attempts, parked, w.Domain
	}
}

func (m *model) drop(r Ref) {
	m.q.Drop(r, m.now)
	switch e := m.entries[r]; {
	case e == nil:
	case e.active:
		e.dropped, e.touched, e.touchedParked = true, false, false
	default:
		delete(m.entries, r)
	}
}

func (m *model) advance(d time.Duration, reliable bool) {
	m.now += int64(d)
	for m.q.Advance(m.now, Ages{Lifetime: 10 * time.Hour, DelayNotice: 2 * time.Hour, Reliable: reliable}) {
	}
}

// take takes a batch. All of it must be due, of one message and one destination.
func (m *model) take(a *Affinity) bool {
	var b Batch
	if !m.q.Take(&b, a, m.now) {
		return false
	}
	domain, _ := b.Place()
	require.NotEmpty(m.t, b.N)
	for _, n := range b.N {
		e := m.entries[Ref{b.ID, n}]
		require.NotNil(m.t, e)
		require.True(m.t, !e.active && !e.parked && e.due <= m.now, "%+v", e)
		require.Equal(m.t, domain, e.domain)
		e.active = true
	}
	m.running = append(m.running, &b)
	return true
}

// end ends the oldest batch.
func (m *model) end(w Word, keep bool, after time.Duration) {
	b := m.running[0]
	m.running = m.running[1:]
	m.q.Release(b, w, "its reply", m.now)
	for i, slot := range b.Slots {
		r := Ref{b.ID, b.N[i]}
		e := m.entries[r]
		attempts, at := m.q.Attempts(slot)+uint32(i%2), m.now+int64(after)
		m.q.Finish(slot, keep, at, attempts, m.now)
		newer := e.touched && e.attempts >= attempts
		if e.dropped || !keep && !newer {
			delete(m.entries, r)
			continue
		}
		if !newer {
			e.due, e.attempts = at, attempts
		}
		e.active, e.touched, e.parked, e.touchedParked, e.scanned = false, false, e.touchedParked, false, false
	}
}

// ruled has rules end the oldest batch without an attempt: its entries are parked, wait or move, unless something was
// said of them meanwhile.
func (m *model) ruled(act string, after time.Duration) {
	b := m.running[0]
	m.running = m.running[1:]
	for i, slot := range b.Slots {
		r := Ref{b.ID, b.N[i]}
		e := m.entries[r]
		outdated := e.touched || e.dropped || e.scanned
		until := m.now + int64(after)
		switch act {
		case "hold":
			m.q.Hold(slot, 0, m.now)
		case "suspend":
			m.q.Hold(slot, until, m.now)
		case "move":
			m.q.Move(slot, "moved.example", "", m.now)
		default:
			m.q.Again(slot, m.now)
		}
		if e.dropped {
			delete(m.entries, r)
			continue
		}
		e.active, e.touched, e.scanned, e.parked, e.touchedParked = false, false, false, e.touchedParked, false
		switch {
		case outdated:
		case act == "hold":
			e.parked = true
		case act == "suspend":
			e.due = until
		case act == "move":
			e.domain = "moved.example"
		}
	}
	m.q.Release(b, Nothing, "", m.now)
}

func (m *model) check() {
	require.NoError(m.t, m.q.Check(m.now))
	var want Counts
	for _, e := range m.entries {
		switch {
		case e.active:
			want.Active++
		case e.parked:
			want.Parked++
		case e.due <= m.now:
			want.Ready++
		default:
			want.Waiting++
		}
	}
	got := m.q.Count()
	got.Destinations = 0
	require.Equal(m.t, want, got)
	require.Len(m.t, m.q.Active(), want.Active)
}

// empty lets everything go its way, and expects it to come to an end.
func (m *model) empty() {
	for range 10_000 {
		for r, e := range m.entries {
			if e.parked {
				m.put(r, m.now, e.attempts, false, false)
			}
		}
		for m.take(new(Affinity)) {
		}
		for len(m.running) > 0 {
			m.end(Good, false, 0)
		}
		if m.check(); len(m.entries) == 0 {
			return
		}
		m.advance(time.Hour, true)
	}
	m.t.Fatalf("%d entries never end", len(m.entries))
}

// TestAgainstAModel: whatever is put, dropped, taken and ended, and whenever, the
// queue counts as a plain map does, gives out only what is due, and comes to an end.
func TestAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limits{
			Workers: rapid.IntRange(1, 8).Draw(t, "workers"), PerDestination: 3, Initial: 2, Recipients: 2,
			BackOffFirst: 30 * time.Second, BackOffMax: 15 * time.Minute,
		}
		m := &model{t: t, q: New(l, nil), now: int64(time.Hour), entries: map[Ref]*modelled{}}
		var near Affinity
		any := func() Ref {
			if len(m.known) == 0 {
				return Ref{}
			}
			return rapid.SampledFrom(m.known).Draw(t, "ref")
		}
		due := func() int64 {
			return m.now + int64(rapid.IntRange(-60, 600).Draw(t, "due"))*int64(time.Second)
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { m.check() },
			"put": func(t *rapid.T) {
				r := Ref{ID{15: byte(len(m.known) / 3)}, uint32(len(m.known) % 3)}
				m.put(r, due(), 0, rapid.Bool().Draw(t, "parked"), false)
			},
			"change": func(t *rapid.T) {
				r := any()
				if e := m.entries[r]; e != nil {
					scan := rapid.Bool().Draw(t, "scan")
					m.put(r, due(), e.attempts+uint32(rapid.IntRange(0, 1).Draw(t, "more")), rapid.Bool().Draw(t, "parked"), scan)
				}
			},
			"retry": func(t *rapid.T) {
				if r := any(); m.entries[r] != nil {
					m.put(r, m.now, m.entries[r].attempts, false, false)
				}
			},
			"drop":    func(*rapid.T) { m.drop(any()) },
			"advance": func(t *rapid.T) { m.advance(time.Duration(rapid.IntRange(0, 900).Draw(t, "s"))*time.Second, true) },
			"doubt":   func(*rapid.T) { m.advance(time.Hour, false) },
			"take": func(*rapid.T) {
				if len(m.running) < l.Workers {
					m.take(&near)
				}
			},
			"end": func(t *rapid.T) {
				if len(m.running) > 0 {
					w := rapid.SampledFrom([]Word{Nothing, Good, Bad}).Draw(t, "word")
					m.end(w, rapid.Bool().Draw(t, "keep"), time.Duration(rapid.IntRange(0, 300).Draw(t, "after"))*time.Second)
				}
			},
			"rule": func(t *rapid.T) {
				if len(m.running) > 0 {
					m.ruled(rapid.SampledFrom([]string{"hold", "suspend", "move", "again"}).Draw(t, "act"),
						time.Duration(rapid.IntRange(1, 300).Draw(t, "after"))*time.Second)
				}
			},
			"unfreeze": func(*rapid.T) {
				for next := m.q.Unfreeze(0, m.now); next > 0; next = m.q.Unfreeze(next, m.now) {
				}
			},
		})
		m.empty()
	})
}

// TestSweepForgetsWhatAScanHasNotSeen: but what is active stays.
func TestSweepForgetsWhatAScanHasNotSeen(t *testing.T) {
	q := New(Limits{Workers: 4, PerDestination: 2, Initial: 1, Recipients: 1}, nil)
	for i := range byte(3) {
		q.Put(&Waiting{Ref: Ref{ID: ID{15: i}}, Domain: "d.example", Next: time.Unix(0, 1)}, 1, false)
	}
	var b Batch
	require.True(t, q.Take(&b, new(Affinity), 1))
	q.BeginScan()
	q.Put(&Waiting{Ref: Ref{ID: ID{15: 2}}, Domain: "d.example", Next: time.Unix(0, 1)}, 1, true)
	require.Zero(t, q.Sweep(0, 1))
	require.NoError(t, q.Check(1))
	require.Equal(t, Counts{Ready: 1, Active: 1, Destinations: 1}, q.Count())
}
