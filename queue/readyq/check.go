package readyq

import "fmt"

// Check returns the first invariant of the queue that does not hold, nil where all
// do. It looks at everything, and is for tests.
func (q *Queue) Check(now int64) error {
	var count [active + 1]int
	total := map[int32]int32{}
	known := 0
	for slot := range q.table.top {
		e := q.table.at(slot)
		if e.state == free {
			continue
		}
		known++
		ref := Ref{ID: e.id, Recipient: e.n}
		if found, ok := q.table.find(ref); !ok || found != slot {
			return fmt.Errorf("%v leads to another entry", ref)
		}
		count[e.state]++
		total[e.dest]++
		if e.state == waiting && q.heap.items[e.a].slot != slot {
			return fmt.Errorf("%v is not at its place in the heap", ref)
		}
	}
	if known != q.table.index.n {
		return fmt.Errorf("there are %d entries, and the index has %d", known, q.table.index.n)
	}
	for s := parked; s <= active; s++ {
		if count[s] != q.count[s] {
			return fmt.Errorf("%d entries are in state %d, and %d are counted", count[s], s, q.count[s])
		}
	}
	for i := range q.heap.items {
		if i > 0 && q.heap.items[i].before(q.heap.items[(i-1)/4]) {
			return fmt.Errorf("the heap is out of order at %d", i)
		}
	}
	if q.unproven == 0 && len(q.spreads) > 0 {
		return fmt.Errorf("%d messages have jobs, and none runs", len(q.spreads))
	}
	return q.checkDests(total, now)
}

func (q *Queue) checkDests(total map[int32]int32, now int64) error {
	rings, listed := 0, 0
	for n, d := range q.dests.all {
		if d == nil {
			continue
		}
		ready, overdue, err := q.checkLists(d)
		if err != nil {
			return err
		}
		if total[int32(n)] != d.total || ready != d.ready {
			return fmt.Errorf("%s counts %d entries, %d ready; it has %d and %d",
				d.name, d.total, d.ready, total[int32(n)], ready)
		}
		listed += int(ready + overdue)
		if d.ring >= 0 {
			rings++
		}
		due := q.normal(d, now) || q.overdue(d)
		waits := d.ring < 0 && d.blocked && len(q.spreads) > 0 // for other jobs of its next message
		waits = waits || d.ring < 0 && d.gated != nil && d.gated.line != nil
		if due != (d.ring >= 0) && !(due && waits) {
			return fmt.Errorf("%s is in ring %d, and has something to do: %t", d.name, d.ring, due)
		}
	}
	if rings != q.inRings || listed != q.count[ready] {
		return fmt.Errorf("%d destinations in rings, %d counted; %d entries ready, %d counted",
			rings, q.inRings, listed, q.count[ready])
	}
	return nil
}

// checkLists counts the entries in the lists of a destination.
func (q *Queue) checkLists(d *dest) (listed, overdue int32, err error) {
	for c := range d.lists {
		l, before, length := d.lists[c], none, int32(0)
		for slot := l.head; slot != none; slot = q.table.at(slot).a {
			e := q.table.at(slot)
			if e.state != ready || e.b != before || int(e.list()) != c {
				return 0, 0, fmt.Errorf("an entry in list %d of %s does not belong there", c, d.name)
			}
			before = slot
			length++
		}
		if before != l.tail || length != l.n {
			return 0, 0, fmt.Errorf("list %d of %s has %d entries, and counts %d", c, d.name, length, l.n)
		}
		if c == classOverdue {
			overdue = length
		} else {
			listed += length
		}
	}
	return listed, overdue, nil
}
