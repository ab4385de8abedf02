package wire

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Lobby bounds the connections of those who have not shown yet who they are.
// Nobody is turned away: where there is no room, the connection that has held
// its place longest without a word is closed for the new one, else the one that
// came first. A member, whose handshake takes milliseconds, is in and out again
// before its turn comes, however many say nothing.
//
// The cluster port has 192 places in all, 64 from one address (IPv6: /64), 64 more for
// addresses that members came from; 3 s for the first octet, 10 s for all. So half-open
// connections never close the port.
type Lobby struct {
	limit      int // guests at once
	perAddress int // of one address (IPv4) or network of 64 bits (IPv6)
	reserved   int // places beyond limit, for known addresses

	mu     sync.Mutex
	guests []*Guest // in order of arrival
	known  map[netip.Prefix]struct{}
}

// Guest is a connection in a Lobby.
type Guest struct {
	net.Conn
	from  netip.Prefix
	known bool
	spoke atomic.Bool // it has sent an octet
	until time.Time   // when it must have shown who it is
}

// knownLimit bounds the addresses that are remembered; a cluster has far fewer.
const knownLimit = 1024

// NewLobby makes a lobby of limit places, and as many more as reserved for
// addresses that Trust has named.
func NewLobby(limit, perAddress, reserved int) *Lobby {
	return &Lobby{limit: limit, perAddress: perAddress, reserved: reserved, known: map[netip.Prefix]struct{}{}}
}

// Enter takes a connection in. It has until first to send an octet, and until
// last for all that it has to show; then its reads fail. The caller reads by way
// of the Guest, and calls Leave in the end.
func (l *Lobby) Enter(c net.Conn, first, last time.Duration) *Guest {
	g := &Guest{Conn: c, from: network(c.RemoteAddr()), until: time.Now().Add(last)}
	_ = c.SetDeadline(time.Now().Add(min(first, last)))
	l.mu.Lock()
	_, g.known = l.known[g.from]
	out := l.crowdedOut(g)
	if out != nil {
		l.remove(out)
	}
	l.guests = append(l.guests, g)
	l.mu.Unlock()
	if out != nil {
		_ = out.Close()
	}
	return g
}

// crowdedOut returns who must go for a new guest, nil where there is room.
func (l *Lobby) crowdedOut(g *Guest) *Guest {
	same, kind := 0, 0
	for _, o := range l.guests {
		if o.from == g.from {
			same++
		}
		if o.known == g.known {
			kind++
		}
	}
	limit := l.limit
	if g.known {
		limit = l.reserved
	}
	switch {
	case same >= l.perAddress:
		return l.first(func(o *Guest) bool { return o.from == g.from })
	case kind >= limit:
		return l.first(func(o *Guest) bool { return o.known == g.known })
	}
	return nil
}

// first returns the first guest that has said nothing, else the first.
func (l *Lobby) first(of func(*Guest) bool) (first *Guest) {
	for _, o := range l.guests {
		switch {
		case !of(o):
		case !o.spoke.Load():
			return o
		case first == nil:
			first = o
		}
	}
	return first
}

func (l *Lobby) remove(g *Guest) {
	for i, o := range l.guests {
		if o == g {
			l.guests = append(l.guests[:i], l.guests[i+1:]...)
			return
		}
	}
}

// Leave gives a guest's place back, and lifts its deadline.
func (l *Lobby) Leave(g *Guest) {
	l.mu.Lock()
	l.remove(g)
	l.mu.Unlock()
	_ = g.SetDeadline(time.Time{})
}

// Trust remembers the address of a member: places are kept for it.
func (l *Lobby) Trust(addr net.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.known) < knownLimit {
		l.known[network(addr)] = struct{}{}
	}
}

// Read reads, and gives who has begun to speak its time to end.
func (g *Guest) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if n > 0 && !g.spoke.Load() {
		g.spoke.Store(true)
		_ = g.Conn.SetDeadline(g.until)
	}
	return n, err
}

// network is what counts as one address.
func network(a net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := ap.Addr().Unmap().WithZone(""), 64
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.Prefix(bits)
	return p
}

// Sparing writes at most one line a minute; the line says how many more there
// were.
type Sparing struct {
	mu     sync.Mutex
	next   time.Time
	untold int
}

// sparingPause is the time between two lines.
const sparingPause = time.Minute

// Warn writes a line, or counts it.
func (s *Sparing) Warn(log *zap.Logger, what string, fields ...zap.Field) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Before(s.next) {
		s.untold++
		return
	}
	log.Warn(what, append(fields, zap.Int("others_since_last_line", s.untold))...)
	s.next, s.untold = now.Add(sparingPause), 0
}
