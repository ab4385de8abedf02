package readyq

import (
	"math"
	"slices"
)

// Gate is a limit that several destinations share. Its methods must not wait.
type Gate interface {
	// Room says how many recipients of one message may begin; 0: it has to wait until Kick.
	Room() int
	// Demand says how the jobs that could run at once, those that run among them, and the entries that are ready have
	// changed.
	Demand(jobs, ready int)
	// Attached says that one destination more, or less, has the gate.
	Attached(n int)
}

// gated is what a destination has of gates. Those without a limit, which are nearly all, have none.
type gated struct {
	gates       []Gate
	jobs, ready int  // as the gates were told
	line        Gate // it stands in this gate's line; nil: in none
}

// Gates are the limits of the batch's destination.
func (b *Batch) Gates() []Gate {
	if b.d.gated == nil {
		return nil
	}
	return b.d.gated.gates
}

// Attach says which limits there are for a batch's destination, from now on.
func (q *Queue) Attach(b *Batch, gates []Gate, now int64) {
	d := b.d
	if d.gated == nil && len(gates) == 0 || d.gated != nil && slices.Equal(d.gated.gates, gates) {
		return
	}
	d.leaveGates()
	if len(gates) > 0 {
		d.gated = &gated{gates: gates}
		for _, gate := range gates {
			gate.Attached(1)
		}
	}
	q.replace(b.dest, now)
}

// leaveGates ends that a destination has gates.
func (d *dest) leaveGates() {
	if d.gated == nil {
		return
	}
	d.gated.tell(0, 0)
	for _, gate := range d.gated.gates {
		gate.Attached(-1)
	}
	d.gated = nil
}

// tell has the gates know what the destination needs of them.
func (g *gated) tell(jobs, ready int) {
	if jobs == g.jobs && ready == g.ready {
		return
	}
	for _, gate := range g.gates {
		gate.Demand(jobs-g.jobs, ready-g.ready)
	}
	g.jobs, g.ready = jobs, ready
}

// demand tells the gates of a destination what it needs.
func (q *Queue) demand(d *dest, now int64) {
	if d.down(now) {
		d.gated.tell(int(d.active()), 0)
		return
	}
	d.gated.tell(int(min(d.ready+d.active(), q.window(d))), int(d.ready))
}

// stopped reports whether a gate has no room for a destination, which then stands in its line. kicked: the
// destination comes from a line, and need not go to the end of another one while there is room.
func (q *Queue) stopped(n int32, kicked bool) bool {
	d := q.dests.all[n]
	if d.gated == nil {
		return false
	}
	if d.gated.line != nil {
		return true
	}
	for _, gate := range d.gated.gates {
		if gate.Room() == 0 || !kicked && len(q.lines[gate]) > 0 {
			d.gated.line = gate
			q.lines[gate] = append(q.lines[gate], d)
			return true
		}
	}
	return false
}

// shut reports whether some gate of a destination has no room.
func (q *Queue) shut(d *dest) bool {
	return d.gated != nil && slices.ContainsFunc(d.gated.gates, func(g Gate) bool { return g.Room() == 0 })
}

// Kick lets destinations go on that wait for a gate which has room now, as many as it has room for: one slice of them.
// It reports whether there is more to do at once.
func (q *Queue) Kick(gate Gate, now int64) (more bool) {
	line := q.lines[gate]
	if len(line) == 0 {
		return false
	}
	room := gate.Room()
	for tries := 0; len(line) > 0 && room > 0 && tries < Slice; tries++ {
		d := line[0]
		line[0] = nil
		line = line[1:]
		q.lines[gate] = line
		if d.gated == nil || d.gated.line != gate {
			continue
		}
		d.gated.line = nil
		n, ok := q.dests.index[d.name]
		if !ok || q.dests.all[n] != d {
			continue
		}
		if q.place(n, now, true); d.ring >= 0 {
			room--
		}
		line = q.lines[gate]
	}
	if len(line) == 0 {
		delete(q.lines, gate)
	}
	return len(line) > 0 && room > 0
}

// room is how many recipients a job to a destination may have.
func (q *Queue) room(d *dest) int {
	n := q.limits.Recipients
	if d.gated == nil {
		return n
	}
	least := math.MaxInt
	for _, gate := range d.gated.gates {
		least = min(least, gate.Room())
	}
	return min(n, max(least, 1))
}
