package readyq

import (
	"strings"
	"time"
)

// Classes of the lists of a destination: three priorities, and what must be
// looked at although the destination is backing off.
const (
	classHigh = iota
	classNormal
	classLow
	classOverdue
	classes
)

// list is a doubly linked list of entries, through entry.a and entry.b.
type list struct{ head, tail, n int32 }

// dest is one destination: a hop set by hand, or a domain.
type dest struct {
	name       string // key in the index
	lists      [classes]list
	total      int32 // entries of any state
	ready      int32 // entries in the first three lists
	next, prev int32 // in its ring
	ring       int8  // -1: in none
	picks      uint8
	idle       bool
	blocked    bool     // waits for other jobs of its next message
	ctl        *control // nil until the first job
	gated      *gated   // nil: no limit is known for it
}

// control is what is known of a destination from the jobs it got.
type control struct {
	active  int32
	window  float64 // jobs at a time
	fails   float64 // host failures since the last success, as parts of a window
	proven  bool    // the last word was a success
	probe   bool    // one job at a time until the first success
	until   int64   // backing off
	step    time.Duration
	reply   string // of the last host failure
	overdue bool   // a worker has an overdue job
}

// A key is the domain itself, or the hop set by hand. A route of "mx", or one whose name begins with "mx (", goes by
// the domain again, apart from mail that follows the routes.
const (
	mxKey   = "mx:"
	mxNamed = "mx ("
	mxMark  = "\x00" // between the name of such a route and the domain
)

func destKey(domain, route string) string {
	switch {
	case route == "":
		return domain
	case route == "mx":
		return mxKey + domain
	case strings.HasPrefix(route, mxNamed):
		return route + mxMark + domain
	}
	return "=" + route
}

// place splits a key into what a Job says.
func (d *dest) place() (domain, route string) {
	if r, ok := strings.CutPrefix(d.name, "="); ok {
		return "", r
	}
	if n, ok := strings.CutPrefix(d.name, mxKey); ok {
		return n, "mx"
	}
	if route, n, ok := strings.Cut(d.name, mxMark); ok {
		return n, route
	}
	return d.name, ""
}

// label is the destination's name for people.
func (d *dest) label() string {
	domain, route := d.place()
	if domain == "" {
		return route
	}
	return domain
}

func (d *dest) down(now int64) bool { return d.ctl != nil && now < d.ctl.until }

func (d *dest) active() int32 {
	if d.ctl == nil {
		return 0
	}
	return d.ctl.active
}

// dests holds the destinations, by number, and finds them by key.
type dests struct {
	all   []*dest
	empty []int32
	index map[string]int32
	idle  []int32 // without entries, remembered for what their control knows
}

func newDests() dests { return dests{index: make(map[string]int32)} }

func (s *dests) find(domain, route string) int32 {
	key := domain
	if route != "" {
		key = destKey(domain, route)
	}
	if n, ok := s.index[key]; ok {
		return n
	}
	d := &dest{name: strings.Clone(key), ring: -1}
	for i := range d.lists {
		d.lists[i] = list{none, none, 0}
	}
	n := int32(len(s.all))
	if k := len(s.empty); k > 0 {
		n, s.empty = s.empty[k-1], s.empty[:k-1]
		s.all[n] = d
	} else {
		s.all = append(s.all, d)
	}
	s.index[d.name] = n
	return n
}

func (s *dests) remove(n int32) {
	s.all[n].leaveGates()
	delete(s.index, s.all[n].name)
	s.all[n] = nil
	s.empty = append(s.empty, n)
}

// ring is a circle of destinations that have something to do.
type ring struct{ head int32 }

func (s *dests) join(r *ring, n int32) {
	d := s.all[n]
	if r.head == none {
		r.head, d.next, d.prev = n, n, n
		return
	}
	h := s.all[r.head]
	d.next, d.prev = r.head, h.prev
	s.all[h.prev].next = n
	h.prev = n
}

func (s *dests) leave(r *ring, n int32) {
	d := s.all[n]
	if d.next == n {
		r.head = none
		return
	}
	s.all[d.prev].next, s.all[d.next].prev = d.next, d.prev
	if r.head == n {
		r.head = d.next
	}
}
