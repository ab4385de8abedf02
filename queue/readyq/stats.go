package readyq

// Counts are the entries by state, and the destinations that are known.
type Counts struct{ Waiting, Ready, Active, Parked, Destinations int }

// Count returns the counts.
func (q *Queue) Count() Counts {
	return Counts{
		Waiting: q.count[waiting], Ready: q.count[ready], Active: q.count[active], Parked: q.count[parked],
		Destinations: len(q.dests.index),
	}
}

// Destination is a snapshot of one destination.
type Destination struct {
	Name    string
	Total   int // entries
	Ready   int // of these: due
	Jobs    int // running
	Window  int // how many may run
	Down    bool
	Probing bool   // one job at a time until the first success
	Until   int64  // with Down: the end of its back-off
	Reply   string // of the last host failure
	Line    Gate   // the limit that it waits for; nil: none
}

// Destinations returns the destinations that have entries, in no order.
func (q *Queue) Destinations(now int64) (all []Destination) {
	for _, d := range q.dests.all {
		if d != nil && d.total > 0 {
			all = append(all, q.snapshot(d, now))
		}
	}
	return all
}

func (q *Queue) snapshot(d *dest, now int64) Destination {
	one := Destination{
		Name: d.label(), Total: int(d.total), Ready: int(d.ready), Jobs: int(d.active()), Window: int(q.window(d)),
		Down: d.down(now),
	}
	if d.ctl != nil {
		one.Reply, one.Probing = d.ctl.reply, d.ctl.probe
	}
	if one.Down {
		one.Until = d.ctl.until
	}
	if d.gated != nil {
		one.Line = d.gated.line
	}
	return one
}

// Active returns the entries that are active.
func (q *Queue) Active() []Ref {
	refs := make([]Ref, 0, q.count[active])
	if q.count[active] == 0 {
		return refs
	}
	for slot := range q.table.top {
		if e := q.table.at(slot); e.state == active {
			refs = append(refs, Ref{ID: e.id, Recipient: e.n})
		}
	}
	return refs
}

// Entry is a snapshot of one entry. None of the three: it is ready.
type Entry struct {
	Parked, Active, Waiting bool
	Due                     int64
	Destination             Destination
}

// Look finds an entry.
func (q *Queue) Look(r Ref, now int64) (Entry, bool) {
	slot, ok := q.table.find(r)
	if !ok {
		return Entry{}, false
	}
	e := q.table.at(slot)
	return Entry{
		Parked: e.state == parked, Active: e.state == active, Waiting: e.state == waiting, Due: e.due,
		Destination: q.snapshot(q.dests.all[e.dest], now),
	}, true
}
