package queue

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Totals counts what happened since the start.
type Totals struct {
	Jobs                                 uint64 // taken by a worker
	Delivered, Deferred, Failed, Expired uint64 // verdicts applied
	Stale, Gone                          uint64 // verdicts refused
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
	return Stats{
		Waiting: m.count[waiting], Ready: m.count[ready], Active: m.count[active], Parked: m.count[parked],
		Unsettled: m.unsettled, Destinations: len(m.dests.index), Idle: m.idle, Workers: m.limits.Workers,
		MayAct: m.may, Totals: m.totals,
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
	var all []Destination
	m.mu.Lock()
	now := m.now().UnixNano()
	for _, d := range m.dests.all {
		if d == nil || d.total == 0 {
			continue
		}
		one := Destination{
			Name: d.label(), Total: int(d.total), Ready: int(d.ready), Jobs: int(d.active()), Window: int(m.window(d)),
		}
		if d.ctl != nil {
			one.Reply = d.ctl.reply
		}
		if d.down(now) {
			one.BackOff = time.Unix(0, d.ctl.until)
		}
		all = append(all, one)
	}
	m.mu.Unlock()
	slices.SortFunc(all, func(a, b Destination) int {
		return cmp.Or(cmp.Compare(b.Total, a.Total), cmp.Compare(a.Name, b.Name))
	})
	return all[:min(len(all), limit)]
}

// Active returns the entries that are being tried or committed.
func (m *Manager) Active() []Ref {
	m.mu.Lock()
	defer m.mu.Unlock()
	refs := make([]Ref, 0, m.count[active])
	if m.count[active] == 0 {
		return refs
	}
	for slot := range m.table.top {
		if e := m.table.at(slot); e.state == active {
			refs = append(refs, Ref{ID: e.id, Recipient: e.n})
		}
	}
	return refs
}

// Why says in words why an entry waits.
func (m *Manager) Why(r Ref) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	slot, ok := m.table.index[r]
	if !ok {
		return "not in the queue of this node"
	}
	e := m.table.at(slot)
	d := m.dests.all[e.dest]
	switch e.state {
	case parked:
		return "held or suspended: it waits for an operator or for a rule to end"
	case active:
		return "being tried now, or its result is being committed"
	case waiting:
		return "due at " + stamp(e.due)
	}
	return m.whyReady(d, m.now().UnixNano())
}

func (m *Manager) whyReady(d *dest, now int64) string {
	switch {
	case !m.may:
		return "this node may not act now: it waits for the cluster"
	case d.down(now):
		return fmt.Sprintf("destination %s is backing off until %s: %s", d.label(), stamp(d.ctl.until), d.ctl.reply)
	case d.ctl != nil && d.ctl.probe && d.ctl.active > 0:
		return fmt.Sprintf("destination %s is being tried with one message first, after: %s", d.label(), d.ctl.reply)
	case d.active() >= m.window(d):
		return fmt.Sprintf("waiting for a free slot: %d of %d connections to %s", d.active(), m.window(d), d.label())
	case m.unsettled >= m.limits.Unsettled:
		return "waiting until results of earlier attempts are committed"
	}
	return fmt.Sprintf("waiting for its turn: %d of %d workers are busy", m.limits.Workers-m.idle, m.limits.Workers)
}

func stamp(at int64) string { return time.Unix(0, at).UTC().Format(time.RFC3339) }
