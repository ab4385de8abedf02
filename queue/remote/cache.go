package remote

import (
	"fmt"
	"time"

	"github.com/miekg/dns"
)

// put keeps an answer until its time is over, in place of others where it has to:
// the cache is bounded in answers and in octets. It needs r.mu.
func (r *DNS) put(q question, a answer) {
	now := time.Now()
	if now.Sub(r.swept) > sweepEvery {
		r.sweep(now)
	}
	r.drop(q)
	a.size = a.weigh() + len(q.name)
	for old := range r.cache {
		if len(r.cache) < maxCached && r.octets+a.size <= maxOctets {
			break
		}
		r.drop(old) // any one: the order of a map is as good as random
	}
	r.cache[q] = a
	r.octets += a.size
}

// sweep drops what has expired.
func (r *DNS) sweep(now time.Time) {
	r.swept = now
	for q, a := range r.cache {
		if !now.Before(a.until) {
			r.drop(q)
		}
	}
}

func (r *DNS) drop(q question) {
	if a, ok := r.cache[q]; ok {
		r.octets -= a.size
		delete(r.cache, q)
	}
}

// weigh estimates the octets that an answer takes.
func (a *answer) weigh() int {
	const each = 160 // of a record, and of a place in the map
	n := each
	for _, rr := range a.rrs {
		n += each + dns.Len(rr)
	}
	for _, name := range a.names {
		n += len(name)
	}
	return n
}

// absurd is the error for an answer that no honest name has.
func (a *answer) absurd(q question) error {
	octets := 0
	for _, rr := range a.rrs {
		octets += dns.Len(rr)
	}
	if len(a.rrs) > maxRecords || octets > maxAnswer {
		return fmt.Errorf("%w: %s %s: %d records of %d octets are too much", ErrLookup, dns.TypeToString[q.kind], q.name,
			len(a.rrs), octets)
	}
	return nil
}
