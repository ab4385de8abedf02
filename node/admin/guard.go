package admin

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

const (
	guardFirst   = 100 * time.Millisecond // what the first wrong token waits
	guardMost    = 5 * time.Second        // what the longest waits
	guardForgets = 10 * time.Minute       // after this without a wrong token
	guardTurns   = 16                     // tokens of one network that are judged at a time, others wait outside
	guardNets    = 1024                   // networks that are remembered
)

// guard slows down who tries tokens: each wrong one of a network (an address of
// IPv4, a /64 of IPv6) is answered twice as late as the one before, and so many
// of a network are under way at most that parallel guesses gain nothing. A good
// token is never answered late. Clients of this machine are slowed down like
// all, but never turned away: that would let any user keep the operator out.
type guard struct {
	mu   sync.Mutex
	nets map[netip.Addr]*trials
}

// trials are the wrong tokens of one network.
type trials struct {
	wrong int
	turns int
	last  time.Time
}

func newGuard() *guard { return &guard{nets: map[netip.Addr]*trials{}} }

// turn is one token that is being judged.
type turn struct {
	guard *guard
	net   netip.Addr
	of    *trials
}

// begin counts a token before it is judged; false: too many are.
func (g *guard) begin(remote string) (turn, bool) {
	net := networkOf(remote)
	g.mu.Lock()
	defer g.mu.Unlock()
	of := g.nets[net]
	if of == nil {
		g.makeRoom()
		of = &trials{}
		g.nets[net] = of
	}
	t := turn{g, net, of}
	if of.turns >= guardTurns && !net.IsLoopback() {
		return t, false
	}
	of.turns++
	return t, true
}

// makeRoom forgets who is forgiven, and at least one where the table is full.
func (g *guard) makeRoom() {
	if len(g.nets) < guardNets {
		return
	}
	var oldest netip.Addr
	for net, of := range g.nets {
		switch {
		case of.turns > 0:
		case time.Since(of.last) > guardForgets:
			delete(g.nets, net)
		case !oldest.IsValid() || of.last.Before(g.nets[oldest].last):
			oldest = net
		}
	}
	if len(g.nets) >= guardNets {
		delete(g.nets, oldest)
	}
}

// end ends the turn. A network that has given no wrong token is not remembered.
func (t turn) end() {
	t.guard.mu.Lock()
	defer t.guard.mu.Unlock()
	if t.of.turns--; t.of.turns == 0 && t.of.wrong == 0 && t.guard.nets[t.net] == t.of {
		delete(t.guard.nets, t.net)
	}
}

// failed counts a wrong token, and returns how many there were and how long
// the answer has to wait.
func (t turn) failed() (int, time.Duration) {
	t.guard.mu.Lock()
	defer t.guard.mu.Unlock()
	now := time.Now()
	if now.Sub(t.of.last) > guardForgets {
		t.of.wrong = 0
	}
	t.of.wrong++
	t.of.last = now
	if t.of.wrong > 6 { // 100 ms × 2^6 is more than the most
		return t.of.wrong, guardMost
	}
	return t.of.wrong, min(guardFirst<<(t.of.wrong-1), guardMost)
}

// wait returns after d. A client that hangs up meanwhile keeps the turn, or guesses
// would go on faster so; only turns of this machine, which are not bounded, end then.
func (t turn) wait(ctx context.Context, d time.Duration) {
	if !t.net.IsLoopback() {
		ctx = context.WithoutCancel(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// networkOf returns the network that a wrong token counts against: the zero
// address for a remote that is none.
func networkOf(remote string) netip.Addr {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	a := peer.Addr().Unmap().WithZone("")
	if p, err := a.Prefix(64); err == nil && a.Is6() && !a.IsLoopback() {
		return p.Addr()
	}
	return a
}
