package smtp

import (
	"net/netip"
	"sync"
	"time"
)

// Limits bound what clients may ask for. 0 is no limit. Those with Net in front
// hold for each client network, which is one IPv4 address or one IPv6 /64, the
// others for all clients together. Trusted peers are exempt from all but
// Connections.
type Limits struct {
	Connections    int // at once
	NetConnections int // at once

	Messages, NetMessages     int // a minute
	Recipients, NetRecipients int // a minute
	Errors, NetErrors         int // a minute
	Bytes, NetBytes           int64
}

// Meters count what clients ask for. Several servers may share them: their limits
// hold for all of these together then. All methods may be called at any time.
type Meters struct {
	limits [2][quantities]int64 // a minute: of a network, of all
	conns  int
	nets   int // connections of one network

	mu    sync.Mutex
	open  int
	all   meter
	by    map[netip.Prefix]*meter // entries that say nothing any more are swept
	swept time.Time
}

type meter struct {
	conns    int
	since    time.Time // beginning of the current minute
	counts   [quantities]int64
	failures int // of AUTH
	failed   time.Time
}

// NewMeters returns meters that have counted nothing yet.
func NewMeters(l Limits) *Meters {
	return &Meters{
		limits: [2][quantities]int64{
			{countMessages: int64(l.NetMessages), countRecipients: int64(l.NetRecipients), countErrors: int64(l.NetErrors), countBytes: l.NetBytes},
			{countMessages: int64(l.Messages), countRecipients: int64(l.Recipients), countErrors: int64(l.Errors), countBytes: l.Bytes},
		},
		conns: l.Connections, nets: l.NetConnections, by: map[netip.Prefix]*meter{},
	}
}

func networkOf(a netip.Addr) netip.Prefix {
	bits := 64
	if a = a.Unmap(); a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits) // the zero prefix for what is no IP address
	return p
}

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
		if t.conns == 0 && now.Sub(t.since) > time.Minute && now.Sub(t.failed) > 10*time.Minute {
			delete(m.by, n)
		}
	}
}

// connect counts a connection in, unless there are too many.
func (m *Meters) connect(a netip.Addr, trusted bool, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conns > 0 && m.open >= m.conns {
		return false
	}
	if m.nets > 0 && !trusted {
		t := m.at(networkOf(a), now)
		if t.conns >= m.nets {
			return false
		}
		t.conns++
	}
	m.open++
	return true
}

func (m *Meters) disconnect(a netip.Addr, trusted bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open--
	if m.nets > 0 && !trusted {
		if t := m.by[networkOf(a)]; t != nil && t.conns > 0 {
			t.conns--
		}
	}
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
// halved with each quiet minute. Loopback addresses are exempt.
func (m *Meters) AuthDelay(a netip.Addr) time.Duration {
	if a.IsLoopback() {
		return 0
	}
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.at(networkOf(a), now)
	quiet := int(min(now.Sub(t.failed)/time.Minute, 30))
	t.failures = t.failures>>quiet + 1
	t.failed = now
	return min(250*time.Millisecond<<min(t.failures, 5), 8*time.Second)
}
