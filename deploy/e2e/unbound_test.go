package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/node/config"
	"relay/node/nodetest"
	"relay/smtp"
)

// signedZone is an authoritative server of signed.test, which is signed, and of plain.test, which is not. It signs each
// answer when it is asked for, a no too (RFC 4470).
type signedZone struct {
	addr  string
	key   *dns.DNSKEY
	priv  crypto.Signer
	zone  map[string][]dns.RR // by name
	bogus string              // the name whose signatures are broken
}

func newSignedZone(t *testing.T, records ...string) *signedZone {
	t.Helper()
	z := &signedZone{zone: map[string][]dns.RR{}, key: &dns.DNSKEY{
		Hdr:   dns.RR_Header{Name: "signed.test.", Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: 60},
		Flags: 257, Protocol: 3, Algorithm: dns.ECDSAP256SHA256,
	}}
	priv, err := z.key.Generate(256)
	require.NoError(t, err)
	z.priv = priv.(crypto.Signer)
	z.zone["signed.test."] = []dns.RR{z.key}
	for _, r := range append(records, "signed.test. 60 SOA ns.signed.test. root.signed.test. 1 60 60 60 60",
		"signed.test. 60 NS ns.signed.test.", "ns.signed.test. 60 A 127.0.0.1",
		"plain.test. 60 SOA ns.plain.test. root.plain.test. 1 60 60 60 60", "plain.test. 60 NS ns.plain.test.",
		"ns.plain.test. 60 A 127.0.0.1") {
		rr, err := dns.NewRR(r)
		require.NoError(t, err)
		z.zone[rr.Header().Name] = append(z.zone[rr.Header().Name], rr)
	}
	z.addr = freeAddr(t, "127.0.0.1")
	pc, err := net.ListenPacket("udp", z.addr)
	require.NoError(t, err)
	l, err := net.Listen("tcp", z.addr)
	require.NoError(t, err)
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: z}, {Listener: l, Handler: z}} {
		done := make(chan struct{})
		go func() { defer close(done); _ = s.ActivateAndServe() }()
		t.Cleanup(func() { _ = pc.Close(); _ = l.Close(); <-done })
	}
	return z
}

// ServeDNS implements dns.Handler.
func (z *signedZone) ServeDNS(w dns.ResponseWriter, in *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(in)
	m.Authoritative = true
	m.SetEdns0(1232, true)
	q := in.Question[0]
	name := strings.ToLower(q.Name)
	secure := dns.IsSubDomain("signed.test.", name)
	for range 3 { // along aliases
		alias := ""
		var set []dns.RR
		for _, rr := range z.zone[name] {
			if c, ok := rr.(*dns.CNAME); ok && q.Qtype != dns.TypeCNAME {
				set, alias = []dns.RR{rr}, c.Target
			} else if rr.Header().Rrtype == q.Qtype {
				set = append(set, rr)
			}
		}
		if m.Answer = append(m.Answer, z.signed(set, secure)...); alias == "" {
			break
		}
		name = alias
	}
	if len(m.Answer) == 0 {
		m.Ns = z.nothing(name, secure)
	}
	_ = w.WriteMsg(m)
}

// signed puts the signature of a set behind it.
func (z *signedZone) signed(set []dns.RR, secure bool) []dns.RR {
	if len(set) == 0 || !secure {
		return set
	}
	h := set[0].Header()
	sig := &dns.RRSIG{KeyTag: z.key.KeyTag(), SignerName: "signed.test.", Algorithm: z.key.Algorithm,
		Inception: uint32(time.Now().Add(-time.Hour).Unix()), Expiration: uint32(time.Now().Add(time.Hour).Unix())}
	if err := sig.Sign(z.priv, set); err != nil {
		panic(err)
	}
	if h.Name == z.bogus {
		sig.OrigTtl++
	}
	sig.Hdr.Ttl = h.Ttl
	return append(slices.Clone(set), sig)
}

// nothing says that a name has no such record, and which it has.
func (z *signedZone) nothing(name string, secure bool) []dns.RR {
	apex := "plain.test."
	if secure {
		apex = "signed.test."
	}
	var soa []dns.RR
	for _, rr := range z.zone[apex] {
		if rr.Header().Rrtype == dns.TypeSOA {
			soa = append(soa, rr)
		}
	}
	if !secure {
		return soa
	}
	kinds := []uint16{dns.TypeRRSIG, dns.TypeNSEC}
	for _, rr := range z.zone[name] {
		kinds = append(kinds, rr.Header().Rrtype)
	}
	slices.Sort(kinds)
	none := &dns.NSEC{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeNSEC, Class: dns.ClassINET, Ttl: 60},
		NextDomain: `\000.` + name, TypeBitMap: slices.Compact(kinds)}
	return append(z.signed(soa, true), z.signed([]dns.RR{none}, true)...)
}

// startUnbound starts a resolver that validates what the zone's server says, and returns its address.
func startUnbound(t *testing.T, z *signedZone) string {
	t.Helper()
	need(t, "unbound")
	dir, addr := t.TempDir(), freeAddr(t, "127.0.0.1")
	_, port, _ := net.SplitHostPort(addr)
	_, auth, _ := net.SplitHostPort(z.addr)
	conf := filepath.Join(dir, "unbound.conf")
	anchor := strings.Join(strings.Fields(z.key.ToDS(dns.SHA256).String()), " ")
	require.NoError(t, os.WriteFile(conf, []byte(fmt.Sprintf(`server:
  interface: 127.0.0.1
  port: %s
  do-daemonize: no
  username: ""
  chroot: ""
  directory: %q
  pidfile: ""
  use-syslog: no
  verbosity: 1
  do-not-query-localhost: no
  num-threads: 1
  module-config: "validator iterator"
  local-zone: "test." nodefault
  trust-anchor: %q
  domain-insecure: "plain.test"
remote-control:
  control-enable: no
stub-zone:
  name: "signed.test"
  stub-addr: 127.0.0.1@%s
stub-zone:
  name: "plain.test"
  stub-addr: 127.0.0.1@%s
`, port, dir, anchor, auth, auth)), 0o644))
	cmd := exec.Command("unbound", "-d", "-c", conf)
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("unbound: %s", text)
		}
	})
	require.Eventually(t, func() bool {
		m := new(dns.Msg)
		m.SetQuestion("signed.test.", dns.TypeSOA)
		m.AuthenticatedData = true
		in, err := dns.Exchange(m, addr)
		return err == nil && in.AuthenticatedData
	}, 30*time.Second, 100*time.Millisecond, "unbound does not validate")
	return addr
}

// TestDANEThroughUnbound: a real resolver validates a zone of the test's own, and the mail goes by its word on right,
// wrong, missing, useless and bogus TLSA records.
func TestDANEThroughUnbound(t *testing.T) {
	need(t, "unbound")
	sink := nodetest.NewSink(t, "127.0.0.1:0")
	hop, digest := tlsHop(t, sink)
	_, port, err := net.SplitHostPort(hop)
	require.NoError(t, err)
	wrong := strings.Repeat("0", 64)
	var zone []string
	add := func(domain, tlsa string) {
		zone = append(zone, domain+". 60 MX 10 mx."+domain+".", "mx."+domain+". 60 A 127.0.0.1")
		if tlsa != "" {
			zone = append(zone, "_"+port+"._tcp.mx."+domain+". 60 TLSA "+tlsa)
		}
	}
	add("good.signed.test", "3 1 1 "+digest)
	add("wrong.signed.test", "3 1 1 "+wrong)
	add("missing.signed.test", "")
	add("useless.signed.test", "1 1 1 "+digest)
	add("bogus.signed.test", "3 1 1 "+digest)
	add("plain.test", "3 1 1 "+wrong)
	zone = append(zone, "alias.signed.test. 60 MX 10 mx.alias.signed.test.",
		"mx.alias.signed.test. 60 CNAME mx.good.signed.test.")
	z := newSignedZone(t, zone...)
	z.bogus = "_" + port + "._tcp.mx.bogus.signed.test."
	resolver := startUnbound(t, z)
	c := nodetest.New(t, nodetest.Options{Nodes: 1, Configure: func(_ int, conf *config.Config) {
		conf.Delivery.DNSServers = []string{resolver}
		_, err := fmt.Sscan(port, &conf.Delivery.Port)
		require.NoError(t, err)
	}})
	for _, domain := range []string{"signed.test", "plain.test"} { // all else goes to a sink
		require.NoError(t, c.Nodes[0].Client().SetRoute(t.Context(), admin.By{Why: "test"},
			admin.Route{Domain: domain, Target: "mx"}))
	}
	for domain, want := range map[string]string{
		"good.signed.test": "(dane)", "alias.signed.test": "(dane)", "useless.signed.test": "(dane: no usable record)",
		"missing.signed.test": "delivered", "plain.test": "delivered",
		"wrong.signed.test": "4.7.5 TLS failed by DANE: the host's certificate is none of those",
		"bogus.signed.test": "4.7.5 whether the host has TLSA records (DANE) could not be looked up",
	} {
		id := c.Nodes[0].MustSend("s@far.example", "x@"+domain, "Subject: "+domain+"\r\n\r\ntext\r\n")
		said := ""
		c.Eventually(time.Minute, "no attempt for "+domain, func() bool {
			trace, err := c.Nodes[0].Client().Trace(t.Context(), id)
			said = fmt.Sprintf("%+v", trace)
			return err == nil && strings.Contains(said, want)
		})
		if want == "delivered" {
			require.NotContains(t, said, "dane")
		}
		t.Logf("%s: %s", domain, want)
	}
	require.Len(t, sink.Got(), 5)
	c.Verify()
}

// tlsHop is a next hop with a certificate of nobody's; digest is that of its key.
func tlsHop(t *testing.T, sink *nodetest.Sink) (addr, digest string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	x := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"elsewhere.test"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)} // DANE-EE looks at neither
	der, err := x509.CreateCertificate(rand.Reader, x, x, &key.PublicKey, key)
	require.NoError(t, err)
	x, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	sum := sha256.Sum256(x.RawSubjectPublicKeyInfo)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv, err := smtp.NewServer(smtp.ServerConfig{Hostname: "hop.test", Backend: sink, TLS: &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}})
	require.NoError(t, err)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(t.Context(), l) }()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String(), hex.EncodeToString(sum[:])
}
