package readyq

import "time"

// Which destination is served next, and how many jobs it may have at a time.

// slowJob is how long a job takes at a destination that counts as not proven.
const slowJob = 30 * time.Second

// window is how many jobs a destination may have now.
func (q *Queue) window(d *dest) int32 {
	switch {
	case d.ctl == nil:
		return int32(q.limits.Initial)
	case d.ctl.probe:
		return 1
	}
	return int32(d.ctl.window)
}

func (q *Queue) normal(d *dest, now int64) bool {
	return d.ready > 0 && d.active() < q.window(d) && !d.down(now)
}

func (q *Queue) overdue(d *dest) bool {
	return d.lists[classOverdue].head != none && (d.ctl == nil || !d.ctl.overdue)
}

// replace puts a destination into the ring that it belongs to now, or into
// none. Everything that changes a destination calls it.
func (q *Queue) replace(n int32, now int64) { q.place(n, now, false) }

// place is replace. kicked: the destination comes from the line of a gate.
func (q *Queue) place(n int32, now int64, kicked bool) {
	d := q.dests.all[n]
	if d == nil {
		return
	}
	if d.gated != nil {
		q.demand(d, now)
	}
	want := int8(-1)
	if q.normal(d, now) {
		for c := classHigh; c <= classLow; c++ {
			if d.lists[c].head != none {
				want = int8(2 * c)
				break
			}
		}
	} else if q.overdue(d) {
		want = 2 * classLow
	}
	if want >= 0 && d.ctl != nil && d.ctl.proven {
		want++
	} else if want >= 0 && q.normal(d, now) && q.block(n) {
		want = -1
	}
	if d.gated != nil && want >= 0 && q.normal(d, now) && q.stopped(n, kicked || d.ring >= 0) {
		want = -1
	}
	if want == d.ring {
		return
	}
	if d.ring >= 0 {
		q.dests.leave(&q.rings[d.ring/2][d.ring%2], n)
		q.inRings--
	}
	if d.ring = want; want >= 0 {
		q.dests.join(&q.rings[want/2][want%2], n)
		q.inRings++
	}
}

// pick chooses the destination to serve: the higher priority first, but every
// eighth time the lower; in turns within a priority. Destinations that have not
// answered yet get three quarters of the workers, so that a few that hang can
// not stop all others.
func (q *Queue) pick() int32 {
	q.turn++
	full := q.unproven >= max(q.limits.Workers*3/4, 1)
	for i := range q.rings {
		if q.turn%8 == 0 {
			i = len(q.rings) - 1 - i
		}
		for k := range uint(2) {
			proven := (q.turn + k) % 2
			if proven == 0 && full {
				continue
			}
			r := &q.rings[i][proven]
			if n := r.head; n != none {
				r.head = q.dests.all[n].next
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
func (q *Queue) most() int32 { return int32(max(q.limits.Workers/4, 1)) }

// wide reports whether the message that is next at a destination has its share of
// the workers.
func (q *Queue) wide(d *dest) *spread {
	if d.ctl != nil && d.ctl.proven {
		return nil
	}
	for c := range classOverdue {
		if slot := d.lists[c].head; slot != none {
			if s := q.spreads[q.table.at(slot).id]; s != nil && s.jobs >= q.most() {
				return s
			}
			return nil
		}
	}
	return nil
}

// block has a destination wait for its next message's other jobs.
func (q *Queue) block(n int32) bool {
	d := q.dests.all[n]
	s := q.wide(d)
	if s != nil && !d.blocked {
		d.blocked = true
		s.blocked = append(s.blocked, d)
	}
	return s != nil
}

// unblock lets destinations go on after a job of a message has ended.
func (q *Queue) unblock(id ID, now int64) {
	s := q.spreads[id]
	if s == nil {
		return
	}
	s.jobs--
	free := int(q.most() - s.jobs)
	if s.jobs == 0 {
		delete(q.spreads, id)
		free = len(s.blocked)
	}
	for ; free > 0 && len(s.blocked) > 0; free-- {
		d := s.blocked[0]
		s.blocked = s.blocked[1:]
		d.blocked = false
		if n, ok := q.dests.index[d.name]; ok && q.dests.all[n] == d {
			q.replace(n, now)
		}
	}
}

// from chooses the list of a destination to take from.
func (q *Queue) from(d *dest, now int64) *list {
	if !q.normal(d, now) {
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

// Word is what a job said of its destination's host.
type Word uint8

// The words of a job.
const (
	Nothing Word = iota
	Good         // it answered
	Bad          // it failed, and with it everybody's mail
)

// BackOff says that a destination was just backed off from.
type BackOff struct {
	Label, Reply string
	For          time.Duration
	Ready        int32 // its entries that are due
}

// learn adapts a destination to what a job said of it, as Postfix does it:
// the window grows with every success, shrinks with every host failure, and
// after a window of failures in a row the destination is backed off from for a time
// that doubles until it answers.
func (q *Queue) learn(n int32, w Word, reply string, now int64) *BackOff {
	d := q.dests.all[n]
	c := d.ctl
	switch w {
	case Good:
		if c.probe {
			c.probe, c.window = false, float64(q.limits.Initial)
		}
		c.proven, c.fails, c.step, c.until, c.reply = true, 0, 0, 0, ""
		if float64(c.active+1) >= c.window-1 { // only a window that is used may grow
			c.window = min(c.window+1, float64(q.limits.PerDestination))
		}
	case Bad:
		c.reply = reply
		if now < c.until {
			return nil // started before; it says nothing new
		}
		c.fails += 1 / c.window
		c.window = max(c.window-1, 1)
		if c.proven && c.fails < 1 {
			return nil
		}
		return q.backOff(n, now)
	}
	return nil
}

func (q *Queue) backOff(n int32, now int64) *BackOff {
	d := q.dests.all[n]
	c := d.ctl
	c.step = min(max(2*c.step, q.limits.BackOffFirst), q.limits.BackOffMax)
	c.proven, c.probe, c.fails = false, true, 0
	c.until = now + int64(c.step)
	q.heap.push(due{at: c.until, slot: ^n})
	for i := range classOverdue {
		if left := d.lists[i].n; left > 0 {
			q.expiryScans = append(q.expiryScans, expiryScan{n: n, class: i, left: left})
		}
	}
	return &BackOff{Label: d.label(), Reply: c.reply, For: c.step, Ready: d.ready}
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
func (q *Queue) step(now int64, ages Ages) {
	if len(q.expiryScans) == 0 {
		return
	}
	w := &q.expiryScans[0]
	d := q.dests.all[w.n]
	if ages.Own != nil && d != nil {
		domain, _ := d.place()
		ages.Lifetime, ages.DelayNotice = ages.Own(domain)
	}
	for range Slice {
		if d == nil || !d.down(now) || w.left == 0 || d.lists[w.class].head == none {
			q.expiryScans = q.expiryScans[1:]
			return
		}
		w.left--
		slot := d.lists[w.class].head
		e := q.table.at(slot)
		late := ages.Reliable && ages.late(e, now)
		q.delist(slot)
		if late {
			e.flags |= flagOverdue
		}
		q.enlist(slot, false)
		if late {
			q.replace(w.n, now)
		}
	}
}

func (p Ages) late(e *entry, now int64) bool {
	born := e.born()
	end := born + int64(p.Lifetime)
	if e.expires != 0 {
		end = int64(e.expires) * int64(time.Second)
	}
	return now >= end || p.DelayNotice > 0 && e.flags&flagTold == 0 && now >= born+int64(p.DelayNotice)
}
