package remote

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/queue"
)

// identityOf is a certificate with all that a route may say of it.
type identityOf struct {
	cert       *tls.Certificate
	ca         string
	whole, key string
}

func newIdentity(t *testing.T, name string) identityOf {
	t.Helper()
	cert, _ := certificate(t, name)
	x, err := x509.ParseCertificate(cert.Certificate[0])
	require.NoError(t, err)
	digest := func(b []byte) string { sum := sha256.Sum256(b); return hex.EncodeToString(sum[:]) }
	return identityOf{cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: x.Raw})),
		digest(x.Raw), digest(x.RawSubjectPublicKeyInfo)}
}

// TestTLSOfRoutes: what each policy makes of a host with STARTTLS, with another's
// certificate, without STARTTLS, and with TLS from the first octet.
func TestTLSOfRoutes(t *testing.T) {
	good, other := newIdentity(t, "mx.x"), newIdentity(t, "other.x")
	const clear, secure, waits = "clear", "TLS", "waits: "
	for name, c := range map[string]struct {
		conf TLSPolicy
		link Link
		// Of a host with STARTTLS, of one with another's certificate, of one without STARTTLS.
		right, wrong, none string
	}{
		"as configured":         {Opportunistic, Link{}, secure, secure, clear},
		"as configured, off":    {Off, Link{}, clear, clear, clear},
		"none":                  {Required, Link{TLS: NoTLS}, clear, clear, clear},
		"opportunistic":         {Required, Link{TLS: AnyTLS}, secure, secure, clear},
		"opportunistic not off": {Off, Link{TLS: AnyTLS}, secure, secure, clear},
		"encrypt":               {Off, Link{TLS: EncryptTLS}, secure, secure, waits + "4.7.4 TLS is required"},
		"verify": {Off, Link{TLS: VerifyTLS, CA: good.ca + other.ca}, secure, waits + "4.7.5 TLS failed",
			waits + "4.7.4 TLS is required"},
		"verify, another's CA": {Off, Link{TLS: VerifyTLS, CA: other.ca}, waits + "4.7.5 TLS failed",
			waits + "4.7.5 TLS failed", waits + "4.7.4 TLS is required"},
		"fingerprint": {Off, Link{TLS: VerifyPin, Pins: good.whole}, secure,
			waits + "4.7.5 TLS failed: the certificate's fingerprint", waits + "4.7.4 TLS is required"},
		"fingerprint of the key": {Off, Link{TLS: VerifyPin, Pins: strings.Repeat("0", 64) + "," + good.key}, secure,
			waits + "4.7.5 TLS failed: the certificate's fingerprint", waits + "4.7.4 TLS is required"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, host := range []struct {
				cert *tls.Certificate
				want string
			}{{good.cert, c.right}, {other.cert, c.wrong}, {nil, c.none}} {
				h := newHop(t, nil)
				if h.cert = host.cert; h.cert != nil {
					h.ehlo = append(h.ehlo, "STARTTLS")
				}
				requireLink(t, h, Config{TLS: c.conf}, c.link, host.want)
			}
		})
	}
	t.Run("implicit", func(t *testing.T) {
		for name, c := range map[string]struct {
			cert *tls.Certificate
			link Link
			want string
		}{
			"any certificate":     {other.cert, Link{}, secure},
			"verified":            {good.cert, Link{TLS: VerifyTLS, CA: good.ca}, secure},
			"not the host's":      {other.cert, Link{TLS: VerifyTLS, CA: other.ca}, waits + "4.7.5 TLS failed"},
			"not the pin's":       {other.cert, Link{TLS: VerifyPin, Pins: good.key}, waits + "4.7.5 TLS failed"},
			"no TLS at that port": {nil, Link{}, waits + "4.7.5 TLS failed"},
		} {
			t.Run(name, func(t *testing.T) {
				h := newHop(t, nil)
				h.mu.Lock()
				h.cert, h.implicit = c.cert, c.cert != nil
				h.mu.Unlock()
				c.link.Implicit = true
				requireLink(t, h, Config{}, c.link, c.want)
			})
		}
	})
}

// requireLink delivers to mx.x, which is h, by a route with a link.
func requireLink(t *testing.T, h *nextHop, conf Config, link Link, want string) {
	t.Helper()
	conf.Resolver = names{addrs: map[string][]netip.Addr{"mx.x": {netip.MustParseAddr("127.0.0.1")}}}
	conf.Client = patience(30 * time.Second)
	conf.Router = router(func(string) (Target, error) {
		return Target{Kind: SMTP, Host: "mx.x", Port: h.port(), Link: link}, nil
	})
	v := deliver(t, newAgent(t, conf), jobTo("", "a@x"))[0]
	reason, waits := strings.CutPrefix(want, "waits: ")
	if waits {
		require.Equal(t, queue.Deferred, v.Outcome)
		require.Contains(t, v.Reply, reason)
		require.NotContains(t, h.said(), "MAIL", "nothing may be told in clear")
		return
	}
	require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
	require.Equal(t, want == "TLS", v.TLS != "", v.TLS)
}

// TestRequireTLSOverRoutes: mail that asks for TLS gets it, whatever the route says.
func TestRequireTLSOverRoutes(t *testing.T) {
	k := key{verified: true, link: Link{TLS: NoTLS}}
	a := newAgent(t, Config{TLS: Off})
	require.True(t, a.wantsTLS(k))
	require.True(t, a.must(k))
	require.False(t, a.tlsConfig(k).InsecureSkipVerify)
}

// TestLinksOfOneTarget: the stricter of two routes holds.
func TestLinksOfOneTarget(t *testing.T) {
	a := Link{Without: "DSN", TLS: VerifyTLS, CA: "ca"}
	b := Link{Without: "PIPELINING", TLS: EncryptTLS, Implicit: true}
	want := Link{TLS: VerifyTLS, CA: "ca", Implicit: true}
	for _, m := range []Link{a.Merge(b), b.Merge(a)} {
		require.ElementsMatch(t, []string{"DSN", "PIPELINING"}, strings.Split(m.Without, ","))
		m.Without = ""
		require.Equal(t, want, m)
	}
	require.Equal(t, a, Link{}.Merge(a))
	require.Equal(t, a, a.Merge(Link{}))
	require.Equal(t, a, a.Merge(a))
}

// TestRoutesThatTrustDifferently: where two routes to one target go by different
// certificates, no mail of one is given to a host that only the other one trusts.
func TestRoutesThatTrustDifferently(t *testing.T) {
	good, other := newIdentity(t, "mx.x"), newIdentity(t, "mx.x")
	pin := func(pins string) Link { return Link{TLS: VerifyPin, Pins: pins} }
	ca := func(text string) Link { return Link{TLS: VerifyTLS, CA: text} }
	const secure = "TLS"
	const neither, unknown = "waits: 4.7.5 TLS failed: the certificate's fingerprint", "waits: 4.7.5 TLS failed"
	for name, c := range map[string]struct {
		one, two Link
		want     string
	}{
		"pins of two hosts":          {pin(good.whole), pin(other.whole), neither},
		"certificate and its key":    {pin(good.whole), pin(good.key + "," + other.key), secure},
		"the same pins":              {pin(good.key), pin(good.key), secure},
		"no pins, of a later policy": {pin(good.key), pin(""), neither},
		"CAs of two hosts":           {ca(good.ca), ca(other.ca), unknown},
		"the public CAs, too":        {ca(good.ca), ca(""), unknown},
		"both know it":               {ca(good.ca), ca(other.ca + good.ca), secure},
		"the same CAs":               {ca(good.ca), ca(good.ca), secure},
	} {
		t.Run(name, func(t *testing.T) {
			for _, link := range []Link{
				c.one.Merge(c.two), c.two.Merge(c.one), c.one.Merge(c.two).Merge(c.one), c.two.Merge(Link{}).Merge(c.one),
			} {
				require.Equal(t, c.one.Merge(c.two), link, "whatever comes first")
				h := newHop(t, nil)
				h.cert, h.ehlo = good.cert, append(h.ehlo, "STARTTLS")
				requireLink(t, h, Config{}, link, c.want)
			}
		})
	}
}

// TestWeakLinkOfOneTarget: a route that leaves TLS to the configuration gets no less
// because another one to the same target asks for little.
func TestWeakLinkOfOneTarget(t *testing.T) {
	for _, c := range []struct {
		conf        TLSPolicy
		route, want LinkTLS
	}{
		{Off, NoTLS, NoTLS}, {Opportunistic, NoTLS, AnyTLS}, {Required, NoTLS, EncryptTLS},
		{Off, AnyTLS, AnyTLS}, {Opportunistic, AnyTLS, AnyTLS}, {Required, AnyTLS, EncryptTLS},
		{Off, EncryptTLS, EncryptTLS}, {Required, VerifyTLS, VerifyTLS},
	} {
		a, l := newAgent(t, Config{TLS: c.conf}), Link{TLS: c.route}
		for _, m := range []Link{
			l.Merge(Link{}), Link{}.Merge(l), l.Merge(Link{}).Merge(l), Link{}.Merge(Link{TLS: NoTLS}).Merge(l),
		} {
			require.Equal(t, c.want, a.policy(m), "%+v: %+v", c, m)
		}
		require.Equal(t, c.route, a.policy(l), "alone it says what holds")
	}
}

// TestDoubtsByRoute: whether a no in clear is the last word goes by the policy of the route.
func TestDoubtsByRoute(t *testing.T) {
	const noTLS, never = "550 5.7.1 not in clear", "530 5.7.0 Must issue a STARTTLS command first"
	for _, c := range []struct {
		conf   TLSPolicy
		route  LinkTLS
		answer string
		want   queue.Outcome
	}{
		{Opportunistic, NoTLS, never, queue.Deferred},
		{Opportunistic, NoTLS, noTLS, queue.Failed},
		{Off, AnyTLS, noTLS, queue.Deferred},
		{Off, AsConfigured, noTLS, queue.Failed},
		{Opportunistic, AsConfigured, noTLS, queue.Deferred},
	} {
		h := newHop(t, map[string]string{"MAIL": c.answer})
		h.ehlo = append(h.ehlo, "STARTTLS") // which fails: it has no certificate
		a := newAgent(t, Config{TLS: c.conf, Client: patience(30 * time.Second), Router: router(func(string) (Target, error) {
			return Target{Kind: SMTP, Host: "127.0.0.1", Port: h.port(), Link: Link{TLS: c.route}}, nil
		})})
		require.Equal(t, c.want, deliver(t, a, jobTo("", "a@x"))[0].Outcome, "%+v", c)
	}
}

// linked is a Router whose mx routes are each another's, and have links.
type linked struct{ router }

func (linked) Link(target string) Link { return Link{Without: "all of " + target} }

// TestMXByHand: mail that is sent to the mail hosts of its domain by hand meets what the
// domain's own route says of them, and not what those of other domains say.
func TestMXByHand(t *testing.T) {
	a := newAgent(t, Config{Router: linked{func(domain string) (Target, error) {
		if domain == "hub.example" {
			return Target{Kind: SMTP, Host: "hub", Link: Link{TLS: VerifyTLS}}, nil
		}
		return Target{Kind: MX, Link: Link{Without: "that of " + domain}}, nil
	}}})
	for _, c := range []struct {
		domain, route string
		want          Link
	}{
		{"x.example", "mx", Link{Without: "that of x.example"}},
		{"hub.example", "mx", Link{}},
		{"x.example", "smtp:hub", Link{Without: "all of smtp:hub"}},
	} {
		to, err := a.target(t.Context(), &queue.Job{Domain: c.domain, Route: c.route})
		require.NoError(t, err)
		require.Equal(t, c.want, to.Link, c)
	}
}
