package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// Record is one MX record.
type Record struct {
	Host       string // lower case, no dot at the end; empty: the null MX of RFC 7505
	Preference uint16
}

// Resolver answers the questions that delivery has. Errors are of the three
// kinds below; any other counts as ErrLookup.
type Resolver interface {
	// MX returns the mail hosts of a domain, in no order. ErrNoName: the domain
	// does not exist; ErrNoData: it has no MX.
	MX(ctx context.Context, domain string) ([]Record, error)
	// Addresses returns the IPv4 and IPv6 addresses of a host.
	Addresses(ctx context.Context, host string) ([]netip.Addr, error)
}

// Errors of a Resolver.
var (
	ErrNoName = errors.New("no such domain")
	ErrNoData = errors.New("no such record")
	ErrLookup = errors.New("lookup failed")
)

const (
	perTry     = 3 * time.Second
	rounds     = 2
	maxAliases = 8
	maxCached  = 20_000
	maxOctets  = 16 << 20 // of the cache
	maxAtOnce  = 256      // questions
	maxInLine  = 4096     // questions that wait for their turn
	maxRecords = 256      // of an answer; more is an attack on somebody
	maxAnswer  = 32 << 10 // octets
	sweepEvery = time.Minute
	maxTTL     = time.Hour
	maxNoTTL   = 5 * time.Minute // for what does not exist
	udpSize    = 1232            // what passes everywhere unfragmented
)

// DNS is a Resolver that asks recursive name servers, with a small cache. It is
// safe for concurrent use. Close it after the last question. Questions at once
// are bounded, those beyond wait; a question that nobody waits for ends.
type DNS struct {
	servers func() []string
	system  bool
	believe []netip.Addr    // servers whose word on DNSSEC counts, besides those on loopback
	base    context.Context // of the questions under way
	end     context.CancelFunc
	asking  sync.WaitGroup

	turns  chan struct{} // one for each question that is being asked
	shares shares
	wires  *wires

	mu     sync.Mutex
	calls  map[question]*call
	cache  map[question]answer
	octets int // of the cache
	swept  time.Time
}

// call is a question under way; many who ask the same share it.
type call struct {
	done   chan struct{}
	askers int
	end    context.CancelFunc
	a      answer
	err    error
}

type question struct {
	name string // lower case, with the dot at the end
	kind uint16
}

type answer struct {
	rrs   []dns.RR // of the kind asked for, aliases followed
	names []string // of the aliases' targets, in lower case, with the dot
	final string   // whose records they are, after all aliases; in lower case, with the dot
	// secure: a server that is believed says that DNSSEC secured all of it.
	secure bool
	err    error // ErrNoName or ErrNoData
	until  time.Time
	size   int // octets that it takes in the cache
}

// NewDNS makes a resolver. Servers are "ADDRESS" or "ADDRESS:PORT"; none: those
// of /etc/resolv.conf, which is read again when it changes.
func NewDNS(servers []string) (*DNS, error) {
	r := &DNS{calls: make(map[question]*call), cache: make(map[question]answer), turns: make(chan struct{}, maxAtOnce)}
	r.shares.by = map[netip.Prefix]*netShare{}
	r.wires = newWires(&r.asking)
	r.base, r.end = context.WithCancel(context.Background())
	if len(servers) == 0 {
		r.system = true
		r.servers = (&resolvConf{path: "/etc/resolv.conf"}).servers
		return r, nil
	}
	var all []string
	for _, s := range servers {
		a, err := serverAddress(s)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	r.servers = func() []string { return all }
	return r, nil
}

// Close ends the questions that are under way and waits for their goroutines.
func (r *DNS) Close() error {
	r.end()
	r.asking.Wait()
	return nil
}

func serverAddress(s string) (string, error) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return netip.AddrPortFrom(a, 53).String(), nil
	}
	if a, err := netip.ParseAddrPort(s); err == nil {
		return a.String(), nil
	}
	return "", fmt.Errorf("remote: name server %q is not ADDRESS or ADDRESS:PORT", s)
}

// resolvConf reads the system's name servers.
type resolvConf struct {
	path   string
	mu     sync.Mutex
	looked time.Time
	stamp  time.Time
	found  []string
}

func (c *resolvConf) servers() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); c.found == nil || now.Sub(c.looked) > 5*time.Second {
		c.looked = now
		c.read()
	}
	return c.found
}

func (c *resolvConf) read() {
	info, err := os.Stat(c.path)
	if err == nil && c.found != nil && info.ModTime().Equal(c.stamp) {
		return
	}
	var all []string
	if err == nil {
		c.stamp = info.ModTime()
		if conf, err := dns.ClientConfigFromFile(c.path); err == nil {
			for _, s := range conf.Servers {
				all = append(all, net.JoinHostPort(s, conf.Port))
			}
		}
	}
	if len(all) == 0 {
		all = []string{"127.0.0.1:53"} // as resolv.conf(5) says
	}
	c.found = all
}

// MX implements Resolver.
func (r *DNS) MX(ctx context.Context, domain string) ([]Record, error) {
	all, _, err := r.SecureMX(ctx, domain)
	return all, err
}

// SecureMX is MX that tells besides whether DNSSEC secured the answer, a no
// included, as a server said that is believed.
func (r *DNS) SecureMX(ctx context.Context, domain string) ([]Record, bool, error) {
	a, err := r.find(ctx, domain, dns.TypeMX)
	if err != nil {
		return nil, a.secure, err
	}
	all := make([]Record, 0, len(a.rrs))
	for _, rr := range a.rrs {
		if mx, ok := rr.(*dns.MX); ok {
			all = append(all, Record{Host: strings.ToLower(strings.TrimSuffix(mx.Mx, ".")), Preference: mx.Preference})
		}
	}
	return all, a.secure, nil
}

// Addresses implements Resolver. Both kinds are asked for at once; one that
// fails does not matter where the other gives addresses.
func (r *DNS) Addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	addrs, _, err := r.Resolve(ctx, host)
	return addrs, err
}

// Resolve is Addresses that tells besides which names the host is an alias of,
// whether they have addresses or not.
func (r *DNS) Resolve(ctx context.Context, host string) (addrs []netip.Addr, aliases []string, err error) {
	f, err := r.Find(ctx, host)
	return f.Addrs, f.Aliases, err
}

// Found is what DNS says of a host.
type Found struct {
	Addrs   []netip.Addr
	Aliases []string // the names that it is an alias of
	// Secure says that DNSSEC secured all addresses and the aliases on the way, as a server said that is believed.
	Secure bool
	Final  string // whose addresses they are, after all aliases; lower case, without the dot
}

// Find is Resolve that tells besides what DNSSEC says of the addresses.
func (r *DNS) Find(ctx context.Context, host string) (Found, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return Found{Addrs: []netip.Addr{a.Unmap()}}, nil
	}
	if isLocalhost(host) {
		return Found{Addrs: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}}, nil
	}
	var six answer
	var errSix error
	done := make(chan struct{})
	go func() {
		defer close(done)
		six, errSix = r.find(ctx, host, dns.TypeAAAA)
	}()
	four, errFour := r.find(ctx, host, dns.TypeA)
	<-done
	f := Found{Addrs: append(six.addresses(), four.addresses()...), Aliases: slices.Concat(six.names, four.names)}
	f.Secure = len(f.Addrs) > 0
	for _, a := range []answer{six, four} {
		if len(a.rrs) > 0 {
			f.Secure, f.Final = f.Secure && a.secure, strings.TrimSuffix(a.final, ".")
		}
	}
	switch {
	case len(f.Addrs) > 0:
		return f, nil
	case errFour != nil && !settled(errFour):
		return f, errFour
	case errSix != nil && !settled(errSix):
		return f, errSix
	case errFour != nil:
		return f, errFour
	}
	return f, errSix
}

// isLocalhost: RFC 6761 §6.3.
func isLocalhost(name string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// settled: the name servers have answered, and the answer is no.
func settled(err error) bool { return errors.Is(err, ErrNoName) || errors.Is(err, ErrNoData) }

func (a *answer) addresses() []netip.Addr {
	var all []netip.Addr
	for _, rr := range a.rrs {
		var ip net.IP
		switch rr := rr.(type) {
		case *dns.A:
			ip = rr.A
		case *dns.AAAA:
			ip = rr.AAAA
		}
		if a, ok := netip.AddrFromSlice(ip); ok {
			all = append(all, a.Unmap())
		}
	}
	return all
}

// Host returns the addresses of a host that an operator named. With the
// system's name servers that is what the system says, the hosts file and its
// search list included.
func (r *DNS) Host(ctx context.Context, host string) ([]netip.Addr, error) {
	if !r.system {
		return r.Addresses(ctx, strings.ToLower(host))
	}
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
			return nil, fmt.Errorf("%w: %s", ErrNoName, host)
		}
		return nil, fmt.Errorf("%w: %s: %w", ErrLookup, host, systemsWord(err))
	}
	for i := range all {
		all[i] = all[i].Unmap()
	}
	return all, nil
}

// lookup gives the records of a name.
func (r *DNS) lookup(ctx context.Context, name string, kind uint16) ([]dns.RR, error) {
	a, err := r.find(ctx, name, kind)
	return a.rrs, err
}

// find answers from the cache, or asks. The error is the answer's own, too.
func (r *DNS) find(ctx context.Context, name string, kind uint16) (answer, error) {
	q := question{strings.ToLower(dns.Fqdn(name)), kind}
	if _, ok := dns.IsDomainName(q.name); !ok {
		return answer{}, fmt.Errorf("%w: %q is not a domain name", ErrNoName, name)
	}
	if err := ctx.Err(); err != nil {
		return answer{}, fmt.Errorf("%w: %s %s: %w", ErrLookup, dns.TypeToString[kind], name, err)
	}
	if a, ok := r.cached(q); ok {
		return a, a.err
	}
	release, err := r.shares.acquire(ctx)
	if err != nil {
		return answer{}, fmt.Errorf("%w: %s %s: %w", ErrLookup, dns.TypeToString[kind], name, err)
	}
	defer release()
	a, c, err := r.begin(q)
	if c == nil {
		return a, cmp.Or(err, a.err)
	}
	select {
	case <-ctx.Done():
		r.leave(q, c)
		return answer{}, fmt.Errorf("%w: %s %s: %w", ErrLookup, dns.TypeToString[kind], name, ctx.Err())
	case <-c.done:
		if c.err != nil {
			return answer{}, c.err
		}
		return c.a, c.a.err
	}
}

func (r *DNS) cached(q question) (answer, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.cache[q]
	return a, ok && time.Now().Before(a.until)
}

// begin gives the answer from the cache, or the question under way.
func (r *DNS) begin(q question) (answer, *call, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a, ok := r.cache[q]; ok && time.Now().Before(a.until) {
		return a, nil, nil
	}
	c := r.calls[q]
	if c == nil {
		if len(r.calls) >= maxAtOnce+maxInLine {
			return answer{}, nil, fmt.Errorf("%w: too many questions are under way", ErrLookup)
		}
		ctx, end := context.WithTimeout(r.base, 20*time.Second)
		c = &call{done: make(chan struct{}), end: end}
		r.calls[q] = c
		r.asking.Go(func() { r.carry(ctx, q, c) })
	}
	c.askers++
	return answer{}, c, nil
}

// leave is called by an asker who gives up. The last one ends the question.
func (r *DNS) leave(q question, c *call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.askers--; c.askers == 0 {
		c.end()
		r.forget(q, c)
	}
}

// forget takes a question out of those under way. It needs r.mu.
func (r *DNS) forget(q question, c *call) {
	if r.calls[q] == c {
		delete(r.calls, q)
	}
}

// carry asks a question once it is its turn. One who gives up must not take the
// answer from the others, so it has a time of its own.
func (r *DNS) carry(ctx context.Context, q question, c *call) {
	defer c.end()
	select {
	case r.turns <- struct{}{}:
		c.a, c.err = r.ask(ctx, q)
		<-r.turns
	case <-ctx.Done():
		c.err = fmt.Errorf("%w: %s %s: %w", ErrLookup, dns.TypeToString[q.kind], q.name, ctx.Err())
	}
	if c.err == nil {
		r.remember(q, c.a)
	}
	r.mu.Lock()
	r.forget(q, c)
	r.mu.Unlock()
	close(c.done)
}

func (r *DNS) remember(q question, a answer) {
	if !time.Now().Before(a.until) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(q, a)
}

// ask follows aliases from answer to answer. A recursive server gives the whole
// chain at once; where it stops halfway, the rest is asked for.
func (r *DNS) ask(ctx context.Context, q question) (answer, error) {
	seen := map[string]bool{}
	least := maxTTL
	secure := true
	for range maxAliases + 1 {
		m, err := r.exchange(ctx, q)
		if err != nil {
			return answer{}, err
		}
		secure = secure && m.AuthenticatedData
		a, next := read(m, q, seen, &least)
		if next == "" {
			a.names, a.secure = slices.Collect(maps.Keys(seen)), secure
			return a, a.absurd(q)
		}
		q.name = next
	}
	return answer{}, fmt.Errorf("%w: %s: too many aliases, or a loop of them", ErrLookup, q.name)
}

// read takes what was asked for out of a message, or says which name to ask for
// next.
func read(m *dns.Msg, q question, seen map[string]bool, least *time.Duration) (answer, string) {
	name := q.name
	for range maxAliases + 1 {
		var rrs []dns.RR
		alias := ""
		for _, rr := range m.Answer {
			h := rr.Header()
			if !strings.EqualFold(h.Name, name) {
				continue
			}
			if h.Rrtype == q.kind {
				rrs = append(rrs, rr)
				*least = min(*least, seconds(h.Ttl))
			} else if c, ok := rr.(*dns.CNAME); ok {
				alias = strings.ToLower(c.Target)
				*least = min(*least, seconds(h.Ttl))
			}
		}
		switch {
		case len(rrs) > 0:
			return answer{rrs: rrs, final: name, until: time.Now().Add(*least)}, ""
		case alias == "":
			return missing(m, q, name, *least)
		case seen[alias]:
			return answer{}, alias // a loop: the caller's bound ends it
		}
		seen[alias] = true
		name = alias
	}
	return answer{}, name
}

// missing makes the answer for a name that has no records of the kind.
func missing(m *dns.Msg, q question, name string, least time.Duration) (answer, string) {
	if name != q.name && m.Rcode == dns.RcodeSuccess && !hasSOA(m) {
		return answer{}, name // the chain was cut short
	}
	a := answer{until: time.Now().Add(min(least, noTTL(m)))}
	what := fmt.Sprintf("%s %s", dns.TypeToString[q.kind], strings.TrimSuffix(name, "."))
	if m.Rcode == dns.RcodeNameError {
		a.err = fmt.Errorf("%w: %s", ErrNoName, what)
	} else {
		a.err = fmt.Errorf("%w: %s", ErrNoData, what)
	}
	return a, ""
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }

func hasSOA(m *dns.Msg) bool {
	return slices.ContainsFunc(m.Ns, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeSOA })
}

// noTTL is how long a no holds (RFC 2308 §5); without an SOA, not at all.
func noTTL(m *dns.Msg) time.Duration {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(seconds(min(soa.Minttl, soa.Hdr.Ttl)), maxNoTTL)
		}
	}
	return 0
}

// exchange asks the servers in their order, and again, until one gives an
// answer that counts.
func (r *DNS) exchange(ctx context.Context, q question) (*dns.Msg, error) {
	servers := r.servers()
	var last error
	for range rounds {
		for _, s := range servers {
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("%w: %s %s: %w", ErrLookup, dns.TypeToString[q.kind], q.name, err)
			}
			m, err := r.one(ctx, s, q)
			if err == nil {
				return m, nil
			}
			last = err
		}
	}
	return nil, fmt.Errorf("%w: %s %s: %w", ErrLookup, dns.TypeToString[q.kind], strings.TrimSuffix(q.name, "."), last)
}

// one asks one server: by UDP, by TCP where the answer was cut, without EDNS
// where the server does not know it.
func (r *DNS) one(ctx context.Context, server string, q question) (*dns.Msg, error) {
	edns, ask := true, r.wires.udp
	stream, believed := false, r.believes(server)
	for range 4 {
		m := new(dns.Msg)
		m.RecursionDesired, m.AuthenticatedData = true, believed // RFC 6840 §5.7
		m.Question = []dns.Question{{Name: q.name, Qtype: q.kind, Qclass: dns.ClassINET}}
		if edns {
			m.SetEdns0(udpSize, false)
		}
		tryCtx, cancel := context.WithTimeout(ctx, perTry)
		in, err := ask(tryCtx, server, m)
		cancel()
		switch {
		case in != nil && in.Truncated && !stream:
			ask, stream = r.wires.stream, true
		case err != nil:
			return nil, &noAnswer{server, err}
		case !in.Response || !answers(in, m.Question[0]):
			return nil, fmt.Errorf("%s answered something else", server)
		case edns && (in.Rcode == dns.RcodeFormatError || in.Rcode == dns.RcodeNotImplemented ||
			in.Rcode == dns.RcodeBadVers):
			edns = false
		case in.Rcode == dns.RcodeSuccess || in.Rcode == dns.RcodeNameError:
			in.AuthenticatedData = in.AuthenticatedData && believed
			return in, nil
		default:
			return nil, fmt.Errorf("%s answered %s", server, dns.RcodeToString[in.Rcode])
		}
	}
	return nil, fmt.Errorf("%s gave no answer that can be used", server)
}

// noAnswer says in plain words that a name server did not answer, and why.
type noAnswer struct {
	server string
	cause  error
}

func (n *noAnswer) Error() string {
	if timedOut(n.cause) {
		return n.server + " does not answer in time"
	}
	if errno, ok := errors.AsType[syscall.Errno](n.cause); ok {
		return n.server + " does not answer: " + errno.Error()
	}
	return n.server + " does not answer: " + plain(n.cause)
}

func (n *noAnswer) Unwrap() error { return n.cause }

// systemsWord is an error of the system's resolver without what it repeats.
func systemsWord(err error) error {
	e, ok := errors.AsType[*net.DNSError](err)
	switch {
	case !ok || e.Server == "":
		return err
	case e.IsTimeout:
		return &noAnswer{e.Server, context.DeadlineExceeded}
	}
	return fmt.Errorf("%s: %s", e.Server, e.Err[strings.LastIndex(": "+e.Err, ": "):]) // without the system calls
}
