package readyq

// The moves of an entry between the states of table.go.

// set changes the state of an entry and the counts.
func (q *Queue) set(e *entry, s state) {
	q.count[e.state]--
	q.count[s]++
	e.state = s
}

// enlist puts an entry into the list of its destination that it belongs to.
func (q *Queue) enlist(slot int32, front bool) {
	e := q.table.at(slot)
	d := q.dests.all[e.dest]
	q.set(e, ready)
	l := &d.lists[e.list()]
	if front {
		e.a, e.b = l.head, none
		if l.head != none {
			q.table.at(l.head).b = slot
		} else {
			l.tail = slot
		}
		l.head = slot
	} else {
		e.a, e.b = none, l.tail
		if l.tail != none {
			q.table.at(l.tail).a = slot
		} else {
			l.head = slot
		}
		l.tail = slot
	}
	l.n++
	if e.flags&flagOverdue == 0 {
		d.ready++
	}
}

// delist takes a ready entry out of its list. Its state is for the caller to set.
func (q *Queue) delist(slot int32) {
	e := q.table.at(slot)
	d := q.dests.all[e.dest]
	l := &d.lists[e.list()]
	if e.b != none {
		q.table.at(e.b).a = e.a
	} else {
		l.head = e.a
	}
	if e.a != none {
		q.table.at(e.a).b = e.b
	} else {
		l.tail = e.b
	}
	l.n--
	if e.flags&flagOverdue == 0 {
		d.ready--
	}
	e.flags &^= flagOverdue
}

// settleIn puts an entry that is in no list where its due time wants it.
func (q *Queue) settleIn(slot int32, now int64, park, front bool) {
	e := q.table.at(slot)
	switch {
	case park:
		q.set(e, parked)
	case e.due <= now:
		q.enlist(slot, front)
		q.replace(e.dest, now)
	default:
		q.set(e, waiting)
		q.heap.push(due{at: e.due, slot: slot, tie: e.tie()})
	}
}

// unlink takes an entry out of whatever holds it.
func (q *Queue) unlink(slot int32, now int64) {
	e := q.table.at(slot)
	switch e.state {
	case waiting:
		q.heap.remove(int(e.a))
	case ready:
		q.delist(slot)
		q.replace(e.dest, now)
	}
}

// move changes the destination of an entry that is in no list.
func (q *Queue) move(e *entry, n int32) {
	if e.dest == n {
		return
	}
	q.dests.all[n].total++
	q.leaveDest(e.dest)
	e.dest = n
}

func (q *Queue) leaveDest(n int32) {
	d := q.dests.all[n]
	d.total--
	q.retire(n)
}

// forget removes an entry that is in no list.
func (q *Queue) forget(slot int32) {
	e := q.table.at(slot)
	q.set(e, free)
	q.leaveDest(e.dest)
	q.table.remove(slot)
}

// retire removes a destination that nothing needs any more. One whose control
// knows something stays idle, so that the next message finds its window or its
// back-off.
func (q *Queue) retire(n int32) {
	d := q.dests.all[n]
	if d.total > 0 || d.active() > 0 {
		return
	}
	if d.ctl == nil {
		q.dests.remove(n)
		return
	}
	if d.idle {
		return
	}
	d.idle = true
	s := &q.dests
	s.idle = append(s.idle, n)
	if len(s.idle) > maxIdle {
		old := s.idle[0]
		s.idle = s.idle[1:]
		o := s.all[old]
		o.idle = false
		if o.total == 0 && o.active() == 0 {
			s.remove(old)
		}
	}
}

const maxIdle = 4096
