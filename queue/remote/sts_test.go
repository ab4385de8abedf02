package remote

import (
	"context"
	"crypto/x509"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/queue"
	"relay/queue/remote/mtasts"
)

// policies are the MTA-STS policies of domains.
type policies map[string]*mtasts.Policy

func (p policies) Find(_ context.Context, domain string) *mtasts.Policy { return p[domain] }

// TestMTASTS: what each mode of a policy makes of each host.
func TestMTASTS(t *testing.T) {
	const right, tested = "TLS1.3 TLS_AES_128_GCM_SHA256 (mta-sts)", "TLS1.3 TLS_AES_128_GCM_SHA256 (mta-sts testing"
	const plainTLS = "TLS1.3 TLS_AES_128_GCM_SHA256"
	const badCert = "waits: 4.7.5 TLS failed by MTA-STS: tls: failed to verify"
	const noTLS = "waits: 4.7.4 TLS is required by MTA-STS, but the host does not offer STARTTLS"
	const noHost = "waits: 4.7.5 the host is none of those of the domain's MTA-STS policy"
	for name, c := range map[string]struct {
		mode mtasts.Mode
		mx   string
		cert string // the name in the host's certificate; empty: no STARTTLS
		link LinkTLS
		conf TLSPolicy
		want string // of Verdict.TLS; "waits: …", of the reply
	}{
		"enforced":      {mtasts.Enforce, "mx.x", "mx.x", 0, 0, right},
		"by a star":     {mtasts.Enforce, "*.x", "mx.x", 0, 0, right},
		"another's":     {mtasts.Enforce, "mx.x", "other.x", 0, 0, badCert},
		"no TLS":        {mtasts.Enforce, "mx.x", "", 0, 0, noTLS},
		"no host of it": {mtasts.Enforce, "mx.y", "mx.x", 0, 0, noHost},
		"tested":        {mtasts.Testing, "mx.x", "mx.x", 0, 0, tested + ")"},
		"tested, another's": {mtasts.Testing, "mx.x", "other.x", 0, 0,
			tested + ": x509: certificate is valid for other.x, not mx.x)"},
		"tested, no TLS":     {mtasts.Testing, "mx.x", "", 0, 0, "none (mta-sts testing: no TLS)"},
		"tested, no host":    {mtasts.Testing, "mx.y", "mx.x", 0, 0, tested + ": the host is none of the policy's)"},
		"no policy":          {"", "", "other.x", 0, 0, plainTLS},
		"the route's word":   {mtasts.Enforce, "mx.y", "other.x", AnyTLS, 0, plainTLS},
		"switched off":       {mtasts.Enforce, "mx.y", "other.x", 0, Off, ""},
		"TLS in any case":    {mtasts.Enforce, "mx.x", "mx.x", 0, Required, right},
		"the route's verify": {mtasts.Enforce, "mx.y", "mx.x", VerifyTLS, 0, plainTLS},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHop(t, nil)
			var pool *x509.CertPool
			if c.cert != "" {
				h.ehlo = append(h.ehlo, "STARTTLS")
				h.cert, pool = certificate(t, c.cert)
			}
			conf := Config{TLS: c.conf, Roots: pool, Policies: policies{}, Router: router(func(string) (Target, error) {
				return Target{Link: Link{TLS: c.link}}, nil
			})}
			if c.mode != "" {
				conf.Policies = policies{"x": {Mode: c.mode, MX: []string{c.mx}}}
			}
			a := mxAgent(t, conf, h)
			for range 2 {
				v := deliver(t, a, mxJob("a@x"))[0]
				if reply, waits := strings.CutPrefix(c.want, "waits: "); waits {
					require.Equal(t, queue.Deferred, v.Outcome, v.Reply)
					require.Contains(t, v.Reply, reply)
					continue
				}
				require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
				require.Equal(t, c.want, v.TLS)
			}
			met, missed := a.Stats().STS.Met.Load(), a.Stats().STS.Missed.Load()
			require.Equal(t, c.want == right, met > 0)
			require.Equal(t, strings.HasPrefix(c.want, "waits: "), missed > 0)
			tried := a.Stats().TestedSTS.Met.Load() + a.Stats().TestedSTS.Missed.Load()
			require.Equal(t, c.mode == mtasts.Testing, tried == 1, "once a connection")
		})
	}
}

// TestHostsOutsideOfThePolicyAreLeftOut: the mail goes to the next one that the policy has.
func TestHostsOutsideOfThePolicyAreLeftOut(t *testing.T) {
	h := newHop(t, nil)
	h.ehlo = append(h.ehlo, "STARTTLS")
	var pool *x509.CertPool
	h.cert, pool = certificate(t, "mx.x")
	here := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	a := mxAgent(t, Config{Roots: pool, Policies: policies{"x": {Mode: mtasts.Enforce, MX: []string{"mx.x"}}},
		Resolver: names{mx: map[string][]Record{"x": {{"evil.y", 1}, {"mx.x", 10}}},
			addrs: map[string][]netip.Addr{"evil.y": here, "mx.x": here}}}, h)
	v := deliver(t, a, mxJob("a@x"))[0]
	require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
	require.Contains(t, v.Host, "mx.x ")
	conns, _ := h.count()
	require.Equal(t, 1, conns)
}

// TestDANEAndMTASTS: DANE decides about the certificate where it can, whatever MTA-STS would say.
func TestDANEAndMTASTS(t *testing.T) {
	try := func(cert string, records func(*daneWorld) string) queue.Verdict {
		w := newDaneWorld(t, mxAddress)
		var pool *x509.CertPool
		w.cert, pool = certificate(t, cert)
		w.publish(mxTLSA, records(w))
		enforced := policies{"x": {Mode: mtasts.Enforce, MX: []string{"mx.x"}}}
		return deliver(t, w.agent(t, Config{Roots: pool, Policies: enforced}), mxJob("a@x"))[0]
	}
	own := func(w *daneWorld) string { return record(t, 3, 1, w.cert) }
	useless := func(w *daneWorld) string { return record(t, 1, 1, w.cert) }
	require.Contains(t, try("other.x", own).TLS, " (dane)")
	require.Contains(t, try("mx.x", func(*daneWorld) string { return noRecord }).Reply, "4.7.5 TLS failed by DANE")
	require.Contains(t, try("mx.x", useless).TLS, " (mta-sts)")
	require.Contains(t, try("other.x", useless).Reply, "4.7.5 TLS failed by MTA-STS")
}

// TestRequireTLSWantsHostsThatAreSecured: a certificate for a name that anybody may have put into DNS proves nothing.
func TestRequireTLSWantsHostsThatAreSecured(t *testing.T) {
	var pool *x509.CertPool
	h := newHop(t, nil)
	h.ehlo = append(h.ehlo, "STARTTLS", "REQUIRETLS")
	h.cert, pool = certificate(t, "mx.x")
	here := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	try := func(domain string, p policies) queue.Verdict {
		j := mxJob("a@" + domain)
		j.RequireTLS, j.Domain = true, domain
		return deliver(t, mxAgent(t, Config{Roots: pool, Policies: p, Resolver: names{
			mx: map[string][]Record{"x": {{"mx.x", 10}}}, addrs: map[string][]netip.Addr{"mx.x": here},
		}}, h), j)[0]
	}
	for _, p := range []policies{nil, {"x": {Mode: mtasts.Enforce, MX: []string{"mx.y"}}}} {
		v := try("x", p)
		require.Equal(t, queue.Failed, v.Outcome, v.Reply)
		require.Contains(t, v.Reply, "5.7.30 the message requires TLS, and neither DNSSEC nor MTA-STS secures")
	}
	v := try("x", policies{"x": {Mode: mtasts.Testing, MX: []string{"mx.x"}}})
	require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
	v = try("mx.x", nil)
	require.Equal(t, queue.Delivered, v.Outcome, "without MX the name is the domain's own: "+v.Reply)

	w := newDaneWorld(t, mxAddress)
	w.cert, _ = certificate(t, "elsewhere")
	w.ehlo = append(w.ehlo, "REQUIRETLS")
	w.publish(mxTLSA, record(t, 3, 1, w.cert))
	j := mxJob("a@x")
	j.RequireTLS = true
	v = deliver(t, w.agent(t, Config{}), j)[0]
	require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
	require.Contains(t, v.TLS, "(dane)")

}
