package smtp

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"relay/smtp/admission"
)

// Limits bound what clients may ask for. 0 is no limit. Those with Net in front
// hold for each client network, which is one IPv4 address or one IPv6 /64, the
// others for all clients together. Trusted peers are exempt from all but
// Connections.
type Limits struct {
	Connections    int // at once; a quarter is not for strangers
	NetConnections int // at once; an IPv4 /24 and an IPv6 /48 may have twice as many

	Messages, NetMessages     int // a minute
	Recipients, NetRecipients int // a minute
	Errors, NetErrors         int // a minute
	Bytes, NetBytes           int64

	// Held is how many octets strangers' messages may hold while they come in, all
	// together. Above half of it they have to come at 4 KiB a second, and an IPv4 /24 or
	// IPv6 /48 gets no more than an eighth.
	Held int64
}

// Meters count what clients ask for. Several servers may share them: their limits
// hold for all of these together then. All methods may be called at any time.
type Meters struct {
	limits [2][quantities]int64 // a minute: of a network, of all
	conns  *admission.Counter
	holds  holds

	mu      sync.Mutex
	servers []*Server // that count here
	all     meter
	by      map[netip.Prefix]*meter // entries that say nothing any more are swept
	swept   time.Time
}

type meter struct {
	since    time.Time // beginning of the current minute
	counts   [quantities]int64
	failures int // of AUTH, or guesses at recipients
	failed   time.Time
}

// NewMeters returns meters that have counted nothing yet.
func NewMeters(l Limits) *Meters {
	return &Meters{
		limits: [2][quantities]int64{
			{countMessages: int64(l.NetMessages), countRecipients: int64(l.NetRecipients), countErrors: int64(l.NetErrors),
				countBytes: l.NetBytes},
			{countMessages: int64(l.Messages), countRecipients: int64(l.Recipients), countErrors: int64(l.Errors),
				countBytes: l.Bytes},
		},
		conns: admission.New(admission.Limits{All: l.Connections, Host: l.NetConnections}), by: map[netip.Prefix]*meter{},
		holds: holds{limit: l.Held, by: map[netip.Prefix]int64{}},
	}
}

func networkOf(a netip.Addr) netip.Prefix { return admission.Host(a) }

// at returns the meter of a network. m.mu is held.
func (m *Meters) at(n netip.Prefix, now time.Time) *meter {
	t := m.by[n]
	if t == nil {
		m.sweep(now)
		t = &meter{}
		m.by[n] = t
	}
	t.turn(now)
	return t
}

// turn begins another minute where one is over.
func (t *meter) turn(now time.Time) {
	if now.Sub(t.since) >= time.Minute {
		t.since, t.counts = now, [quantities]int64{}
	}
}

func (m *Meters) sweep(now time.Time) {
	if now.Sub(m.swept) < time.Minute {
		return
	}
	m.swept = now
	for n, t := range m.by {
		if now.Sub(t.since) > time.Minute && now.Sub(t.failed) > 10*time.Minute {
			delete(m.by, n)
		}
	}
}

// connect counts a connection in, unless there are too many. If they become
// many, those that are silent are sent away.
func (m *Meters) connect(a netip.Addr, who admission.Standing, now time.Time) bool {
	ok := m.conns.Enter(a, who)
	if m.conns.Sweep(now) {
		m.each(func(s *Server) { s.hurry(now) })
	}
	return ok
}

// each calls do for the servers that count here.
func (m *Meters) each(do func(*Server)) {
	m.mu.Lock()
	all := slices.Clone(m.servers)
	m.mu.Unlock()
	for _, s := range all {
		do(s)
	}
}

// watch has connections of a server sent away where there are many.
func (m *Meters) watch(s *Server) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.servers = append(m.servers, s)
}

// quantity is what is counted by the minute.
type quantity uint8

const (
	countMessages quantity = iota
	countRecipients
	countErrors
	countBytes
	quantities
)

// excess says which limit does not hold any more.
type excess uint8

const (
	within  excess = iota
	overNet        // the client network's
	overAll        // that of all
)

// add counts n more and reports whether the minute's limits still hold. With
// n = 0 it only asks.
func (m *Meters) add(a netip.Addr, q quantity, n int64) excess {
	net, all := m.limits[0][q], m.limits[1][q]
	if net <= 0 && all <= 0 {
		return within
	}
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	over := within
	if net > 0 && !m.at(networkOf(a), now).add(q, n, net) {
		if over = overNet; q != countBytes {
			return over // what is refused is no burden on all
		}
	}
	m.all.turn(now)
	if all > 0 && !m.all.add(q, n, all) && over == within {
		over = overAll
	}
	return over
}

func (t *meter) add(q quantity, n, limit int64) bool {
	t.counts[q] += n
	if n == 0 {
		return t.counts[q] < limit
	}
	return t.counts[q] <= limit
}

// AuthDelay counts a failed login and says how long to hold the answer back: half
// a second, doubled with each failure from the client's network up to eight, and
// halved with each quiet minute.
func (m *Meters) AuthDelay(a netip.Addr) time.Duration {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	return min(250*time.Millisecond<<min(m.at(networkOf(a), now).miss(now), 5), 8*time.Second)
}

// unknownRecipient counts a recipient who is not there, and says how long to hold the answer
// back: ten from an IPv4 /24 or IPv6 /48 are free, then it is a tenth of a second,
// doubled with each up to three seconds. Each quiet minute halves the count.
func (m *Meters) unknownRecipient(a netip.Addr) time.Duration {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.at(admission.Block(a), now).miss(now) - freeGuesses
	if n <= 0 {
		return 0
	}
	return min(50*time.Millisecond<<min(n, 10), maxGuessDelay)
}

const (
	freeGuesses   = 10
	maxGuessDelay = 3 * time.Second
)

// miss counts a failure. A quiet minute halves the count.
func (t *meter) miss(now time.Time) int {
	quiet := int(min(now.Sub(t.failed)/time.Minute, 30))
	t.failures = t.failures>>quiet + 1
	t.failed = now
	return t.failures
}
