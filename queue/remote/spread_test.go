package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/queue"
)

// TestSpreadReadsWhatItWrites: a route's record is read once for each job.
func TestSpreadReadsWhatItWrites(t *testing.T) {
	last := Target{Kind: SMTP, Host: "2001:db8::1"}
	for _, s := range []*Spread{
		{Weight: 3, More: []Weighted{{Target{Kind: SMTP, Host: "b", Port: 26}, 1}}},
		{Weight: 1, Fallback: &last},
		{Weight: 1, More: []Weighted{{Target{Kind: LMTP, Host: "b", Port: 24}, 7}}, Fallback: &last},
	} {
		got, err := ParseSpread(s.String())
		require.NoError(t, err)
		require.Equal(t, s, got, s.String())
	}
	for _, text := range []string{"x", "1=smtp:a", "1 smtp:a", "1 2=nothing", "1 -1=smtp:a"} {
		_, err := ParseSpread(text)
		require.Error(t, err, text)
	}
}

// TestDrawnByWeight: of each draw the shares are exact, and each target comes once.
func TestDrawnByWeight(t *testing.T) {
	first := map[int]int{}
	for n := range 6 {
		order := drawn([]int{3, 1, 2}, func(sum int) int { return n % sum })
		first[order[0]]++
		require.ElementsMatch(t, []int{0, 1, 2}, order)
	}
	require.Equal(t, map[int]int{0: 3, 1: 1, 2: 2}, first)
}

func hostOf(h *nextHop) Target { return Target{Kind: SMTP, Host: "127.0.0.1", Port: h.port()} }

// TestFallback: it gets what the others do not take, and neither their refusals for good nor their login.
func TestFallback(t *testing.T) {
	for name, c := range map[string]struct {
		say      map[string]string
		outcome  queue.Outcome
		atLast   bool
		sessions int
	}{
		"takes it":     {nil, queue.Delivered, false, 0},
		"later":        {map[string]string{"RCPT": "450 later"}, queue.Delivered, true, 0},
		"later, limit": {map[string]string{"RCPT": "450 later"}, queue.Delivered, true, 1},
		"never":        {map[string]string{"RCPT": "550 nobody"}, queue.Failed, false, 0},
		"away":         {map[string]string{"EHLO": "421 away"}, queue.Delivered, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			first, other, last := newHop(t, c.say), newHop(t, c.say), newHop(t, nil)
			to := hostOf(last)
			first.ehlo, other.ehlo = append(first.ehlo, "AUTH PLAIN"), append(other.ehlo, "AUTH PLAIN")
			l := NewLogin("*", "me", known("secret"))
			first.script("AUTH", "235 welcome")
			other.script("AUTH", "235 welcome")
			target := hostOf(first)
			target.Link.Login = l
			target.Spread = &Spread{Weight: 1, More: []Weighted{{hostOf(other), 1}}, Fallback: &to}
			a := newAgent(t, Config{Sessions: c.sessions, Router: router(func(string) (Target, error) { return target, nil })})
			v := deliver(t, a, jobTo("", "a@x"))[0]
			require.Equal(t, c.outcome, v.Outcome, v.Reply)
			_, taken := last.count()
			require.Equal(t, c.atLast, taken == 1)
			require.NotContains(t, last.said(), "AUTH")
		})
	}
}

// TestFallbackOfARefusedLogin: the mail goes there, nobody logs in again, and the refusal is known all the time. Mail
// waits that the fallback does not take either.
func TestFallbackOfARefusedLogin(t *testing.T) {
	first, other, last := newHop(t, nil), newHop(t, nil), newHop(t, map[string]string{"RCPT": "250 ok|250 ok|450 later"})
	to := hostOf(last)
	l := NewLogin("*", "me", known("secret"))
	for _, h := range []*nextHop{first, other} {
		h.ehlo = append(h.ehlo, "AUTH PLAIN")
		h.script("AUTH", "535 5.7.8 bad password")
	}
	target := hostOf(first)
	target.Link.Login = l
	target.Spread = &Spread{Weight: 1, More: []Weighted{{hostOf(other), 1}}, Fallback: &to}
	a := newAgent(t, Config{Router: router(func(string) (Target, error) { return target, nil })})
	for range 2 {
		v := deliver(t, a, jobTo("", "a@x"))[0]
		require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
		require.Contains(t, v.Host, fmt.Sprint(last.port()))
		require.NotZero(t, l.Refused().At)
	}
	require.EqualValues(t, 1, a.stats.LoginsRefused.Load())
	require.Equal(t, 1, count(first.said(), "AUTH")+count(other.said(), "AUTH"))
	require.NotContains(t, last.said(), "AUTH")
	v := deliver(t, a, jobTo("", "a@x"))[0]
	require.Equal(t, queue.Deferred, v.Outcome)
	require.Contains(t, v.Reply, "450")
}

// TestFallbackOfAnotherKind: mail by MX has it, too, but not where a domain does not exist.
func TestFallbackOfAnotherKind(t *testing.T) {
	last := newHop(t, nil)
	to := hostOf(last)
	a := newAgent(t, Config{Resolver: names{err: map[string]error{"MX y": errors.New("SERVFAIL")}},
		Router: router(func(string) (Target, error) {
			return Target{Kind: MX, Spread: &Spread{Weight: 1, Fallback: &to}}, nil
		})})
	job := jobTo("", "a@y")
	job.Domain = "y"
	require.Equal(t, queue.Delivered, deliver(t, a, job)[0].Outcome)
	job.Domain = "nowhere"
	v := deliver(t, a, job)[0]
	require.Equal(t, queue.Failed, v.Outcome, v.Reply)
}

// TestSourcesOfRoutes: a node connects from those addresses that are its own, and not at all where none is.
func TestSourcesOfRoutes(t *testing.T) {
	h := newHop(t, nil)
	target := hostOf(h)
	a := newAgent(t, Config{Own: []netip.Addr{netip.MustParseAddr("192.0.2.9")},
		Router: router(func(string) (Target, error) { return target, nil })})
	var mu sync.Mutex
	var from []string
	a.wrap = func(c net.Conn) net.Conn {
		mu.Lock()
		defer mu.Unlock()
		host, _, _ := net.SplitHostPort(c.LocalAddr().String())
		from = append(from, host)
		return c
	}
	target.Link.Sources = "192.0.2.7,127.0.0.77,::1"
	require.Equal(t, queue.Delivered, deliver(t, a, jobTo("", "a@x"))[0].Outcome)
	require.Equal(t, []string{"127.0.0.77"}, from)
	target.Link.Sources = "192.0.2.7,::1"
	v := deliver(t, a, jobTo("", "a@x"))[0]
	require.Equal(t, queue.Deferred, v.Outcome)
	require.Contains(t, v.Reply, "source addresses 192.0.2.7,::1")
	require.Len(t, from, 1)
}

// TestCertificateOfARoute: a host that asks gets it; the key is asked for once, and mail waits without it.
func TestCertificateOfARoute(t *testing.T) {
	h := newHop(t, nil)
	cert, pool := certificate(t, "hub")
	h.cert, h.ehlo = cert, append(h.ehlo, "STARTTLS")
	var own *tls.Certificate
	own, h.clients = certificate(t, "relay")
	der, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	require.NoError(t, err)
	asked, lost := 0, errors.New("no key here")
	c := NewCert("*", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]})),
		func(context.Context) ([]byte, error) {
			asked++
			return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), lost
		})
	a := newAgent(t, Config{Roots: pool,
		Resolver: names{addrs: map[string][]netip.Addr{"hub": {netip.MustParseAddr("127.0.0.1")}}},
		Router: router(func(string) (Target, error) {
			return Target{Kind: SMTP, Host: "hub", Port: h.port(), Link: Link{TLS: VerifyTLS, Cert: c}}, nil
		})})
	v := deliver(t, a, jobTo("", "a@x"))[0]
	require.Equal(t, queue.Deferred, v.Outcome)
	require.Contains(t, v.Reply, "route *: the key of its certificate can not be read: no key here")
	lost = nil
	for range 2 {
		v = deliver(t, a, jobTo("", "a@x"))[0]
		require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
		a.pool.flush()
	}
	require.Equal(t, 2, asked)
}
