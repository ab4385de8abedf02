package remote

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// ownRefresh is how long this host's addresses are taken for what they were.
const ownRefresh = 10 * time.Second

// ownAddresses knows the addresses of this host.
type ownAddresses struct {
	fixed []netip.Addr // by configuration; nil: those of the interfaces
	read  func() ([]net.Addr, error)

	mu    sync.Mutex
	found []netip.Addr
	err   error
	at    time.Time
}

// addresses returns them, at most ownRefresh old. Not to know them is an error:
// mail could come back to us for as long as its hops are counted.
func (o *ownAddresses) addresses() ([]netip.Addr, error) {
	if o.fixed != nil {
		return o.fixed, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := time.Now(); o.at.IsZero() || now.Sub(o.at) > ownRefresh {
		o.at = now
		o.found, o.err = o.look()
	}
	return o.found, o.err
}

func (o *ownAddresses) look() ([]netip.Addr, error) {
	addrs, err := o.read()
	if err != nil {
		return nil, fmt.Errorf("this host's own addresses cannot be read (%w): allow AF_NETLINK to the service", err)
	}
	all := []netip.Addr{} // none is an answer, too
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				all = append(all, ip.Unmap())
			}
		}
	}
	return all, nil
}

// OwnAddresses returns the addresses of this host, as deliveries see them: read
// again every few seconds. Not to know them is an error.
func (a *Agent) OwnAddresses() ([]netip.Addr, error) { return a.own.addresses() }

// ownOf returns those addresses of a list that are of this host.
func (a *Agent) ownOf(list string) ([]netip.Addr, error) {
	own, err := a.own.addresses()
	if err != nil {
		return nil, err
	}
	var all []netip.Addr
	for text := range strings.SplitSeq(list, ",") {
		if one, err := netip.ParseAddr(text); err == nil && (one.IsLoopback() || slices.Contains(own, one)) {
			all = append(all, one)
		}
	}
	return all, nil
}

// ourName reports whether a mail host is this one by its name.
func (a *Agent) ourName(host string) bool {
	host = strings.TrimSuffix(host, ".")
	for _, name := range [...]string{a.conf.Hostname, a.conf.Helo} {
		if strings.EqualFold(host, strings.TrimSuffix(name, ".")) {
			return true
		}
	}
	return false
}

// leadsHere reports whether an alias of a mail host is this host.
func (a *Agent) leadsHere(name string) bool {
	return a.ourName(name) || !a.conf.LoopbackHops && isLocalhost(name)
}

// reachesUs reports whether a connection to one of these addresses would end at
// this host. Only an operator's route may lead there.
func (a *Agent) reachesUs(addrs, own []netip.Addr) bool {
	return slices.ContainsFunc(addrs, func(x netip.Addr) bool {
		x = bare(x)
		switch {
		case x.IsLoopback() || loopback4.Contains(x):
			return !a.conf.LoopbackHops
		case x.IsUnspecified() || thisNetwork.Contains(x):
			return true
		}
		return slices.Contains(own, x)
	})
}

var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8") // connects to this host, too
	loopback4   = netip.MustParsePrefix("127.0.0.0/8")
	translated  = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	siteNAT64   = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215, mostly as a /96
	stateless   = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765
	compatible  = netip.MustParsePrefix("::/96")           // RFC 4291 §2.5.5.1
	sixToFour   = netip.MustParsePrefix("2002::/16")       // RFC 3056
)

// bare takes an IPv4 address out of the IPv6 address that stands for it.
func bare(x netip.Addr) netip.Addr {
	x = x.Unmap().WithZone("")
	b := x.As16()
	switch {
	case !x.Is6() || x.IsUnspecified() || x.IsLoopback():
		return x
	case translated.Contains(x), siteNAT64.Contains(x), stateless.Contains(x), compatible.Contains(x):
		return netip.AddrFrom4([4]byte(b[12:]))
	case sixToFour.Contains(x):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return x
}
