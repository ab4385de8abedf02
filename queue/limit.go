package queue

import (
	"time"

	"go.uber.org/zap"
)

// Which destination is served next, and how many jobs it may have at a time.
// All need m.mu.

// slowJob is how long a job takes at a destination that counts as not proven.
const slowJob = 30 * time.Second

// window is how many jobs a destination may have now.
func (m *Manager) window(d *dest) int32 {
	switch {
	case d.ctl == nil:
		return int32(m.limits.Initial)
	case d.ctl.probe:
		return 1
	}
	return int32(d.ctl.window)
}

func (m *Manager) normal(d *dest, now int64) bool {
	return d.ready > 0 && d.active() < m.window(d) && !d.down(now)
}

func (m *Manager) overdue(d *dest) bool {
	return d.lists[classOverdue].head != none && (d.ctl == nil || !d.ctl.overdue)
}

// replace puts a destination into the ring that it belongs to now, or into
// none. Everything that changes a destination calls it.
func (m *Manager) replace(n int32, now int64) {
	d := m.dests.all[n]
	if d == nil {
		return
	}
	want := int8(-1)
	if m.normal(d, now) {
		for c := classHigh; c <= classLow; c++ {
			if d.lists[c].head != none {
				want = int8(2 * c)
				break
			}
		}
	} else if m.overdue(d) {
		want = 2 * classLow
	}
	if want >= 0 && d.ctl != nil && d.ctl.proven {
		want++
	} else if want >= 0 && m.normal(d, now) && m.block(n) {
		want = -1
	}
	if want == d.ring {
		return
	}
	if d.ring >= 0 {
		m.dests.leave(&m.rings[d.ring/2][d.ring%2], n)
		m.inRings--
	}
	if d.ring = want; want >= 0 {
		m.dests.join(&m.rings[want/2][want%2], n)
		m.inRings++
	}
}

// pick chooses the destination to serve: the higher priority first, but every
// eighth time the lower; in turns within a priority. Destinations that have not
// answered yet get three quarters of the workers, so that a few that hang can
// not stop all others.
func (m *Manager) pick() int32 {
	m.turn++
	full := m.unproven >= max(m.limits.Workers*3/4, 1)
	for i := range m.rings {
		if m.turn%8 == 0 {
			i = len(m.rings) - 1 - i
		}
		for k := range uint(2) {
			proven := (m.turn + k) % 2
			if proven == 0 && full {
				continue
			}
			r := &m.rings[i][proven]
			if n := r.head; n != none {
				r.head = m.dests.all[n].next
				return n
			}
		}
	}
	return none
}

// spread is what one message has of the workers at destinations that are not proven.
type spread struct {
	jobs    int32
	blocked []*dest // those that wait until one of the jobs has ended
}

// most is how many such jobs one message may have: else one to many hosts that
// hang would hold most workers.
func (m *Manager) most() int32 { return int32(max(m.limits.Workers/4, 1)) }

// wide reports whether the message that is next at a destination has its share of
// the workers.
func (m *Manager) wide(d *dest) *spread {
	if d.ctl != nil && d.ctl.proven {
		return nil
	}
	for c := range classOverdue {
		if slot := d.lists[c].head; slot != none {
			if s := m.spreads[m.table.at(slot).id]; s != nil && s.jobs >= m.most() {
				return s
			}
			return nil
		}
	}
	return nil
}

// block has a destination wait for its next message's other jobs.
func (m *Manager) block(n int32) bool {
	d := m.dests.all[n]
	s := m.wide(d)
	if s != nil && !d.blocked {
		d.blocked = true
		s.blocked = append(s.blocked, d)
	}
	return s != nil
}

// unblock lets destinations go on after a job of a message has ended.
func (m *Manager) unblock(id ID, now int64) {
	s := m.spreads[id]
	if s == nil {
		return
	}
	s.jobs--
	free := int(m.most() - s.jobs)
	if s.jobs == 0 {
		delete(m.spreads, id)
		free = len(s.blocked)
	}
	for ; free > 0 && len(s.blocked) > 0; free-- {
		d := s.blocked[0]
		s.blocked = s.blocked[1:]
		d.blocked = false
		if n, ok := m.dests.index[d.name]; ok && m.dests.all[n] == d {
			m.replace(n, now)
		}
	}
}

// from chooses the list of a destination to take from.
func (m *Manager) from(d *dest, now int64) *list {
	if !m.normal(d, now) {
		return &d.lists[classOverdue]
	}
	d.picks++
	for i := range classOverdue {
		if d.picks%8 == 0 {
			i = classLow - i
		}
		if d.lists[i].head != none {
			return &d.lists[i]
		}
	}
	return &d.lists[classOverdue]
}

// word is what a job said of its destination's host.
type word uint8

const (
	nothing word = iota
	good
	bad
)

// learn adapts a destination to what a job said of it, as Postfix does it:
// the window grows with every success, shrinks with every host failure, and
// after a window of failures in a row the destination is backed off from for a time
// that doubles until it answers.
func (m *Manager) learn(n int32, w word, reply string, now int64) {
	d := m.dests.all[n]
	c := d.ctl
	switch w {
	case good:
		if c.probe {
			c.probe, c.window = false, float64(m.limits.Initial)
		}
		c.proven, c.fails, c.step, c.until, c.reply = true, 0, 0, 0, ""
		if float64(c.active+1) >= c.window-1 { // only a window that is used may grow
			c.window = min(c.window+1, float64(m.limits.PerDestination))
		}
	case bad:
		c.reply = reply
		if now < c.until {
			return // started before; it says nothing new
		}
		c.fails += 1 / c.window
		c.window = max(c.window-1, 1)
		if c.proven && c.fails < 1 {
			return
		}
		m.backOff(n, now)
	}
}

func (m *Manager) backOff(n int32, now int64) {
	d := m.dests.all[n]
	c := d.ctl
	c.step = min(max(2*c.step, m.limits.BackOffFirst), m.limits.BackOffMax)
	c.proven, c.probe, c.fails = false, true, 0
	c.until = now + int64(c.step)
	m.heap.push(due{at: c.until, slot: ^n})
	m.wakeBefore(c.until)
	for i := range classOverdue {
		if left := d.lists[i].n; left > 0 {
			m.expiryScans = append(m.expiryScans, expiryScan{n: n, class: i, left: left})
		}
	}
	m.poke()
	m.log.Info("queue: destination is left alone", zap.String("destination", d.label()),
		zap.Duration("for", c.step), zap.String("reply", c.reply), zap.Int32("ready", d.ready))
}

// expiryScan looks through the ready entries of a destination that was just left
// alone, for those that must not wait in silence: past their lifetime, or late
// enough for their sender to be told. It happens once a back-off, in slices.
type expiryScan struct {
	n     int32
	class int
	left  int32
}

// step does one slice of the first expiry scan.
func (m *Manager) step(now int64) {
	if len(m.expiryScans) == 0 {
		return
	}
	w := &m.expiryScans[0]
	d := m.dests.all[w.n]
	p, ageing := m.policy.Load(), m.ageing()
	for range slice {
		if d == nil || !d.down(now) || w.left == 0 || d.lists[w.class].head == none {
			m.expiryScans = m.expiryScans[1:]
			return
		}
		w.left--
		slot := d.lists[w.class].head
		e := m.table.at(slot)
		late := ageing && m.late(e, p, now)
		m.delist(slot)
		if late {
			e.flags |= flagOverdue
		}
		m.enlist(slot, false)
		if late {
			m.replace(w.n, now)
		}
	}
}

func (m *Manager) late(e *entry, p *policy, now int64) bool {
	born := e.born()
	end := born + int64(p.Lifetime)
	if e.expires != 0 {
		end = int64(e.expires) * int64(time.Second)
	}
	return now >= end || p.DelayNotice > 0 && e.flags&flagTold == 0 && now >= born+int64(p.DelayNotice)
}
