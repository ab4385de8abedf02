package queue

import (
	"cmp"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"relay/queue/readyq"
	"relay/queue/replyclass"
)

// Totals counts what happened since the start.
type Totals struct {
	Jobs                                 uint64 // taken by a worker
	Delivered, Deferred, Failed, Expired uint64 // verdicts applied
	Discarded                            uint64 // by standing rules
	Stale, Gone                          uint64 // verdicts refused
}

// Failures counts the verdicts of one outcome that were applied, since the start, by what their replies mean.
type Failures [replyclass.Classes]uint64

// failures are the counters behind Failures, by outcome.
type failures [Expired + 1][replyclass.Classes]atomic.Uint64

// Failures counts those of Deferred, Failed or Expired. The reply of a success has no class.
func (m *Manager) Failures(o Outcome) (all Failures) {
	if o > Expired {
		return all
	}
	for c := range all {
		all[c] = m.failures[o][c].Load()
	}
	return all
}

// failed classifies a failure that was applied, and counts it. A success costs nothing, and the word of a standing
// rule is no failure.
func (m *Manager) failed(v *Verdict, taken Taken) replyclass.Class {
	if v.Outcome == Delivered || v.Outcome > Expired || v.Rule != 0 || taken != Applied {
		return replyclass.None
	}
	c := m.ClassOf(v.Reply)
	if c == replyclass.None {
		c = replyclass.Other // words of a success, or none at all
	}
	m.failures[v.Outcome][c].Add(1)
	return c
}

func (t *Totals) count(v *Verdict, taken Taken) {
	switch taken {
	case Stale:
		t.Stale++
		return
	case Gone:
		t.Gone++
		return
	}
	switch v.Outcome {
	case Delivered:
		t.Delivered++
	case Deferred:
		t.Deferred++
	case Failed:
		t.Failed++
	case Expired:
		t.Expired++
	case Discarded:
		t.Discarded++
	}
}

// Stats is a snapshot of a Manager. Entries are recipients.
type Stats struct {
	Waiting      int // not due yet
	Ready        int // due; they wait for a slot, a worker, or the end of a back-off
	Active       int // being tried, or their verdict is being committed
	Unsettled    int // of these: their verdict is being committed
	Parked       int // held or suspended
	Destinations int
	Idle         int  // workers without work
	Workers      int  // in all
	MayAct       bool // false: this node has no right to act now
	Totals       Totals
}

// Stats returns a snapshot; it costs nothing worth counting.
func (m *Manager) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.queue.Count()
	return Stats{
		Waiting: n.Waiting, Ready: n.Ready, Active: n.Active, Parked: n.Parked, Destinations: n.Destinations,
		Unsettled: m.results.unsettled, Idle: m.idle, Workers: m.limits.Workers,
		MayAct: m.right.held, Totals: m.totals,
	}
}

// Destination is a snapshot of one destination.
type Destination struct {
	Name   string
	Total  int // entries
	Ready  int // of these: due
	Jobs   int // running
	Window int // how many may run
	// BackOff is until when it is backed off from, zero: it is not. Reply is why.
	BackOff time.Time
	Reply   string
}

// Destinations returns the destinations that have entries, those with most
// first, at most limit. It looks at every destination.
func (m *Manager) Destinations(limit int) []Destination {
	m.mu.Lock()
	found := m.queue.Destinations(m.now().UnixNano())
	m.mu.Unlock()
	all := make([]Destination, 0, len(found))
	for _, d := range found {
		one := Destination{Name: d.Name, Total: d.Total, Ready: d.Ready, Jobs: d.Jobs, Window: d.Window, Reply: d.Reply}
		if d.Down {
			one.BackOff = time.Unix(0, d.Until)
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Destination) int {
		return cmp.Or(cmp.Compare(b.Total, a.Total), cmp.Compare(a.Name, b.Name))
	})
	return all[:min(len(all), limit)]
}

// Active returns the entries that are being tried or committed.
func (m *Manager) Active() []Ref {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.queue.Active()
}

// Why says in words why an entry waits.
func (m *Manager) Why(r Ref) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.queue.Look(r, m.now().UnixNano())
	switch {
	case !ok:
		return "not in the queue of this node"
	case e.Parked:
		return "held or suspended: it waits for an operator or for a rule to end"
	case e.Active:
		return "being tried now, or its result is being committed"
	case e.Waiting:
		return "due at " + stamp(e.Due)
	}
	return m.whyReady(e.Destination)
}

func (m *Manager) whyReady(d readyq.Destination) string {
	switch {
	case !m.right.held:
		return "this node may not act now: it waits for the cluster"
	case d.Down:
		return fmt.Sprintf("destination %s is backing off until %s: %s", d.Name, stamp(d.Until), d.Reply)
	case d.Probing && d.Jobs > 0:
		return fmt.Sprintf("destination %s is being tried with one message first, after: %s", d.Name, d.Reply)
	case d.Jobs >= d.Window:
		return fmt.Sprintf("waiting for a free slot: %d of %d connections to %s", d.Jobs, d.Window, d.Name)
	case d.Line != nil:
		return waitsForLimit(d.Line)
	case m.results.unsettled >= m.limits.Unsettled:
		return "waiting until results of earlier attempts are committed"
	}
	return fmt.Sprintf("waiting for its turn: %d of %d workers are busy", m.limits.Workers-m.idle, m.limits.Workers)
}

func stamp(at int64) string { return time.Unix(0, at).UTC().Format(time.RFC3339) }
