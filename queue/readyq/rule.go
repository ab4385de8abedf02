package readyq

// Standing rules have entries wait or move. Hold and Move end the active state of an entry as Finish does, without an
// attempt. If Put or Drop spoke of the entry meanwhile, or a scan has met it, the rule that was read may be gone: then
// the entry is due again, and is loaded under the rules that hold by then.

// Hold has an active entry wait: until an instant, or parked until Put says otherwise where that is 0.
func (q *Queue) Hold(slot int32, until, now int64) {
	e := q.table.at(slot)
	if e.outdated() {
		q.Finish(slot, true, e.due, e.attempts, now)
		return
	}
	q.set(e, waiting) // in no list; settleIn says where
	e.flags &^= flagSuspended
	if until != 0 {
		e.due = until
		e.flags |= flagSuspended
	}
	q.settleIn(slot, now, until == 0, false)
}

// Move has an active entry be due at another destination: a hop, or where that is empty a domain.
func (q *Queue) Move(slot int32, domain, route string, now int64) {
	e := q.table.at(slot)
	if !e.outdated() {
		q.move(e, q.dests.find(domain, route))
	}
	q.Finish(slot, true, e.due, e.attempts, now)
}

// Again has an active entry be due at once, as it was.
func (q *Queue) Again(slot int32, now int64) {
	e := q.table.at(slot)
	q.Finish(slot, true, e.due, e.attempts, now)
}

func (e *entry) outdated() bool { return e.flags&(flagTouched|flagDropped|flagScanned) != 0 }

// ends has an entry looked at that a rule ends, though its destination is backed off from.
func (q *Queue) ends(e *entry, w *Waiting, now int64) {
	if w.Ends && !w.Parked && e.due <= now && q.dests.all[e.dest].down(now) {
		e.flags |= flagOverdue
	}
}
