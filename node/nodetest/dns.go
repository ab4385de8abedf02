package nodetest

import (
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// DNS is a name server on loopback whose zone a test writes. It answers what
// it knows, and NXDOMAIN to the rest.
type DNS struct {
	Addr string // 127.0.0.1:PORT, UDP and TCP

	mu   sync.Mutex
	zone map[string][]dns.RR // by lower-case name
	odd  map[string]bool     // names without an answer: true fails, false is silent
}

// NewDNS starts a name server that lives as long as the test.
func NewDNS(t testing.TB) *DNS {
	t.Helper()
	d := &DNS{zone: map[string][]dns.RR{}, odd: map[string]bool{}}
	pc, l := listenBoth(t)
	d.Addr = pc.LocalAddr().String()
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: d}, {Listener: l, Handler: d}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return d
}

// listenBoth finds a port that is free for UDP and for TCP.
func listenBoth(t testing.TB) (net.PacketConn, net.Listener) {
	var err error
	for range 20 {
		var pc net.PacketConn
		pc, err = net.ListenPacket("udp", "127.0.0.1:0")
		require.NoError(t, err)
		var l net.Listener
		if l, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			return pc, l
		}
		_ = pc.Close()
	}
	require.NoError(t, err)
	return nil, nil
}

// Add puts records in zone-file form into the zone, for example
// "example.com. MX 10 mx1.example.com.".
func (d *DNS) Add(t testing.TB, records ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, text := range records {
		rr, err := dns.NewRR(text)
		require.NoError(t, err)
		name := strings.ToLower(rr.Header().Name)
		d.zone[name] = append(d.zone[name], rr)
	}
}

// Fail makes the server answer SERVFAIL about a name, given in lower case with
// the dot at its end.
func (d *DNS) Fail(name string) { d.setOdd(name, true) }

// Hang makes the server silent about a name.
func (d *DNS) Hang(name string) { d.setOdd(name, false) }

func (d *DNS) setOdd(name string, fails bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.odd[name] = fails
}

// ServeDNS implements dns.Handler.
func (d *DNS) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	m.Authoritative = true
	switch fails, odd := d.odd[strings.ToLower(q.Question[0].Name)]; {
	case fails:
		m.Rcode = dns.RcodeServerFailure
		_ = w.WriteMsg(m)
		return
	case odd:
		return
	}
	records, known := d.zone[strings.ToLower(q.Question[0].Name)]
	if !known {
		m.Rcode = dns.RcodeNameError
	}
	for _, rr := range records {
		if t := rr.Header().Rrtype; t == q.Question[0].Qtype || t == dns.TypeCNAME {
			m.Answer = append(m.Answer, rr)
		}
	}
	_ = w.WriteMsg(m)
}
