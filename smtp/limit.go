package smtp

import (
	"net/netip"
	"sync"
	"time"
)

// Limits bound what clients may ask for. 0 is no limit. Those with Net in front
// hold for each client network, which is one IPv4 address or one IPv6 /64;
// trusted peers are exempt from them.
type Limits struct {
	Connections    int // at once, in all
	NetConnections int // at once

	NetMessages   int // a minute
	NetRecipients int // a minute
	NetErrors     int // a minute
	NetBytes      int64
}

// meters counts by client network. Entries that say nothing any more are swept.
type meters struct {
	limits Limits

	mu    sync.Mutex
	total int
	nets  map[netip.Prefix]*meter
	swept time.Time
}

type meter struct {
	conns      int
	since      time.Time // beginning of the current minute
	messages   int
	recipients int
	errors     int
	bytes      int64
	failures   int // of AUTH
	failed     time.Time
}

func (m *meters) init(l Limits) {
	m.limits = l
	m.nets = map[netip.Prefix]*meter{}
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
func (m *meters) at(n netip.Prefix, now time.Time) *meter {
	t := m.nets[n]
	if t == nil {
		m.sweep(now)
		t = &meter{}
		m.nets[n] = t
	}
	if now.Sub(t.since) >= time.Minute {
		t.since, t.messages, t.recipients, t.errors, t.bytes = now, 0, 0, 0, 0
	}
	return t
}

func (m *meters) sweep(now time.Time) {
	if now.Sub(m.swept) < time.Minute {
		return
	}
	m.swept = now
	for n, t := range m.nets {
		if t.conns == 0 && now.Sub(t.since) > time.Minute && now.Sub(t.failed) > 10*time.Minute {
			delete(m.nets, n)
		}
	}
}

// connect counts a connection in, unless there are too many.
func (m *meters) connect(a netip.Addr, trusted bool, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.limits.Connections > 0 && m.total >= m.limits.Connections {
		return false
	}
	if m.limits.NetConnections > 0 && !trusted {
		t := m.at(networkOf(a), now)
		if t.conns >= m.limits.NetConnections {
			return false
		}
		t.conns++
	}
	m.total++
	return true
}

func (m *meters) disconnect(a netip.Addr, trusted bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total--
	if m.limits.NetConnections > 0 && !trusted {
		if t := m.nets[networkOf(a)]; t != nil && t.conns > 0 {
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
)

func (m *meters) limit(q quantity) int64 {
	switch q {
	case countMessages:
		return int64(m.limits.NetMessages)
	case countRecipients:
		return int64(m.limits.NetRecipients)
	case countErrors:
		return int64(m.limits.NetErrors)
	default:
		return m.limits.NetBytes
	}
}

// add counts n more and reports whether the minute's limit still holds. With
// n = 0 it only asks.
func (m *meters) add(a netip.Addr, q quantity, n int64) bool {
	limit := m.limit(q)
	if limit <= 0 {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.at(networkOf(a), time.Now())
	var now int64
	switch q {
	case countMessages:
		t.messages += int(n)
		now = int64(t.messages)
	case countRecipients:
		t.recipients += int(n)
		now = int64(t.recipients)
	case countErrors:
		t.errors += int(n)
		now = int64(t.errors)
	case countBytes:
		t.bytes += n
		now = t.bytes
	}
	if n == 0 {
		return now < limit
	}
	return now <= limit
}

// authDelay counts a failed login and says how long to hold the answer back.
func (m *meters) authDelay(a netip.Addr) time.Duration {
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
