package readyq

import "time"

// Batch is the entries of one job: recipients of one message at one destination. It
// is active from Take until Release, its entries until Finish.
type Batch struct {
	ID       ID
	N        []uint32 // recipients, and
	Slots    []int32  // their entries
	Down     bool     // the destination is backed off from: these are late entries, and not to be tried
	dest     int32
	d        *dest
	began    int64
	unproven bool
	over     bool // from the overdue list
}

// Place is where the batch goes: a domain, a hop, or both for a domain by its MX.
func (b *Batch) Place() (domain, route string) { return b.d.place() }

// BackOff is the last reply of the batch's destination, and until when it is backed
// off from.
func (b *Batch) BackOff() (reply string, until int64) { return b.d.ctl.reply, b.d.ctl.until }

// Affinity remembers a worker's last destination: it stays there for a moment, so
// that the agent finds its connection open. The zero value remembers none.
type Affinity struct {
	d     *dest
	n     int32
	since int64
}

const stay = int64(time.Second)

// Take fills b with the next job: the higher priority first, in turns among
// destinations, at most Limits.Recipients of one message. False: there is none.
func (q *Queue) Take(b *Batch, a *Affinity, now int64) bool {
	n, held := none, now-a.since
	fresh := 0 <= held && held < stay // the clock may step back
	if a.d != nil && fresh && q.dests.all[a.n] == a.d && a.d.ring >= 0 && q.normal(a.d, now) {
		n = a.n
	} else if n = q.pick(); n == none {
		return false
	}
	for q.normal(q.dests.all[n], now) && (q.wide(q.dests.all[n]) != nil || q.shut(q.dests.all[n])) {
		q.replace(n, now) // which takes it out of its ring
		if n = q.pick(); n == none {
			return false
		}
	}
	d := q.dests.all[n]
	if a.d != d || !fresh {
		*a = Affinity{d: d, n: n, since: now}
	}
	q.cut(b, n, now)
	q.replace(n, now)
	return true
}

// cut fills a batch with the first entries of a destination's list that belong to
// one message.
func (q *Queue) cut(b *Batch, n int32, now int64) {
	d := q.dests.all[n]
	l := q.from(d, now)
	if d.ctl == nil {
		d.ctl = &control{window: float64(q.limits.Initial)}
	}
	over := l == &d.lists[classOverdue]
	*b = Batch{dest: n, d: d, ID: q.table.at(l.head).id, over: over, Down: over && d.down(now),
		unproven: !d.ctl.proven, began: now}
	most := q.room(d)
	for l.head != none && len(b.N) < most {
		slot := l.head
		e := q.table.at(slot)
		if e.id != b.ID {
			break
		}
		q.delist(slot)
		q.set(e, active)
		b.N, b.Slots = append(b.N, e.n), append(b.Slots, slot)
	}
	d.ctl.active++
	if b.unproven {
		q.unproven++
		s := q.spreads[b.ID]
		if s == nil {
			s = &spread{}
			q.spreads[b.ID] = s
		}
		s.jobs++
	}
	if over {
		d.ctl.overdue = true
	}
}

// Release gives a batch's place at its destination back, and learns what the job said
// of the host. It returns the back-off that this began, if any.
func (q *Queue) Release(b *Batch, w Word, reply string, now int64) *BackOff {
	c := b.d.ctl
	c.active--
	if b.over {
		c.overdue = false
	}
	begun := q.learn(b.dest, w, reply, now)
	if now-b.began > int64(slowJob) {
		c.proven = false // it answers, but holds workers like one that does not
	}
	if b.unproven {
		q.unproven--
		q.unblock(b.ID, now)
	}
	q.replace(b.dest, now)
	for _, gate := range b.Gates() {
		q.Kick(gate, now)
	}
	q.retire(b.dest)
	return begun
}

// Attempts is how many attempts an active entry had when it was taken, or what Put
// has said of it since.
func (q *Queue) Attempts(slot int32) uint32 { return q.table.at(slot).attempts }

// Scanned reports whether a scan has met an entry since it became active.
func (q *Queue) Scanned(slot int32) bool { return q.table.at(slot).flags&flagScanned != 0 }

// Told notes that the delay notice of an active entry need not be looked at again.
func (q *Queue) Told(slot int32) { q.table.at(slot).flags |= flagTold }

// Finish ends the active state of an entry: back to waiting until it is due, or, with
// keep false, away. What Put and Drop said meanwhile has precedence where it is newer,
// which the number of attempts tells.
func (q *Queue) Finish(slot int32, keep bool, at int64, attempts uint32, now int64) {
	e := q.table.at(slot)
	touched, park, dropped := e.flags&flagTouched != 0, e.flags&flagParked != 0, e.flags&flagDropped != 0
	e.flags &^= flagTouched | flagParked | flagDropped | flagScanned | flagSuspended
	newer := touched && e.attempts >= attempts
	switch {
	case dropped, !keep && !newer:
		q.forget(slot)
		return
	case !newer:
		e.due, e.attempts = at, attempts
	}
	q.set(e, waiting) // in no list; settleIn says where
	q.settleIn(slot, now, park, false)
}
