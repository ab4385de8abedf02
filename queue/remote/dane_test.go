package remote

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"relay/queue"
)

// daneWorld is a domain x with the host mx.x, name servers on loopback, and what DNSSEC secures.
type daneWorld struct {
	*nextHop
	dns      *nameServer
	insecure map[string]bool // by "NAME KIND": not secured
	broken   map[string]bool // the same: SERVFAIL
}

func newDaneWorld(t *testing.T, zone ...string) *daneWorld {
	t.Helper()
	w := &daneWorld{nextHop: newHop(t, nil), insecure: map[string]bool{}, broken: map[string]bool{}}
	w.cert, _ = certificate(t, "elsewhere")
	w.ehlo = append(w.ehlo, "STARTTLS")
	records := map[string][]string{}
	for _, r := range append(zone, "x. MX 10 mx.x.") {
		rr, err := dns.NewRR(strings.ReplaceAll(r, "PORT", fmt.Sprint(w.port())))
		require.NoError(t, err)
		h := rr.Header()
		key := h.Name + " " + dns.TypeToString[h.Rrtype]
		records[key] = append(records[key], rr.String())
	}
	w.dns = newNameServer(t, records)
	w.dns.lie(func(m, in *dns.Msg, _ string) {
		what := strings.ToLower(in.Question[0].Name) + " " + dns.TypeToString[in.Question[0].Qtype]
		m.AuthenticatedData = in.AuthenticatedData && !w.insecure[what]
		if w.broken[what] {
			m.Rcode, m.Answer = dns.RcodeServerFailure, nil
		}
	})
	return w
}

func (w *daneWorld) agent(t *testing.T, c Config) *Agent {
	c.Port, c.LoopbackHops, c.Resolver = w.port(), true, resolver(t, w.dns.addr)
	return newAgent(t, c)
}

func (w *daneWorld) tlsaAsked() (n int) {
	w.dns.mu.Lock()
	defer w.dns.mu.Unlock()
	for what, times := range w.dns.asked {
		if strings.HasSuffix(what, " TLSA") {
			n += times
		}
	}
	return n
}

// record is the rest of a TLSA record for a certificate.
func record(t *testing.T, usage, selector int, c *tls.Certificate) string {
	t.Helper()
	x, err := x509.ParseCertificate(c.Certificate[0])
	require.NoError(t, err)
	sum := sha256.Sum256(x.Raw)
	if selector == 1 {
		sum = sha256.Sum256(x.RawSubjectPublicKeyInfo)
	}
	return fmt.Sprintf("%d %d 1 %s", usage, selector, hex.EncodeToString(sum[:]))
}

// publish puts TLSA records into the zone.
func (w *daneWorld) publish(name string, records ...string) {
	w.dns.mu.Lock()
	defer w.dns.mu.Unlock()
	name = strings.ReplaceAll(name, "PORT", fmt.Sprint(w.port()))
	for _, r := range records {
		w.dns.zone[name+" TLSA"] = append(w.dns.zone[name+" TLSA"], name+" 60 IN TLSA "+r)
	}
}

const (
	mxAddress = "mx.x. A 127.0.0.1"
	mxTLSA    = "_PORT._tcp.mx.x."
	noRecord  = "3 1 1 0000000000000000000000000000000000000000000000000000000000000000"
)

// TestDANE: what each state of a host's TLSA records makes of its mail.
func TestDANE(t *testing.T) {
	const plainTLS, proved = "TLS1.3 TLS_AES_128_GCM_SHA256", "TLS1.3 TLS_AES_128_GCM_SHA256 (dane)"
	for name, c := range map[string]struct {
		zone  []string
		world func(w *daneWorld)
		conf  Config
		want  string // of Verdict.TLS, or of the reply behind "waits: "
		tlsa  int    // questions
		sni   string
	}{
		"none": {want: plainTLS, tlsa: 1, sni: "mx.x"},
		"right": {world: func(w *daneWorld) { w.publish(mxTLSA, record(t, 3, 1, w.cert)) },
			want: proved, tlsa: 1, sni: "mx.x"},
		"one of them right": {world: func(w *daneWorld) { w.publish(mxTLSA, noRecord, record(t, 3, 0, w.cert)) },
			want: proved, tlsa: 1},
		"wrong": {world: func(w *daneWorld) { w.publish(mxTLSA, noRecord) },
			want: "waits: 4.7.5 TLS failed by DANE: the host's certificate is none of those that its TLSA", tlsa: 1},
		"right, and no STARTTLS": {world: func(w *daneWorld) {
			w.publish(mxTLSA, record(t, 3, 1, w.cert))
			w.ehlo = nil
		}, want: "waits: 4.7.4 TLS is required by DANE, but the host does not offer STARTTLS", tlsa: 1},
		"of no use": {world: func(w *daneWorld) { w.publish(mxTLSA, record(t, 1, 1, w.cert)) },
			want: plainTLS + " (dane: no usable record)", tlsa: 1},
		"of no use, and no STARTTLS": {world: func(w *daneWorld) {
			w.publish(mxTLSA, record(t, 1, 1, w.cert))
			w.ehlo = nil
		}, want: "waits: 4.7.4 TLS is required by DANE, but", tlsa: 1},
		"insecure": {world: func(w *daneWorld) {
			w.publish(mxTLSA, noRecord)
			w.unsigned(w.name(mxTLSA) + " TLSA")
		}, want: plainTLS, tlsa: 1},
		"bogus": {world: func(w *daneWorld) { w.fails(w.name(mxTLSA) + " TLSA") },
			want: "waits: 4.7.5 whether the host has TLSA records (DANE) could not be looked up: lookup failed", tlsa: 2},
		"MX insecure": {world: func(w *daneWorld) {
			w.publish(mxTLSA, noRecord)
			w.unsigned("x. MX")
		}, want: plainTLS},
		"address insecure": {world: func(w *daneWorld) {
			w.publish(mxTLSA, noRecord)
			w.unsigned("mx.x. A")
		}, want: plainTLS},
		"switched off":       {world: func(w *daneWorld) { w.publish(mxTLSA, noRecord) }, conf: Config{TLS: Off}, want: ""},
		"where TLS is asked": {conf: Config{TLS: Required}, want: plainTLS, tlsa: 1},
		"alias": {zone: []string{"mx.x. CNAME host.y.", "host.y. A 127.0.0.1"},
			world: func(w *daneWorld) { w.publish("_PORT._tcp.host.y.", record(t, 3, 1, w.cert)) },
			want:  proved, tlsa: 1, sni: "host.y"},
		"alias, records at the first name": {zone: []string{"mx.x. CNAME host.y.", "host.y. A 127.0.0.1"},
			world: func(w *daneWorld) { w.publish(mxTLSA, record(t, 3, 1, w.cert)) }, want: proved, tlsa: 2, sni: "mx.x"},
		"alias out of what is secured": {zone: []string{"mx.x. CNAME host.y.", "host.y. A 127.0.0.1"},
			world: func(w *daneWorld) {
				w.unsigned("mx.x. A")
				w.publish("_PORT._tcp.host.y.", noRecord)
				w.publish(mxTLSA, record(t, 3, 1, w.cert))
			}, want: proved, tlsa: 1, sni: "mx.x"},
		"insecure alias": {zone: []string{"mx.x. CNAME host.y.", "host.y. A 127.0.0.1"},
			world: func(w *daneWorld) {
				w.unsigned("mx.x. A", "mx.x. CNAME")
				w.publish(mxTLSA, noRecord)
			}, want: plainTLS},
		"alias that fails": {zone: []string{"mx.x. CNAME host.y.", "host.y. A 127.0.0.1"},
			world: func(w *daneWorld) {
				w.unsigned("mx.x. A")
				w.fails("mx.x. CNAME")
			},
			want: "waits: 4.7.5 whether the host has TLSA records"},
		"records behind an alias": {zone: []string{mxAddress, mxTLSA + " CNAME tlsa.y."},
			world: func(w *daneWorld) {
				w.dns.mu.Lock()
				defer w.dns.mu.Unlock()
				w.dns.zone[w.name(mxTLSA)+" CNAME"] = append(w.dns.zone[w.name(mxTLSA)+" CNAME"],
					"tlsa.y. 60 IN TLSA "+record(t, 3, 1, w.cert))
			}, want: proved, tlsa: 1, sni: "mx.x"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.zone == nil {
				c.zone = []string{mxAddress}
			}
			w := newDaneWorld(t, c.zone...)
			if c.world != nil {
				c.world(w)
			}
			v := deliver(t, w.agent(t, c.conf), mxJob("a@x"))[0]
			if reply, waits := strings.CutPrefix(c.want, "waits: "); waits {
				require.Equal(t, queue.Deferred, v.Outcome, v.Reply)
				require.Contains(t, v.Reply, reply)
				require.True(t, v.NextHop)
				_, bodies := w.count()
				require.Zero(t, bodies)
			} else {
				require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
				require.Equal(t, c.want, v.TLS)
			}
			require.Equal(t, c.tlsa, w.tlsaAsked())
			if c.sni != "" {
				w.mu.Lock()
				asked := w.asked
				w.mu.Unlock()
				require.Equal(t, c.sni, asked)
			}
		})
	}
}

// unsigned: the answers to "NAME KIND" are not secured.
func (w *daneWorld) unsigned(all ...string) {
	w.dns.mu.Lock()
	defer w.dns.mu.Unlock()
	for _, what := range all {
		w.insecure[what] = true
	}
}

// fails: the question for "NAME KIND" is answered SERVFAIL.
func (w *daneWorld) fails(what string) {
	w.dns.mu.Lock()
	defer w.dns.mu.Unlock()
	w.broken[what] = true
}

func (w *daneWorld) name(s string) string { return strings.ReplaceAll(s, "PORT", fmt.Sprint(w.port())) }

// TestDANEOfACA: a CA's record wants a name, the host's or the domain's.
func TestDANEOfACA(t *testing.T) {
	for name, good := range map[string]bool{"mx.x": true, "x": true, "other.x": false} {
		ca, key := authority(t)
		w := newDaneWorld(t, mxAddress)
		w.cert = issuedBy(t, ca, key, name)
		w.publish(mxTLSA, record(t, 2, 1, &tls.Certificate{Certificate: [][]byte{ca.Raw}}))
		v := deliver(t, w.agent(t, Config{}), mxJob("a@x"))[0]
		if good {
			require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
		} else {
			require.Contains(t, v.Reply, "4.7.5 TLS failed by DANE: the host's certificate is not for mx.x or x")
		}
	}
}

// TestDANELeavesHosts: a host whose proof fails is passed over, and the next one by preference is tried.
func TestDANELeavesHosts(t *testing.T) {
	w := newDaneWorld(t, "x. MX 5 first.x.", "first.x. A 127.0.0.1", "first.x. A 127.0.0.2", mxAddress)
	w.publish("_PORT._tcp.first.x.", noRecord)
	w.publish(mxTLSA, record(t, 3, 1, w.cert))
	a := w.agent(t, Config{})
	v := deliver(t, a, mxJob("a@x"))[0]
	require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
	require.Contains(t, v.Host, "mx.x ")
	v = deliver(t, a, mxJob("a@x"))[0]
	require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
	require.Equal(t, uint64(1), a.Stats().Reused.Load(), "what has the same proof shares the connection")
	require.EqualValues(t, 1, a.Stats().DANE.Met.Load())
	require.EqualValues(t, 2, a.Stats().DANE.Missed.Load(), "once an attempt")
}

// authority makes a CA.
func authority(t *testing.T) (*x509.Certificate, any) {
	t.Helper()
	pair, _ := certificate(t, "ca")
	ca, err := x509.ParseCertificate(pair.Certificate[0])
	require.NoError(t, err)
	return ca, pair.PrivateKey
}

// issuedBy makes a certificate that a CA has signed, which is shown with it.
func issuedBy(t *testing.T, ca *x509.Certificate, key any, name string) *tls.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	x := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{name}, NotBefore: ca.NotBefore,
		NotAfter: ca.NotAfter}
	der, err := x509.CreateCertificate(rand.Reader, x, ca, &k.PublicKey, key)
	require.NoError(t, err)
	return &tls.Certificate{Certificate: [][]byte{der, ca.Raw}, PrivateKey: k}
}

// TestRecordsAreOfAPort: two routes to one host, at two ports, go by the records of each.
func TestRecordsAreOfAPort(t *testing.T) {
	w := newDaneWorld(t, mxAddress)
	w.publish("_465._tcp.mx.x.", noRecord)
	w.publish("_587._tcp.mx.x.", record(t, 3, 1, w.cert))
	d := newDelivery(w.agent(t, Config{}), mxJob("a@x"))
	d.link.TLS = DaneTLS
	proofs := map[proof]bool{}
	for _, port := range []uint16{465, 587, 465} {
		at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
		k, f := d.key(t.Context(), hop{name: "mx.x", addr: at, bases: "mx.x"})
		require.Nil(t, f)
		proofs[k.proof] = true
	}
	require.Len(t, proofs, 2)
	require.Equal(t, 2, w.tlsaAsked())
}

// TestDANEByRoute: a route may want DANE of the domain's hosts, or of a host that it names, or want none of it.
func TestDANEByRoute(t *testing.T) {
	w := newDaneWorld(t, mxAddress)
	try := func(target string, l LinkTLS) queue.Verdict {
		to, err := ParseTarget(target)
		require.NoError(t, err)
		to.Link.TLS = l
		return deliver(t, w.agent(t, Config{TLS: Off, Router: router(func(string) (Target, error) {
			return to, nil
		})}), mxJob("a@x"))[0]
	}
	host := fmt.Sprintf("smtp:mx.x:%d", w.port())
	for _, target := range []string{"mx", host} {
		require.Contains(t, try(target, DaneTLS).Reply, "4.7.5 the route wants DANE, but the host has no TLSA record that")
	}
	w.publish(mxTLSA, record(t, 3, 1, w.cert))
	for _, target := range []string{"mx", host} {
		require.Contains(t, try(target, DaneTLS).TLS, " (dane)")
	}
	require.NotContains(t, try(host, AnyTLS).TLS, "dane")
	w.unsigned("mx.x. A")
	for _, target := range []string{"mx", host, fmt.Sprintf("smtp:127.0.0.1:%d", w.port())} {
		require.Contains(t, try(target, DaneTLS).Reply, "4.7.5 the route wants DANE, but no resolver that is believed")
	}
	w.dns.mu.Lock()
	w.dns.zone[w.name(mxTLSA)+" TLSA"] = []string{w.name(mxTLSA) + " 60 IN TLSA " + noRecord}
	w.dns.mu.Unlock()
	require.Equal(t, queue.Delivered, try("mx", AnyTLS).Outcome, "the route's own word comes first")
}

func TestBelieves(t *testing.T) {
	r := resolver(t, "192.0.2.1", "127.0.0.53", "[2001:db8::1]:5353")
	r.Believe([]netip.Addr{netip.MustParseAddr("::ffff:192.0.2.9"), netip.MustParseAddr("2001:db8::1")})
	require.True(t, r.Believed())
	require.False(t, resolver(t, "192.0.2.1").Believed())
	for server, want := range map[string]bool{"127.0.0.53:53": true, "[::1]:53": true, "192.0.2.1:53": false,
		"192.0.2.9:53": true, "[2001:db8::1]:5353": true, "[2001:db8::2]:53": false, "nonsense": false,
		"[64:ff9b::c000:209]:53": false} {
		require.Equal(t, want, r.believes(server), server)
	}
}
