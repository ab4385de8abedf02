package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/idna"

	"relay/queue"
)

const (
	maxHosts     = 20 // looked up in one attempt
	maxAddresses = 10 // tried in one attempt
)

// hop is one address to connect to.
type hop struct {
	name string // of the host; empty for an address literal
	addr netip.AddrPort
	lmtp bool
	part int  // of a Spread: which one of More, from 1; 0: the target itself
	last bool // of Spread.Fallback
	mx   bool // by MX records, or for want of them
	// signed: DNSSEC has secured that the host is one of the domain's, or its operator has said so by a route.
	signed bool
	// bases are the names below which TLSA records are looked for (RFC 7672 §2.2.3), in their order, parted by
	// commas; empty: no DANE, since DNSSEC does not secure all that leads to the host.
	bases string
}

// sameHost reports whether two hops are addresses of one host.
func (h hop) sameHost(o hop) bool { return h.name == o.name && h.part == o.part }

func (h hop) String() string {
	if h.name == "" || h.name == h.addr.Addr().String() {
		return fmt.Sprintf("[%s]:%d", h.addr.Addr(), h.addr.Port())
	}
	return fmt.Sprintf("%s [%s]:%d", h.name, h.addr.Addr(), h.addr.Port())
}

// fault is why no hop, or none of them, could be used.
type fault struct {
	outcome queue.Outcome
	text    string // begins with an enhanced code or, from a host, with its reply
	host    string
	next    bool // it speaks of the destination, not of the recipients
	left    bool // there are hosts that were not tried
	untried bool
	final   bool      // no other hop is to be tried but those of the fallback
	name    bool      // it speaks of the host's name, not of an address of it
	tls     string    // what it is in a report by TLS-RPT; empty: nothing of TLS
	proof   proofKind // where tls is set: what was missed
	limited bool      // a limit has no room, and no other hop at all is to be tried
}

func failed(format string, args ...any) *fault {
	return &fault{outcome: queue.Failed, text: fmt.Sprintf(format, args...)}
}

func deferred(format string, args ...any) *fault {
	return &fault{outcome: queue.Deferred, text: fmt.Sprintf(format, args...), next: true}
}

// hosts finds the addresses of a route's host.
func (a *Agent) hostHops(ctx context.Context, t Target) ([]hop, *fault) {
	port := cmp.Or(t.Port, a.conf.Port)
	var bases string
	addrs, err := a.host(ctx, t.Host)
	if err == nil && t.Link.TLS == DaneTLS {
		addrs, bases, err = a.secureHost(ctx, t.Host, addrs)
	}
	if err != nil {
		// A route is set by hand. Its mistakes are the operator's to mend, and
		// no reason to return mail.
		return nil, deferred("4.4.4 the route's host %s was not found: %v", t.Host, err)
	}
	addrs = interleave(addrs)
	all := make([]hop, 0, min(len(addrs), maxAddresses))
	for _, addr := range addrs[:min(len(addrs), maxAddresses)] {
		all = append(all, hop{name: t.Host, addr: netip.AddrPortFrom(addr, uint16(port)), lmtp: t.Kind == LMTP,
			signed: true, bases: bases})
	}
	return all, nil
}

func (a *Agent) host(ctx context.Context, name string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	if r, ok := a.conf.Resolver.(interface {
		Host(context.Context, string) ([]netip.Addr, error)
	}); ok {
		return r.Host(ctx, name)
	}
	return a.conf.Resolver.Addresses(ctx, strings.ToLower(name))
}

// mxHops finds the mail hosts of a domain, RFC 5321 §5.1, best first.
func (a *Agent) mxHops(ctx context.Context, domain string) ([]hop, *fault) {
	if strings.HasPrefix(domain, "[") {
		return a.literal(domain)
	}
	name, err := idna.Lookup.ToASCII(domain)
	if err != nil {
		// Names with an underscore or the like are no valid names, but DNS
		// may know them.
		if name = strings.ToLower(domain); !ascii(name) {
			return nil, failed("5.1.2 %s is not a domain name", domain)
		}
	}
	records, signed, err := a.mx(ctx, name)
	switch {
	case err == nil:
	case errors.Is(err, ErrNoName):
		return nil, failed("5.1.2 the domain %s does not exist", domain)
	case errors.Is(err, ErrNoData):
		records = nil
	default:
		return nil, deferred("4.4.3 the mail hosts of %s could not be looked up: %v", domain, err)
	}
	if a.conf.Sites != nil {
		a.conf.Sites.Learn(domain, records)
	}
	if len(records) == 0 { // the implicit MX
		records = []Record{{Host: name}}
	} else if records = slices.DeleteFunc(records, func(r Record) bool { return r.Host == "" }); len(records) == 0 {
		return nil, failed("5.1.10 the domain %s accepts no mail (null MX)", domain) // RFC 7505 §4.2
	}
	return a.resolve(ctx, domain, order(records), signed)
}

// mx asks for the mail hosts of a domain, and whether DNSSEC secures the answer.
func (a *Agent) mx(ctx context.Context, domain string) ([]Record, bool, error) {
	if r, ok := a.conf.Resolver.(Secured); ok {
		return r.SecureMX(ctx, domain)
	}
	all, err := a.conf.Resolver.MX(ctx, domain)
	return all, false, err
}

// order sorts by preference, equals at random.
func order(records []Record) []Record {
	records = slices.Clone(records)
	rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	slices.SortStableFunc(records, func(x, y Record) int { return cmp.Compare(x.Preference, y.Preference) })
	return records
}

// host is a mail host with its addresses.
type mailHost struct {
	name       string
	preference uint16
	addrs      []netip.Addr
	ours       bool // it is an alias of this host's name
	signed     bool
	bases      string
}

// resolve turns mail hosts into addresses. Hosts from our own on are left out:
// mail must get closer to its end with every hop (RFC 5321 §5.1). signed: DNSSEC has
// secured the records.
func (a *Agent) resolve(ctx context.Context, domain string, records []Record, signed bool) ([]hop, *fault) {
	own, err := a.own.addresses()
	if err != nil {
		return nil, deferred("4.3.5 whether %s is this host cannot be told: %v", domain, err)
	}
	named := slices.IndexFunc(records, func(r Record) bool { return a.ourName(r.Host) })
	if named >= 0 { // it counts without an address, too
		records = before(records, records[named].Preference)
	}
	hosts, last := a.lookUp(ctx, share(records, maxHosts, func(r Record) uint16 { return r.Preference }), signed)
	addressed := slices.IndexFunc(hosts, func(h mailHost) bool { return h.ours || a.reachesUs(h.addrs, own) })
	if addressed >= 0 {
		least := hosts[addressed].preference
		hosts = slices.DeleteFunc(hosts, func(h mailHost) bool { return h.preference >= least })
	}
	switch {
	case len(hosts) > 0:
		return a.hops(hosts), nil
	case addressed >= 0 || named >= 0 && len(records) == 0:
		return nil, loops(domain)
	case len(records) == 1 && records[0].Preference == 0 && last != nil && settled(last) &&
		strings.EqualFold(records[0].Host, domain):
		return nil, failed("5.4.4 the domain %s has no mail host: %v", domain, last)
	case settled(last):
		return nil, deferred("4.4.4 no mail host of %s has an address: %v", domain, last)
	}
	return nil, deferred("4.4.3 the mail hosts of %s could not be looked up: %v", domain, last)
}

func loops(domain string) *fault {
	return failed("5.4.6 mail for %s loops back to this host", domain)
}

// before returns the records that are better than a preference.
func before(records []Record, preference uint16) []Record {
	n := slices.IndexFunc(records, func(r Record) bool { return r.Preference >= preference })
	return records[:n]
}

// lookUp finds the addresses of mail hosts. Hosts without any are left out, but
// for aliases of our own name; the error is the one that says most of why.
func (a *Agent) lookUp(ctx context.Context, records []Record, signed bool) (hosts []mailHost, last error) {
	for _, r := range records {
		found, err := a.addresses(ctx, r.Host)
		if slices.ContainsFunc(found.Aliases, a.leadsHere) {
			hosts = append(hosts, mailHost{name: r.Host, preference: r.Preference, ours: true})
			continue
		}
		if err != nil {
			last = cmp.Or(last, err)
			if !settled(err) {
				last = err
			}
			continue
		}
		if len(found.Addrs) > 0 {
			h := mailHost{name: r.Host, preference: r.Preference, addrs: interleave(found.Addrs), signed: signed}
			if signed {
				h.bases = a.bases(ctx, r.Host, found)
			}
			hosts = append(hosts, h)
		}
	}
	return hosts, last
}

// addresses asks for a mail host's addresses, and for the names that it is an
// alias of where the resolver can tell them.
func (a *Agent) addresses(ctx context.Context, host string) (Found, error) {
	if r, ok := a.conf.Resolver.(Secured); ok {
		return r.Find(ctx, host)
	}
	if r, ok := a.conf.Resolver.(interface {
		Resolve(context.Context, string) ([]netip.Addr, []string, error)
	}); ok {
		addrs, aliases, err := r.Resolve(ctx, host)
		return Found{Addrs: addrs, Aliases: aliases}, err
	}
	addrs, err := a.conf.Resolver.Addresses(ctx, host)
	return Found{Addrs: addrs}, err
}

// hops lists the addresses of hosts in the order in which they are tried. If they are
// too many, each preference has its share: dead addresses of the first must not hide
// the others.
func (a *Agent) hops(hosts []mailHost) []hop {
	var all []candidate
	for i := range hosts {
		for _, addr := range hosts[i].addrs {
			all = append(all, candidate{&hosts[i], addr})
		}
	}
	all = share(all, maxAddresses, func(c candidate) uint16 { return c.host.preference })
	to := make([]hop, len(all))
	for i, c := range all {
		to[i] = hop{name: c.host.name, addr: netip.AddrPortFrom(c.addr, uint16(a.conf.Port)), mx: c.host.name != "",
			signed: c.host.signed, bases: c.host.bases}
	}
	return to
}

type candidate struct {
	host *mailHost
	addr netip.Addr
}

// share cuts a list, which is sorted by preference, to at most n. Each
// preference keeps at least its equal part; places that it does not need go to the
// best ones. Of more preferences than places the best keep one each, and a chance one of
// the others has the last.
func share[T any](all []T, n int, preference func(T) uint16) []T {
	if len(all) <= n {
		return all
	}
	all = fewer(all, n, preference)
	var sizes []int // of each preference
	for i := range all {
		if i == 0 || preference(all[i]) != preference(all[i-1]) {
			sizes = append(sizes, 0)
		}
		sizes[len(sizes)-1]++
	}
	keep := make([]int, len(sizes))
	part := n / len(sizes)
	left := n
	for i, size := range sizes {
		keep[i] = min(size, part)
		left -= keep[i]
	}
	kept := make([]T, 0, n)
	from := 0
	for i, size := range sizes {
		more := min(left, size-keep[i])
		left -= more
		kept = append(kept, all[from:from+keep[i]+more]...)
		from += size
	}
	return kept
}

// fewer leaves out what has none of at most n preferences: the n-1 best, and one of the others.
func fewer[T any](all []T, n int, preference func(T) uint16) []T {
	var begins []int // of each preference
	for i := range all {
		if i == 0 || preference(all[i]) != preference(all[i-1]) {
			begins = append(begins, i)
		}
	}
	if len(begins) <= n {
		return all
	}
	from, to := n-1+rand.IntN(len(begins)-n+1), len(all)
	if from+1 < len(begins) {
		to = begins[from+1]
	}
	return slices.Concat(all[:begins[n-1]], all[begins[from]:to])
}

// literal reads a domain of the form [192.0.2.1] or [IPv6:2001:db8::1].
func (a *Agent) literal(domain string) ([]hop, *fault) {
	s, ok := strings.CutSuffix(domain[1:], "]")
	if len(s) > 5 && strings.EqualFold(s[:5], "ipv6:") {
		s = s[5:]
	}
	addr, err := netip.ParseAddr(s)
	if !ok || err != nil || addr.Zone() != "" {
		return nil, failed("5.1.2 %s is not an address literal", domain)
	}
	own, err := a.own.addresses()
	if err != nil {
		return nil, deferred("4.3.5 whether %s is this host cannot be told: %v", domain, err)
	}
	addr = addr.Unmap()
	if a.reachesUs([]netip.Addr{addr}, own) {
		return nil, loops(domain)
	}
	return a.hops([]mailHost{{addrs: []netip.Addr{addr}}}), nil
}

// interleave orders addresses so that the two families take turns: one that
// does not work must not use up all tries.
func interleave(addrs []netip.Addr) []netip.Addr {
	var six, four []netip.Addr
	for _, a := range addrs {
		if a.Is4() {
			four = append(four, a)
		} else {
			six = append(six, a)
		}
	}
	shuffle(six)
	shuffle(four)
	all := make([]netip.Addr, 0, len(addrs))
	for i := range max(len(six), len(four)) {
		if i < len(six) {
			all = append(all, six[i])
		}
		if i < len(four) {
			all = append(all, four[i])
		}
	}
	return all
}

func shuffle(a []netip.Addr) { rand.Shuffle(len(a), func(i, j int) { a[i], a[j] = a[j], a[i] }) }

func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
