package queue

// The moves of an entry between the states of table.go. All need m.mu.

// set changes the state of an entry and the counts.
func (m *Manager) set(e *entry, s state) {
	m.count[e.state]--
	m.count[s]++
	e.state = s
}

// enlist puts an entry into the list of its destination that it belongs to.
func (m *Manager) enlist(slot int32, front bool) {
	e := m.table.at(slot)
	d := m.dests.all[e.dest]
	m.set(e, ready)
	l := &d.lists[e.list()]
	if front {
		e.a, e.b = l.head, none
		if l.head != none {
			m.table.at(l.head).b = slot
		} else {
			l.tail = slot
		}
		l.head = slot
	} else {
		e.a, e.b = none, l.tail
		if l.tail != none {
			m.table.at(l.tail).a = slot
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
func (m *Manager) delist(slot int32) {
	e := m.table.at(slot)
	d := m.dests.all[e.dest]
	l := &d.lists[e.list()]
	if e.b != none {
		m.table.at(e.b).a = e.a
	} else {
		l.head = e.a
	}
	if e.a != none {
		m.table.at(e.a).b = e.b
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
func (m *Manager) settleIn(slot int32, now int64, park, front bool) {
	e := m.table.at(slot)
	switch {
	case park:
		m.set(e, parked)
	case e.due <= now:
		m.enlist(slot, front)
		m.replace(e.dest, now)
	default:
		m.set(e, waiting)
		m.heap.push(due{at: e.due, slot: slot, tie: e.tie()})
		m.wakeBefore(e.due)
	}
}

// unlink takes an entry out of whatever holds it.
func (m *Manager) unlink(slot int32, now int64) {
	e := m.table.at(slot)
	switch e.state {
	case waiting:
		m.heap.remove(int(e.a))
	case ready:
		m.delist(slot)
		m.replace(e.dest, now)
	}
}

// move changes the destination of an entry that is in no list.
func (m *Manager) move(e *entry, n int32) {
	if e.dest == n {
		return
	}
	m.dests.all[n].total++
	m.leaveDest(e.dest)
	e.dest = n
}

func (m *Manager) leaveDest(n int32) {
	d := m.dests.all[n]
	d.total--
	m.retire(n)
}

// forget removes an entry that is in no list.
func (m *Manager) forget(slot int32) {
	e := m.table.at(slot)
	m.set(e, free)
	m.leaveDest(e.dest)
	m.table.remove(slot)
}

// retire removes a destination that nothing needs any more. One whose control
// knows something stays idle, so that the next message finds its window or its
// back-off.
func (m *Manager) retire(n int32) {
	d := m.dests.all[n]
	if d.total > 0 || d.active() > 0 {
		return
	}
	if d.ctl == nil {
		m.dests.remove(n)
		return
	}
	if d.idle {
		return
	}
	d.idle = true
	s := &m.dests
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
