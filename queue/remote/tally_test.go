package remote

import (
	"crypto/x509"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/queue/remote/mtasts"
	"relay/queue/remote/tlsrpt"
)

// TestSessionsAreTold: each session with a host of a domain that publishes a policy is told once, with what was missed.
func TestSessionsAreTold(t *testing.T) {
	for name, c := range map[string]struct {
		mode     mtasts.Mode
		mx, cert string
		want     string // kind and result type
	}{
		"met":             {mtasts.Enforce, "mx.x", "mx.x", "sts "},
		"another's":       {mtasts.Enforce, "mx.x", "other.x", "sts " + tlsrpt.HostMismatch},
		"no TLS":          {mtasts.Enforce, "mx.x", "", "sts " + tlsrpt.NoSTARTTLS},
		"no host of it":   {mtasts.Enforce, "mx.y", "mx.x", "sts " + tlsrpt.Invalid},
		"tested":          {mtasts.Testing, "mx.x", "mx.x", "sts "},
		"tested, missed":  {mtasts.Testing, "mx.x", "other.x", "sts " + tlsrpt.HostMismatch},
		"tested, no TLS":  {mtasts.Testing, "mx.x", "", "sts " + tlsrpt.NoSTARTTLS},
		"tested, no host": {mtasts.Testing, "mx.y", "mx.x", "sts " + tlsrpt.Invalid},
		"no policy":       {"", "", "mx.x", ""},
	} {
		h := newHop(t, nil)
		var pool *x509.CertPool
		if c.cert != "" {
			h.ehlo = append(h.ehlo, "STARTTLS")
			h.cert, pool = certificate(t, c.cert)
		}
		var told tolds
		conf := Config{Roots: pool, Policies: policies{}, Tally: told.add}
		if c.mode != "" {
			conf.Policies = policies{"x": {Mode: c.mode, MX: []string{c.mx}}}
		}
		deliver(t, mxAgent(t, conf, h), mxJob("a@x"))
		if c.want == "" {
			require.Empty(t, told.all, name)
			continue
		}
		require.Len(t, told.all, 1, name)
		s := told.all[0]
		require.Equal(t, c.want, s.Kind+" "+s.Failure, name)
		require.Equal(t, []string{"x", "mx.x", "127.0.0.1"}, []string{s.Domain, s.Host, s.IP}, name)
		require.Equal(t, []string{c.mx}, s.MX, name)
	}
}

func TestSessionsByDANEAreTold(t *testing.T) {
	w := newDaneWorld(t, mxAddress)
	own := record(t, 3, 1, w.cert)
	w.publish(mxTLSA, own)
	var told tolds
	a := w.agent(t, Config{Tally: told.add})
	for range 2 { // over one connection
		deliver(t, a, mxJob("a@x"))
	}
	require.Len(t, told.all, 1)
	s := told.all[0]
	require.Equal(t, []string{tlsrpt.TLSA, "", own}, []string{s.Kind, s.Failure, s.Strings[0]})

	w = newDaneWorld(t, mxAddress, "mx.x. A 127.0.0.2")
	w.fails(w.name(mxTLSA) + " TLSA")
	told = tolds{}
	deliver(t, w.agent(t, Config{Tally: told.add}), mxJob("a@x"))
	require.Len(t, told.all, 1, "once a host")
	require.Equal(t, []string{tlsrpt.TLSA, tlsrpt.DNSSEC}, []string{told.all[0].Kind, told.all[0].Failure})
}

// tolds keeps what Config.Tally was told.
type tolds struct {
	mu  sync.Mutex
	all []*tlsrpt.Session
}

func (s *tolds) add(one *tlsrpt.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, one)
}
