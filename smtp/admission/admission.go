// Package admission shares a server's connections out among its clients, so that
// strangers never take all of them.
package admission

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Standing says how well a client is known when it connects.
type Standing uint8

// The standings.
const (
	Stranger Standing = iota // anybody, who may hand in mail
	User                     // who has to log in before anything else
	Trusted                  // of a trusted network: exempt from the limits by network
)

// Limits bound connections at once. 0 is no limit.
type Limits struct {
	All int
	// Host is for one IPv4 address or one IPv6 /64. An IPv4 /24 and an IPv6 /48
	// may have twice as many.
	Host int
}

// Load says how much of what strangers may take is taken.
type Load uint8

// The loads.
const (
	Low  Load = iota
	High      // half
	Full      // nine tenths, or more
)

// Patience is how long a client that has not logged in may be silent; 0: as long
// as it may otherwise.
func (l Load) Patience() time.Duration {
	switch l {
	case High:
		return time.Minute
	case Full:
		return 10 * time.Second
	}
	return 0
}

// Host is the network that counts as one client: an IPv4 address, an IPv6 /64.
func Host(a netip.Addr) netip.Prefix { return network(a, 32, 64) }

// Block is the network that is in one hand most often: an IPv4 /24, an IPv6 /48.
func Block(a netip.Addr) netip.Prefix { return network(a, 24, 48) }

func network(a netip.Addr, four, six int) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := six
	if a.Is4() {
		bits = four
	}
	p, _ := a.Prefix(bits) // the zero prefix for what is no IP address
	return p
}

const (
	perBlock   = 2 // hosts' shares
	pressed    = 10 * time.Second
	sweepEvery = time.Second
)

// Counter counts connections. Its methods may be called at any time, by many
// goroutines. Make it with New.
type Counter struct {
	limits Limits
	shares [Trusted]int // of strangers, and of strangers and users together
	load   atomic.Uint32
	press  atomic.Int64 // until when somebody else says that there is not much left
	swept  atomic.Int64

	mu   sync.Mutex
	open [Trusted + 1]int
	by   map[netip.Prefix]int // of hosts and of blocks
}

// New returns a counter of nothing yet. A quarter of all connections is for those
// who are no strangers, and a sixteenth for the trusted.
func New(l Limits) *Counter {
	c := &Counter{limits: l, by: map[netip.Prefix]int{}}
	c.shares[Stranger] = l.All - l.All/4
	c.shares[User] = l.All - l.All/16
	return c
}

// Enter counts a connection in, unless there are too many.
func (c *Counter) Enter(a netip.Addr, s Standing) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.weigh()
	if c.full(s) {
		return false
	}
	if s != Trusted && c.limits.Host > 0 {
		host, block := Host(a), Block(a)
		if c.by[host] >= c.limits.Host || c.by[block] >= perBlock*c.limits.Host {
			return false
		}
		c.by[host]++
		c.by[block]++
	}
	c.open[s]++
	return true
}

// full needs c.mu.
func (c *Counter) full(s Standing) bool {
	if c.limits.All <= 0 {
		return false
	}
	strangers, users := c.open[Stranger], c.open[User]
	switch {
	case strangers+users+c.open[Trusted] >= c.limits.All:
		return true
	case s == Trusted:
		return false
	case s == Stranger && strangers >= c.shares[Stranger]:
		return true
	}
	return strangers+users >= c.shares[User]
}

// Leave takes back what Enter has counted.
func (c *Counter) Leave(a netip.Addr, s Standing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[s]--
	c.weigh()
	if s == Trusted || c.limits.Host <= 0 {
		return
	}
	for _, n := range [...]netip.Prefix{Host(a), Block(a)} {
		if c.by[n]--; c.by[n] <= 0 {
			delete(c.by, n)
		}
	}
}

// weigh sets the load. It needs c.mu.
func (c *Counter) weigh() {
	if c.limits.All <= 0 {
		return
	}
	load := Low
	for s, share := range c.shares {
		taken := c.open[Stranger]
		if Standing(s) == User {
			taken += c.open[User]
		}
		switch {
		case taken*10 >= share*9:
			load = Full
		case taken*2 >= share:
			load = max(load, High)
		}
	}
	c.load.Store(uint32(load))
}

// Press says that something else than connections runs short, such as file
// descriptors. It holds for ten seconds.
func (c *Counter) Press(now time.Time) { c.press.Store(now.Add(pressed).UnixNano()) }

// Load is how much strangers have taken.
func (c *Counter) Load(now time.Time) Load {
	if until := c.press.Load(); until != 0 && now.UnixNano() < until {
		return Full
	}
	return Load(c.load.Load())
}

// Sweep reports whether the caller should look for clients that are silent for
// longer than the load allows. It says so once a second at most.
func (c *Counter) Sweep(now time.Time) bool {
	if c.Load(now) == Low {
		return false
	}
	last := c.swept.Load()
	return now.UnixNano()-last >= int64(sweepEvery) && c.swept.CompareAndSwap(last, now.UnixNano())
}
