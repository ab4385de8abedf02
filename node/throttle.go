package node

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"relay/pop3"
)

// throttle slows down networks (IPv4 addresses, IPv6 /64s) whose logins fail,
// and then refuses them for a while. Loopback is exempt.
type throttle struct {
	free  int           // failures without consequence
	delay time.Duration // added by each failure beyond
	most  time.Duration // longest delay; past it the network is refused
	reset time.Duration // how long a failure counts

	mu   sync.Mutex
	nets map[netip.Prefix]*failures
}

type failures struct {
	count int
	last  time.Time
}

func newThrottle(free int) *throttle {
	return &throttle{free: free, delay: time.Second, most: 10 * time.Second, reset: 10 * time.Minute, nets: map[netip.Prefix]*failures{}}
}

// network is what counts as one client.
func network(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// wait holds a login back as long as its network deserves, or refuses it
// unheard with pop3.ErrThrottled.
func (t *throttle) wait(ctx context.Context, a netip.Addr) error {
	d := t.penalty(a)
	if d == 0 {
		return nil
	}
	if d > t.most {
		return pop3.ErrThrottled
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *throttle) penalty(a netip.Addr) time.Duration {
	if a.IsLoopback() || t.free <= 0 {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.nets[network(a)]
	if f == nil || time.Since(f.last) > t.reset || f.count <= t.free {
		return 0
	}
	return time.Duration(f.count-t.free) * t.delay
}

// maxNetworks bounds the memory an attacker from many networks can take.
const maxNetworks = 100000

func (t *throttle) failed(a netip.Addr) {
	if a.IsLoopback() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k := network(a)
	f := t.nets[k]
	if f == nil || time.Since(f.last) > t.reset {
		if len(t.nets) >= maxNetworks {
			clear(t.nets)
		}
		f = &failures{}
		t.nets[k] = f
	}
	f.count++
	f.last = time.Now()
}

func (t *throttle) succeeded(a netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.nets, network(a))
}
