package readyq

import "time"

// Limits bounds what a Queue lets out at a time. All fields are required.
type Limits struct {
	Workers        int           // jobs at a time, in all
	PerDestination int           // jobs at a time to one destination
	Initial        int           // the same, to one not known yet
	Recipients     int           // recipients in a job
	BackOffFirst   time.Duration // a destination whose host fails is backed off for so long
	BackOffMax     time.Duration // and at most so long, doubling
}

// Ages says what is late: an entry past its lifetime, or old enough for its
// sender to be told of the delay.
type Ages struct {
	Lifetime, DelayNotice time.Duration // DelayNotice: none where it is not above 0
	Reliable              bool          // false: nothing is late, whatever its age
	// Own says it for a domain, or for a hop of several, which is empty; nil: it is the same for all. It is called under
	// the caller's lock.
	Own func(domain string) (lifetime, notice time.Duration)
}

// Queue holds entries and their destinations. Make it by New. Its methods need the
// caller's lock; now is in Unix nanoseconds and may go back.
type Queue struct {
	limits Limits
	route  func(domain string) string

	table       table
	heap        heap
	dests       dests
	rings       [3][2]ring // by class, then 0 unproven and 1 proven
	inRings     int
	count       [active + 1]int
	unproven    int            // jobs to destinations that are not proven
	spreads     map[ID]*spread // by message: those jobs
	lines       map[Gate][]*dest
	turn        uint
	expiryScans []expiryScan
	mark        uint8 // the present scan
}

// New makes an empty Queue. route names the hop that a domain's mail goes to, empty
// for its own MX; it must not wait. Nil: each domain is a destination of its own.
func New(l Limits, route func(domain string) string) *Queue {
	q := &Queue{limits: l, route: route, table: newTable(), dests: newDests(), spreads: map[ID]*spread{},
		lines: map[Gate][]*dest{}}
	q.heap.t = &q.table
	for i := range q.rings {
		q.rings[i] = [2]ring{{none}, {none}}
	}
	return q
}

// HasWork reports whether Take may find something.
func (q *Queue) HasWork() bool { return q.inRings > 0 }

// Forever is an instant that never comes.
const Forever = int64(1<<63 - 1)

// Earliest is when Advance is due next: the first instant in the heap, at once
// while ready entries are being scanned for late ones, or Forever.
func (q *Queue) Earliest() int64 {
	switch {
	case len(q.expiryScans) > 0:
		return 0
	case len(q.heap.items) > 0:
		return q.heap.items[0].at
	}
	return Forever
}

func (q *Queue) destination(w *Waiting) int32 {
	route := w.Route
	if route == "" && q.route != nil {
		route = q.route(w.Domain)
	}
	return q.dests.find(w.Domain, route)
}

// Put takes one Waiting in: a new entry, or a new due time of a known one. A known
// entry that waits and is made due at once is an operator's retry, which also ends
// the back-off of its destination. scan says that it comes from a scan of the spool,
// which may be older than what is known here. A word about an active entry
// counts when it stops being active, see Finish.
func (q *Queue) Put(w *Waiting, now int64, scan bool) {
	slot, known := q.table.find(w.Ref)
	if !known {
		n := q.destination(w)
		var e *entry
		slot, e = q.table.add(w.Ref)
		e.dest, e.mark = n, q.mark
		q.dests.all[n].total++
		fill(e, w)
		q.ends(e, w, now)
		q.settleIn(slot, now, w.Parked, false)
		return
	}
	e := q.table.at(slot)
	e.mark = q.mark
	if e.state == active {
		if scan {
			e.flags |= flagScanned
		} else {
			q.touch(e, w)
		}
		return
	}
	if w.Attempts < e.attempts {
		return // from before the last settlement
	}
	if w.Suspended && e.state == waiting && e.flags&flagSuspended != 0 {
		return
	}
	n, next := q.destination(w), nanos(w.Next)
	if n == e.dest && next == e.due && w.Parked == (e.state == parked) {
		return
	}
	retry := !scan && !w.Parked && e.state != parked && next != e.due && next <= now
	q.unlink(slot, now)
	q.move(e, n)
	fill(e, w)
	if d := q.dests.all[n]; retry && d.down(now) {
		d.ctl.until = 0
	}
	q.ends(e, w, now)
	q.settleIn(slot, now, w.Parked, retry)
}

func fill(e *entry, w *Waiting) {
	e.due, e.attempts, e.class = nanos(w.Next), w.Attempts, class(w.Priority)
	e.flags &^= flagSuspended
	if !w.Expires.IsZero() {
		e.expires = uint32(w.Expires.Unix())
	}
}

// touch remembers what Put says of an active entry until it is not active.
func (q *Queue) touch(e *entry, w *Waiting) {
	q.move(e, q.destination(w))
	fill(e, w)
	e.flags = e.flags&^(flagDropped|flagParked) | flagTouched
	if w.Parked {
		e.flags |= flagParked
	}
}

// Drop takes an entry out. One that is active goes when it stops being active.
func (q *Queue) Drop(r Ref, now int64) {
	slot, ok := q.table.find(r)
	if !ok {
		return
	}
	if e := q.table.at(slot); e.state == active {
		e.flags = e.flags&^(flagTouched|flagParked) | flagDropped
		return
	}
	q.unlink(slot, now)
	q.forget(slot)
}

// Slice is how many entries one call of Advance looks at.
const Slice = 512

// Advance makes entries ready that have become due, and goes on with the scans for
// late entries: one slice. It reports whether there is more to do at once.
func (q *Queue) Advance(now int64, ages Ages) (more bool) {
	for range Slice {
		if len(q.heap.items) == 0 || q.heap.items[0].at > now {
			break
		}
		x := q.heap.remove(0)
		if x.slot < 0 {
			q.replace(^x.slot, now)
			continue
		}
		q.enlist(x.slot, false)
		q.replace(q.table.at(x.slot).dest, now)
	}
	q.step(now, ages)
	return q.Earliest() <= now
}

// BeginScan begins a scan of the spool: entries that are not Put until Sweep are
// forgotten by it.
func (q *Queue) BeginScan() { q.mark++ }

// Sweep forgets what the scan that just ended has not seen and is not active. It does
// one slice from a place on, 0 at first, and returns the next place, or 0.
func (q *Queue) Sweep(from int32, now int64) (next int32) {
	for slot := from; slot < min(from+chunkSize, q.table.top); slot++ {
		e := q.table.at(slot)
		if e.state == free || e.state == active || e.mark == q.mark {
			continue
		}
		q.unlink(slot, now)
		q.forget(slot)
	}
	if from+chunkSize >= q.table.top {
		return 0
	}
	return from + chunkSize
}

// Unfreeze ends back-offs that reach further than they can: the clock has stepped
// back since they began. It does one slice from a place on, 0 at first, and returns
// the next place, or 0.
func (q *Queue) Unfreeze(from int, now int64) (next int) {
	for n := from; n < min(from+Slice, len(q.dests.all)); n++ {
		d := q.dests.all[n]
		if d == nil || d.ctl == nil || d.ctl.until-now <= int64(d.ctl.step) {
			continue
		}
		d.ctl.until = now + int64(d.ctl.step)
		q.heap.push(due{at: d.ctl.until, slot: ^int32(n)})
	}
	if from+Slice >= len(q.dests.all) {
		return 0
	}
	return from + Slice
}
