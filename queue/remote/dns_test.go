package remote

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"relay/cluster/porttest"
	"relay/queue"
)

// nameServer is a real DNS server on loopback, UDP and TCP on one port.
type nameServer struct {
	addr  string
	mu    sync.Mutex
	zone  map[string][]string // "mx.example. A": records; nothing: NXDOMAIN
	asked map[string]int      // "udp mx.example. A"
	odd   func(m, in *dns.Msg, network string)
}

func newNameServer(t *testing.T, zone map[string][]string) *nameServer {
	t.Helper()
	s := &nameServer{zone: zone, asked: map[string]int{}}
	var udp net.PacketConn
	var tcp net.Listener
	for range 20 { // until a port is free for both
		var err error
		udp, err = net.ListenPacket("udp", "127.0.0.1:0")
		require.NoError(t, err)
		if tcp, err = net.Listen("tcp", udp.LocalAddr().String()); err == nil {
			break
		}
		udp.Close()
	}
	require.NotNil(t, tcp)
	s.addr = udp.LocalAddr().String()
	for _, srv := range []*dns.Server{
		{PacketConn: udp, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) { s.serve(w, m, "udp") })},
		{Listener: tcp, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) { s.serve(w, m, "tcp") })},
	} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		ended := make(chan struct{})
		go func() { defer close(ended); _ = srv.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = srv.Shutdown(); <-ended })
	}
	return s
}

func (s *nameServer) serve(w dns.ResponseWriter, in *dns.Msg, network string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(in)
	q := in.Question[0]
	name, kind := strings.ToLower(q.Name), dns.TypeToString[q.Qtype]
	s.asked[network+" "+name+" "+kind]++
	records, ok := s.zone[name+" "+kind]
	exists := ok
	for key := range s.zone {
		exists = exists || strings.HasPrefix(key, name+" ")
	}
	if !ok {
		records = s.zone[name+" CNAME"]
	}
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	if len(records) == 0 {
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
		soa, _ := dns.NewRR("example. 60 IN SOA ns.example. root.example. 1 2 3 4 60")
		m.Ns = []dns.RR{soa}
	}
	if s.odd != nil {
		s.odd(m, in, network)
	}
	_ = w.WriteMsg(m)
}

func (s *nameServer) lie(odd func(m, in *dns.Msg, network string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.odd = odd
}

func (s *nameServer) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[what]
}

func resolver(t *testing.T, servers ...string) *DNS {
	t.Helper()
	r, err := NewDNS(servers)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func TestLookups(t *testing.T) {
	s := newNameServer(t, map[string][]string{
		"a.example. MX":       {"a.example. 60 IN MX 10 MX1.a.example.", "a.example. 60 IN MX 20 mx2.a.example."},
		"mx1.a.example. A":    {"mx1.a.example. 60 IN A 192.0.2.1", "mx1.a.example. 60 IN A 192.0.2.2"},
		"mx1.a.example. AAAA": {"mx1.a.example. 60 IN AAAA 2001:db8::1"},
		"null.example. MX":    {"null.example. 60 IN MX 0 ."},
		"plain.example. A":    {"plain.example. 60 IN A 192.0.2.3"},
		"zero.example. A":     {"zero.example. 0 IN A 192.0.2.9"},
	})
	r := resolver(t, s.addr)
	ctx := t.Context()
	mx, err := r.MX(ctx, "A.example")
	require.NoError(t, err)
	require.ElementsMatch(t, []Record{{"mx1.a.example", 10}, {"mx2.a.example", 20}}, mx)
	_, err = r.MX(ctx, "a.example.")
	require.NoError(t, err)
	require.Equal(t, 1, s.count("udp a.example. MX"), "the second came from the cache")

	addrs, err := r.Addresses(ctx, "mx1.a.example")
	require.NoError(t, err)
	require.ElementsMatch(t, []netip.Addr{
		netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::1"),
	}, addrs)
	addrs, err = r.Addresses(ctx, "plain.example")
	require.NoError(t, err)
	require.Len(t, addrs, 1)
	_, err = r.MX(ctx, "plain.example")
	require.ErrorIs(t, err, ErrNoData)
	mx, err = r.MX(ctx, "null.example")
	require.NoError(t, err)
	require.Equal(t, []Record{{"", 0}}, mx)

	for range 2 {
		_, err = r.MX(ctx, "nothing.example")
		require.ErrorIs(t, err, ErrNoName)
		_, err = r.Addresses(ctx, "zero.example")
		require.NoError(t, err)
	}
	require.Equal(t, 1, s.count("udp nothing.example. MX"), "a no is kept, too")
	require.Equal(t, 2, s.count("udp zero.example. A"), "a TTL of 0 is not")
	_, err = r.MX(ctx, strings.Repeat("x", 70)+".example")
	require.ErrorIs(t, err, ErrNoName)
	addrs, _ = r.Addresses(ctx, "localhost")
	require.Len(t, addrs, 2)
}

func TestAliases(t *testing.T) {
	zone := map[string][]string{
		"whole.example. MX":  {"whole.example. 60 IN CNAME target.example.", "target.example. 60 IN MX 1 mx.example."},
		"half.example. MX":   {"half.example. 60 IN CNAME target.example."},
		"target.example. MX": {"target.example. 60 IN MX 1 mx.example."},
		"loop.example. MX":   {"loop.example. 60 IN CNAME pool.example."},
		"pool.example. MX":   {"pool.example. 60 IN CNAME loop.example."},
		"self.example. MX":   {"self.example. 60 IN CNAME self.example."},
		"gone.example. MX":   {"gone.example. 60 IN CNAME nowhere.example."},
	}
	for i := range 20 {
		zone[fmt.Sprintf("long%d.example. MX", i)] = []string{
			fmt.Sprintf("long%d.example. 60 IN CNAME long%d.example.", i, i+1),
		}
	}
	s := newNameServer(t, zone)
	r := resolver(t, s.addr)
	for _, ok := range []string{"whole.example", "half.example"} {
		mx, err := r.MX(t.Context(), ok)
		require.NoError(t, err, ok)
		require.Equal(t, []Record{{"mx.example", 1}}, mx)
	}
	for _, bad := range []string{"loop.example", "self.example", "long0.example"} {
		_, err := r.MX(t.Context(), bad)
		require.ErrorIs(t, err, ErrLookup, bad)
	}
	_, err := r.MX(t.Context(), "gone.example")
	require.ErrorIs(t, err, ErrNoName)
}

func TestTruncatedGoesToTCP(t *testing.T) {
	s := newNameServer(t, map[string][]string{"a.example. MX": {"a.example. 60 IN MX 10 mx.a.example."}})
	s.lie(func(m, in *dns.Msg, network string) {
		if network == "udp" {
			m.Truncated, m.Answer = true, nil
		}
	})
	mx, err := resolver(t, s.addr).MX(t.Context(), "a.example")
	require.NoError(t, err)
	require.Len(t, mx, 1)
	require.Equal(t, 1, s.count("tcp a.example. MX"))
}

func TestServersAndTheirFaults(t *testing.T) {
	zone := map[string][]string{"a.example. MX": {"a.example. 60 IN MX 10 mx.a.example."}}
	good := newNameServer(t, zone)
	for name, odd := range map[string]func(m, in *dns.Msg, network string){
		"servfail": func(m, in *dns.Msg, _ string) { m.Rcode, m.Answer = dns.RcodeServerFailure, nil },
		"refused":  func(m, in *dns.Msg, _ string) { m.Rcode, m.Answer = dns.RcodeRefused, nil },
		"other":    func(m, in *dns.Msg, _ string) { m.Question[0].Name = "b.example." },
		"query":    func(m, in *dns.Msg, _ string) { m.Response = false },
	} {
		t.Run(name, func(t *testing.T) {
			bad := newNameServer(t, zone)
			bad.lie(odd)
			mx, err := resolver(t, bad.addr, good.addr).MX(t.Context(), "a.example")
			require.NoError(t, err)
			require.Len(t, mx, 1)
			_, err = resolver(t, bad.addr).MX(t.Context(), "a.example")
			require.ErrorIs(t, err, ErrLookup)
		})
	}
	t.Run("no EDNS", func(t *testing.T) {
		old := newNameServer(t, zone)
		old.lie(func(m, in *dns.Msg, _ string) {
			if in.IsEdns0() != nil {
				m.Rcode, m.Answer = dns.RcodeFormatError, nil
			}
		})
		mx, err := resolver(t, old.addr).MX(t.Context(), "a.example")
		require.NoError(t, err)
		require.Len(t, mx, 1)
	})
	t.Run("silent", func(t *testing.T) {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		require.NoError(t, err)
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err = resolver(t, c.LocalAddr().String()).MX(ctx, "a.example")
		require.ErrorIs(t, err, ErrLookup)
	})
}

func TestCacheIsBounded(t *testing.T) {
	r := resolver(t, "127.0.0.1:1")
	for i := range maxCached + 100 {
		r.remember(question{fmt.Sprint(i), dns.TypeA}, answer{until: time.Now().Add(time.Hour)})
	}
	require.Len(t, r.cache, maxCached)
}

func TestServerAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1:53", "192.0.2.1:5353": "192.0.2.1:5353", "2001:db8::1": "[2001:db8::1]:53",
		"[2001:db8::1]:54": "[2001:db8::1]:54",
	} {
		got, err := serverAddress(in)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := NewDNS([]string{"dns.example"})
	require.Error(t, err)

	path := filepath.Join(t.TempDir(), "resolv.conf")
	c := &resolvConf{path: path}
	require.Equal(t, []string{"127.0.0.1:53"}, c.servers())
	require.NoError(t, os.WriteFile(path, []byte("nameserver 192.0.2.5\nnameserver 2001:db8::5\n"), 0o600))
	c.looked = time.Time{}
	require.Equal(t, []string{"192.0.2.5:53", "[2001:db8::5]:53"}, c.servers())
}

func addr(s ...string) []netip.Addr {
	var all []netip.Addr
	for _, x := range s {
		all = append(all, netip.MustParseAddr(x))
	}
	return all
}

func TestHosts(t *testing.T) {
	n := names{
		mx: map[string][]Record{
			"two.example":    {{"b.example", 20}, {"a.example", 10}},
			"null.example":   {{"", 0}},
			"odd.example":    {{"", 0}, {"a.example", 10}},
			"backup.example": {{"a.example", 10}, {"me.example", 20}, {"b.example", 30}, {"c.example", 20}},
			"ours.example":   {{"me.example", 10}, {"a.example", 20}},
			"byaddr.example": {{"a.example", 5}, {"alsome.example", 10}},
			"dead.example":   {{"nohost.example", 10}},
			"half.example":   {{"nohost.example", 10}, {"a.example", 20}},
			"flaky.example":  {{"fails.example", 10}},
			"wide.example":   {{"many.example", 10}, {"a.example", 20}},
			"dual.example":   {{"dual.example", 10}},
			"deep.example": {{"a.example", 1}, {"a.example", 2}, {"a.example", 3}, {"a.example", 4}, {"a.example", 5},
				{"b.example", 6}},
		},
		addrs: map[string][]netip.Addr{
			"a.example": addr("192.0.2.1"), "b.example": addr("192.0.2.2"), "c.example": addr("192.0.2.4"),
			"alsome.example": addr("192.0.2.77"),
			"plain.example":  addr("192.0.2.3"), "me.example": addr("198.51.100.1"),
			"many.example": addr("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6",
				"192.0.2.7", "192.0.2.8", "192.0.2.9", "192.0.2.10", "192.0.2.11"),
			"dual.example":          addr("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"),
			"xn--bcher-kva.example": addr("192.0.2.50"),
		},
		err: map[string]error{"MX broken.example": ErrLookup, "fails.example": ErrLookup},
	}
	a := newAgent(t, Config{Hostname: "me.example", Resolver: n, Own: addr("192.0.2.77")})
	list := func(domain string) string {
		hops, f := a.mxHops(t.Context(), domain)
		if f != nil {
			return fmt.Sprintf("%d %.6s", f.outcome, f.text)
		}
		var all []string
		for _, h := range hops {
			require.EqualValues(t, 25, h.addr.Port())
			all = append(all, h.addr.Addr().String())
		}
		return strings.Join(all, " ")
	}
	no, later := fmt.Sprint(queue.Failed), fmt.Sprint(queue.Deferred)
	for domain, want := range map[string]string{
		"two.example": "192.0.2.1 192.0.2.2", "plain.example": "192.0.2.3", "nothing.example": no + " 5.1.2 ",
		"null.example": no + " 5.1.10", "odd.example": "192.0.2.1", "broken.example": later + " 4.4.3 ",
		"backup.example": "192.0.2.1", "ours.example": no + " 5.4.6 ", "byaddr.example": "192.0.2.1",
		"dead.example": later + " 4.4.4 ", "half.example": "192.0.2.1", "flaky.example": later + " 4.4.3 ",
		"deep.example":   "192.0.2.1 192.0.2.1 192.0.2.1 192.0.2.1 192.0.2.1 192.0.2.2",
		"bücher.example": "192.0.2.50", "[192.0.2.8]": "192.0.2.8", "[IPv6:2001:db8::8]": "2001:db8::8",
		"[192.0.2.77]": no + " 5.4.6 ", "[nonsense]": no + " 5.1.2 ", "[192.0.2.1": no + " 5.1.2 ", "": no + " 5.1.2 ",
	} {
		require.Equal(t, want, list(domain), domain)
	}
	hops, f := a.mxHops(t.Context(), "wide.example")
	require.Nil(t, f)
	require.Len(t, hops, maxAddresses)
	hops, _ = a.mxHops(t.Context(), "dual.example")
	require.Len(t, hops, 4)
	for i, h := range hops {
		require.Equal(t, i%2 == 1, h.addr.Addr().Is4(), "the families take turns")
	}
	first := map[string]bool{}
	equal := []Record{{"a", 10}, {"b", 10}, {"c", 10}}
	for range 200 {
		first[order(equal)[0].Host] = true
	}
	require.Len(t, first, 3, "equals at random")
}

func TestNextHostIsTried(t *testing.T) {
	bad, good := newHop(t, map[string]string{"MAIL": "451 4.7.1 not today"}), newHop(t, nil)
	d := newDelivery(newAgent(t, Config{}), jobTo("", "a@x", "b@x"))
	f := d.tryAll(t.Context(), []hop{hopOf(bad), hopOf(good)})
	d.rest(t.Context(), f)
	for _, v := range d.verdicts {
		require.Equal(t, queue.Delivered, v.Outcome)
		require.Equal(t, hopOf(good).String(), v.Host)
	}
	// A host that refuses the greeting for good does not have the last word.
	rude, down := newHop(t, map[string]string{"CONNECT": "554 5.7.1 no"}),
		newHop(t, map[string]string{"CONNECT": "421 busy"})
	for _, order := range [][]hop{{hopOf(rude), hopOf(down)}, {hopOf(down), hopOf(rude)}} {
		d = newDelivery(newAgent(t, Config{HardGreeting: true}), jobTo("", "a@x"))
		d.rest(t.Context(), d.tryAll(t.Context(), order))
		require.Equal(t, queue.Deferred, d.verdicts[0].Outcome)
		require.True(t, d.verdicts[0].NextHop)
	}
	d = newDelivery(newAgent(t, Config{HardGreeting: true}), jobTo("", "a@x"))
	d.rest(t.Context(), d.tryAll(t.Context(), []hop{hopOf(rude)}))
	require.Equal(t, queue.Failed, d.verdicts[0].Outcome)
	require.Equal(t, "554 5.7.1 no", d.verdicts[0].Reply)
	// A dot without an answer is never tried at another host.
	silent, other := newHop(t, map[string]string{"DOT": drop}), newHop(t, nil)
	d = newDelivery(newAgent(t, Config{}), jobTo("", "a@x"))
	d.rest(t.Context(), d.tryAll(t.Context(), []hop{hopOf(silent), hopOf(other)}))
	require.Equal(t, queue.Deferred, d.verdicts[0].Outcome)
	require.Contains(t, d.verdicts[0].Reply, "may have been delivered")
	conns, _ := other.count()
	require.Zero(t, conns)
}

func TestOpenConnectionIsPreferred(t *testing.T) {
	one, two := newHop(t, nil), newHop(t, nil)
	a := newAgent(t, Config{})
	for _, order := range [][]hop{{hopOf(one), hopOf(two)}, {hopOf(two), hopOf(one)}} {
		d := newDelivery(a, jobTo("", "a@x"))
		d.rest(t.Context(), d.tryAll(t.Context(), order))
		require.Equal(t, hopOf(one).String(), d.verdicts[0].Host)
	}
}

func hopOf(h *nextHop) hop {
	return hop{name: "hop", addr: netip.MustParseAddrPort(h.l.Addr().String())}
}

type router func(domain string) (Target, error)

func (r router) Route(_ context.Context, domain string) (Target, error) { return r(domain) }

func (router) Named(string) (Target, bool) { return Target{}, false }

func TestRoutes(t *testing.T) {
	h := newHop(t, nil)
	ask := func(to string) queue.Verdict {
		a := newAgent(t, Config{Port: h.port(), Resolver: names{addrs: map[string][]netip.Addr{"hub": addr("127.0.0.1")}},
			Router: router(func(domain string) (Target, error) { return ParseTarget(to) })})
		j := mxJob("a@x")
		return deliver(t, a, j)[0]
	}
	require.Equal(t, queue.Delivered, ask("discard").Outcome)
	require.Equal(t, queue.Delivered, ask("smtp:hub").Outcome)
	require.Equal(t, queue.Delivered, ask("smtp:127.0.0.1").Outcome)
	for _, bad := range []string{"smtp:nowhere", "https://example.com/in", "nonsense"} {
		v := ask(bad)
		require.Equal(t, queue.Deferred, v.Outcome, bad)
		require.True(t, v.NextHop)
	}
	require.Equal(t, queue.Failed, ask("mx").Outcome, "by MX: no such domain")
}

func TestTargets(t *testing.T) {
	for _, s := range []string{
		"mx", "discard", "smtp:hub", "smtp:hub.example:2525", "smtp:[2001:db8::1]", "smtp:[2001:db8::1]:25",
		"smtp:192.0.2.1:25", "lmtp:hub:24", "https://example.com/x",
	} {
		got, err := ParseTarget(s)
		require.NoError(t, err, s)
		require.Equal(t, s, got.String())
	}
	for _, s := range []string{
		"MX!", "smtp:", "smtp:hub:0", "smtp:hub:70000", "smtp:hub:", "lmtp:hub", "smtp:2001:db8::1", "smtp:a b", "ftp:x:1",
		"https://", "smtp:a/b", "smtp::25",
	} {
		_, err := ParseTarget(s)
		require.Error(t, err, s)
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"mx", "smtp:[::1]:25", "lmtp:h:1", "https://x", "smtp:h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		x, err := ParseTarget(s)
		if err != nil {
			return
		}
		y, err := ParseTarget(x.String())
		if err != nil || x != y {
			t.Fatalf("%q: %+v is written as %q, which reads as %+v, %v", s, x, x.String(), y, err)
		}
	})
}

// FuzzAnswers feeds answers of a name server that lies.
func FuzzAnswers(f *testing.F) {
	m := new(dns.Msg)
	m.SetQuestion("a.example.", dns.TypeMX)
	for _, r := range []string{"a.example. 60 IN CNAME b.example.", "b.example. 60 IN MX 1 mx.example."} {
		rr, _ := dns.NewRR(r)
		m.Answer = append(m.Answer, rr)
	}
	wire, _ := m.Pack()
	f.Add(wire)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(dns.Msg)
		if m.Unpack(b) != nil {
			return
		}
		least := maxTTL
		a, next := read(m, question{"a.example.", dns.TypeMX}, map[string]bool{}, &least)
		if next == "" && a.err == nil && len(a.rrs) == 0 {
			t.Fatal("neither records, nor an error, nor a name to go on with")
		}
	})
}

func TestWhoSends(t *testing.T) {
	s := newNameServer(t, map[string][]string{
		"two.example. TXT":                  {`two.example. 60 IN TXT "v=spf1 ip4:192.0.2.1" " -all"`, `two.example. 60 IN TXT "caf\195\169 \"q\" \\ ;"`},
		"1.2.0.192.in-addr.arpa. PTR":       {"1.2.0.192.in-addr.arpa. 60 IN PTR Mail.Example."},
		"2.0.0.127.list.example. A":         {"2.0.0.127.list.example. 60 IN A 127.0.0.4"},
		reverse6(t, "2001:db8::1") + " PTR": {reverse6(t, "2001:db8::1") + " 60 IN PTR six.example."},
	})
	r := resolver(t, s.addr)
	ctx := context.Background()
	texts, err := r.TXT(ctx, "two.example")
	require.NoError(t, err)
	require.Equal(t, []string{"v=spf1 ip4:192.0.2.1 -all", "café \"q\" \\ ;"}, texts)
	names, err := r.Names(ctx, netip.MustParseAddr("::ffff:192.0.2.1"))
	require.NoError(t, err)
	require.Equal(t, []string{"mail.example"}, names)
	names, err = r.Names(ctx, netip.MustParseAddr("2001:db8::1"))
	require.NoError(t, err)
	require.Equal(t, []string{"six.example"}, names)
	listed, err := r.IPv4(ctx, "2.0.0.127.list.example")
	require.NoError(t, err)
	require.Equal(t, []netip.Addr{netip.MustParseAddr("127.0.0.4")}, listed)
	require.Zero(t, s.count("udp 2.0.0.127.list.example. AAAA"))
	_, err = r.TXT(ctx, "none.example")
	require.ErrorIs(t, err, ErrNoName)
	_, err = r.TXT(ctx, "2.0.0.127.list.example")
	require.ErrorIs(t, err, ErrNoData)
}

func reverse6(t *testing.T, a string) string {
	name, err := dns.ReverseAddr(a)
	require.NoError(t, err)
	return name
}

// The reason for which a name server does not answer is told in plain words, in the queue as in
// reports to senders.
func TestNoAnswerInPlainWords(t *testing.T) {
	shut := porttest.Addr(t, "127.0.0.1")
	r, err := NewDNS([]string{shut})
	require.NoError(t, err)
	defer r.Close()
	_, err = r.MX(t.Context(), "far.example")
	require.EqualError(t, err, "lookup failed: MX far.example: "+shut+" does not answer: connection refused")
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	_, err = r.Validates(t.Context(), "far.example")
	require.EqualError(t, err, "lookup failed: "+shut+" does not answer: connection refused")
	require.EqualError(t, &noAnswer{shut, context.DeadlineExceeded}, shut+" does not answer in time")
	for text, want := range map[string]string{
		"dial udp 192.0.2.53:53: connect: network is unreachable": "192.0.2.53:53: network is unreachable",
		"server misbehaving": "192.0.2.53:53: server misbehaving",
	} {
		require.EqualError(t, systemsWord(&net.DNSError{Err: text, Name: "x", Server: "192.0.2.53:53"}), want)
	}
}
