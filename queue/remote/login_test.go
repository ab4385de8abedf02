package remote

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"relay/queue"
	"relay/smtp/sasl"
)

func known(password string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return password, nil }
}

// loginWorld is an agent whose route '*' leads to a hop on loopback with a login.
func loginWorld(t *testing.T, h *nextHop, l *Login) (*Agent, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.WarnLevel)
	return newAgent(t, Config{Log: zap.New(core), Client: patience(30 * time.Second),
		Router: router(func(string) (Target, error) {
			return Target{Kind: SMTP, Host: "127.0.0.1", Port: h.port(), Link: Link{Login: l}}, nil
		})}), logs
}

func count(lines, verb string) (n int) {
	for line := range strings.Lines(lines) {
		if strings.HasPrefix(line, verb) {
			n++
		}
	}
	return n
}

// TestLogin: mail goes in the account's name, one login for a connection.
func TestLogin(t *testing.T) {
	h := newHop(t, map[string]string{"AUTH": "235 2.7.0 welcome"})
	h.ehlo = append(h.ehlo, "AUTH PLAIN LOGIN")
	a, _ := loginWorld(t, h, NewLogin("*", "me", known("secret")))
	for range 2 {
		v := deliver(t, a, jobTo("", "a@x"))[0]
		require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
	}
	require.Contains(t, h.said(), "AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00me\x00secret")))
	require.Equal(t, 1, count(h.said(), "AUTH"))
	require.Zero(t, a.stats.LoginsRefused.Load())
}

// TestRefusedLogin: the mail waits, says which route's login was refused, and no further message tries it until its
// time has come; then it may work.
func TestRefusedLogin(t *testing.T) {
	h := newHop(t, map[string]string{"AUTH": "535 5.7.8 bad password|535 5.7.8 bad password|235 2.7.0 welcome"})
	h.ehlo = append(h.ehlo, "AUTH PLAIN")
	l := NewLogin("far.example", "me", known("secret"))
	a, logs := loginWorld(t, h, l)
	for n := range 3 {
		v := deliver(t, a, jobTo("", "a@x"))[0]
		require.Equal(t, queue.Deferred, v.Outcome)
		require.True(t, v.NextHop, "others for the hop are better not tried")
		require.Contains(t, v.Reply, "route far.example")
		require.Contains(t, v.Reply, "535 5.7.8 bad password")
		require.Equal(t, n > 0, strings.Contains(v.Reply, "the next one is at"), v.Reply)
		require.NotContains(t, v.Reply, "secret")
	}
	require.Equal(t, 1, count(h.said(), "AUTH"))
	require.NotContains(t, h.said(), "MAIL")
	require.EqualValues(t, 1, a.stats.LoginsRefused.Load())
	require.Equal(t, 1, logs.Len())
	require.Equal(t, "far.example", logs.All()[0].ContextMap()["route"])

	due := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		require.WithinDuration(t, l.last.At.Add(l.wait), l.last.Next, time.Millisecond)
		l.last.Next = time.Now()
	}
	due()
	require.Equal(t, queue.Deferred, deliver(t, a, jobTo("", "a@x"))[0].Outcome)
	require.Equal(t, 2*loginWaitFirst, l.wait, "later and later")
	due()
	require.Equal(t, queue.Delivered, deliver(t, a, jobTo("", "a@x"))[0].Outcome)
	require.Zero(t, l.Refused().At)
}

// TestPlainWhereScramIsRefused: it follows once, over a connection that nobody listens to; what works is tried first
// from then on, as hosts count refused logins.
func TestPlainWhereScramIsRefused(t *testing.T) {
	h := newHop(t, map[string]string{"AUTH": "535 5.7.8 no keys|235 welcome|235 welcome|535 no|235 fine"})
	h.ehlo = append(h.ehlo, "AUTH SCRAM-SHA-256 PLAIN")
	l := NewLogin("*", "me", known("secret"))
	a, _ := loginWorld(t, h, l)
	auths := func() (all []string) {
		for line := range strings.Lines(h.said()) {
			if words := strings.Fields(line); words[0] == "AUTH" {
				all = append(all, words[1])
			}
		}
		return all
	}
	require.Equal(t, queue.Delivered, deliver(t, a, jobTo("", "a@x"))[0].Outcome)
	require.Equal(t, []string{"SCRAM-SHA-256", "PLAIN"}, auths())
	a.pool.flush()
	require.Equal(t, queue.Delivered, deliver(t, a, jobTo("", "a@x"))[0].Outcome)
	require.Equal(t, []string{"SCRAM-SHA-256", "PLAIN", "PLAIN"}, auths())
	require.Zero(t, a.stats.LoginsRefused.Load())

	a.pool.flush()
	v := deliver(t, a, jobTo("", "a@x"))[0]
	require.Equal(t, queue.Deferred, v.Outcome)
	require.Len(t, auths(), 4, "nothing follows PLAIN")
	require.EqualValues(t, 1, a.stats.LoginsRefused.Load())
	require.False(t, l.last.At.IsZero())
}

// TestNoPlainInClear: everybody on the way could read it.
func TestNoPlainInClear(t *testing.T) {
	h := newHop(t, map[string]string{"AUTH": "535 5.7.8 no"})
	h.ehlo = append(h.ehlo, "AUTH SCRAM-SHA-256 PLAIN")
	a, _ := loginWorld(t, h, NewLogin("*", "me", known("secret")))
	hops, f := a.find(t.Context(), jobTo("", "a@x"), newDelivery(a, jobTo("", "a@x")))
	require.Nil(t, f)
	c, f := a.dial(t.Context(), key{hop: hops[0]}, false, nil)
	require.Nil(t, f)
	defer c.client.Close()
	scram := sasl.NewScramClient("me", "secret", nil)
	require.NotNil(t, c.plainInstead(scram, "me", "secret"), "loopback")
	require.Nil(t, c.plainInstead(sasl.NewLoginClient("me", "secret"), "me", "secret"))
	c.hop.addr = netip.MustParseAddrPort("192.0.2.1:25")
	require.Nil(t, c.plainInstead(scram, "me", "secret"))
}

// TestRetryOfLogin: an operator's retry ends the wait of a login, but not that of one that was refused just now.
func TestRetryOfLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLogin("*", "me", known("secret"))
		l.Retry()
		require.Nil(t, l.barred())
		l.refused("h", "535 no")
		l.Retry()
		require.NotNil(t, l.barred(), "one command retries many messages")
		time.Sleep(loginAgain)
		l.Retry()
		require.Nil(t, l.barred())
		require.False(t, l.Refused().At.IsZero(), "it is not taken yet")
	})
}

// TestLoginAtOneAddressOnly: a password that one address refuses is not shown to the next.
func TestLoginAtOneAddressOnly(t *testing.T) {
	h := newHop(t, map[string]string{"AUTH": "535 5.7.8 no"})
	h.ehlo = append(h.ehlo, "AUTH PLAIN")
	l := NewLogin("*", "me", known("secret"))
	two := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.1")}
	a := newAgent(t, Config{Resolver: names{addrs: map[string][]netip.Addr{"hub": two}}, Sessions: -1,
		Router: router(func(string) (Target, error) {
			return Target{Kind: SMTP, Host: "hub", Port: h.port(), Link: Link{Login: l}}, nil
		})})
	require.Equal(t, queue.Deferred, deliver(t, a, jobTo("", "a@x"))[0].Outcome)
	conns, _ := h.count()
	require.Equal(t, 1, conns)
}

// TestManyMessagesOneRefusedLogin: what starts together logs in one after the other until the password has proved
// right, so that a wrong one is tried once.
func TestManyMessagesOneRefusedLogin(t *testing.T) {
	h := newHop(t, map[string]string{"AUTH": "535 5.7.8 no"})
	h.ehlo = append(h.ehlo, "AUTH PLAIN")
	a, _ := loginWorld(t, h, NewLogin("*", "me", known("secret")))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { a.Deliver(t.Context(), jobTo("", "a@x")) })
	}
	all.Wait()
	require.Equal(t, 1, count(h.said(), "AUTH"))
}

// TestNoLogin: what says nothing of the password defers and bars nothing.
func TestNoLogin(t *testing.T) {
	for name, c := range map[string]struct {
		ehlo, answer string
		password     func(context.Context) (string, error)
		want         string
	}{
		"not offered":  {"HELP", "", known("p"), "offers none (AUTH)"},
		"no mechanism": {"AUTH GSSAPI NTLM", "", known("p"), "offers GSSAPI NTLM"},
		"for now":      {"AUTH PLAIN", "454 4.7.0 later", known("p"), "454 4.7.0 later"},
		"dropped":      {"AUTH PLAIN", drop, known("p"), "connection failed at the login"},
		"not a login":  {"AUTH PLAIN", "250 fine", known("p"), "250 fine"},
		"key not there": {"AUTH PLAIN", "", func(context.Context) (string, error) { return "", errors.New("no key") },
			"no key"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHop(t, map[string]string{"AUTH": c.answer})
			h.ehlo = append(h.ehlo, c.ehlo)
			l := NewLogin("*", "me", c.password)
			a, _ := loginWorld(t, h, l)
			v := deliver(t, a, jobTo("", "a@x"))[0]
			require.Equal(t, queue.Deferred, v.Outcome)
			require.Contains(t, v.Reply, c.want)
			require.Contains(t, v.Reply, "route *")
			require.NotContains(t, h.said(), "MAIL")
			require.Nil(t, l.barred())
		})
	}
}

// TestLoginNeedsTLS: off loopback a password goes in clear only by a route that says so.
func TestLoginNeedsTLS(t *testing.T) {
	far, near := hop{addr: netip.MustParseAddrPort("192.0.2.1:25")}, hop{addr: netip.MustParseAddrPort("[::1]:25")}
	l := NewLogin("*", "me", known("p"))
	a := newAgent(t, Config{TLS: Off})
	for _, c := range []struct {
		hop  hop
		link Link
		must bool
	}{
		{far, Link{Login: l}, true}, {near, Link{Login: l}, false}, {far, Link{Login: l, TLS: NoTLS}, false},
		{far, Link{Login: l, TLS: AnyTLS}, true}, {far, Link{}, false},
	} {
		require.Equal(t, c.must, a.must(key{hop: c.hop, link: c.link}), "%+v", c)
	}
}

// TestMechanisms: SCRAM first, bound to the channel only where there is no other.
func TestMechanisms(t *testing.T) {
	for offered, want := range map[string]string{
		"AUTH LOGIN PLAIN scram-sha-256": "SCRAM-SHA-256", "AUTH LOGIN PLAIN": "PLAIN", "AUTH LOGIN": "LOGIN",
		"AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256": "SCRAM-SHA-256", "AUTH SCRAM-SHA-256-PLUS LOGIN": "SCRAM-SHA-256-PLUS",
	} {
		h := newHop(t, map[string]string{"AUTH": "535 no"})
		cert, _ := certificate(t, "mx.x")
		h.cert, h.ehlo = cert, append(h.ehlo, offered, "STARTTLS")
		a, _ := loginWorld(t, h, NewLogin("*", "me", known("p")))
		deliver(t, a, jobTo("", "a@x"))
		require.Contains(t, h.said(), "AUTH "+want, offered)
		require.Equal(t, want == "SCRAM-SHA-256", strings.Contains(h.said(), "AUTH SCRAM-SHA-256 "), offered)
	}
}

// TestTokenLogin: a token that the host takes no more is renewed once; a server that gives none bars the route.
func TestTokenLogin(t *testing.T) {
	var asked atomic.Int32
	var no atomic.Bool
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if no.Load() {
			http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"access_token":"token%d"}`, asked.Add(1))
	}))
	defer tokens.Close()
	l := NewTokenLogin("*", "me@x", func(context.Context) ([]byte, error) {
		return fmt.Appendf(nil, `{"token_url":%q,"client_id":"a","client_secret":"b"}`, tokens.URL), nil
	})
	h := newHop(t, map[string]string{"AUTH": "235 welcome|235 welcome|535 5.7.8 no|235 welcome|535 5.7.8 no"})
	h.ehlo = append(h.ehlo, "AUTH PLAIN XOAUTH2")
	a, _ := loginWorld(t, h, l)
	send := func() queue.Verdict {
		a.pool.flush()
		return deliver(t, a, jobTo("", "a@x"))[0]
	}
	for range 3 {
		v := send()
		require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
	}
	said := func(n int) string {
		return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "user=me@x\x01auth=Bearer token%d\x01\x01", n))
	}
	require.Equal(t, 3, strings.Count(h.said(), said(1)), "it is good for several connections")
	require.Equal(t, 1, strings.Count(h.said(), said(2)))

	v := send() // token2 is refused, and so is token3
	require.Equal(t, queue.Deferred, v.Outcome)
	require.Contains(t, v.Reply, "route *: the login as me@x was refused: 535")
	require.EqualValues(t, 3, asked.Load())
	require.EqualValues(t, 1, a.stats.LoginsRefused.Load())
	no.Store(true)
	l.mu.Lock()
	l.last.Next = time.Now()
	l.mu.Unlock()
	v = send()
	require.Equal(t, queue.Deferred, v.Outcome)
	require.Contains(t, v.Reply, "401 Unauthorized invalid_client")
	require.Contains(t, l.Refused().Host, "127.0.0.1:")
	require.NotNil(t, l.barred())
}

// TestTokenMechanisms: OAUTHBEARER before XOAUTH2, and nothing else.
func TestTokenMechanisms(t *testing.T) {
	for offered, want := range map[string]string{
		"AUTH PLAIN XOAUTH2 OAUTHBEARER": "OAUTHBEARER", "AUTH xoauth2": "XOAUTH2", "AUTH PLAIN LOGIN": "", "HELP": "",
	} {
		h := newHop(t, nil)
		h.ehlo = append(h.ehlo, offered)
		hops := []hop{hopOf(h)}
		a := newAgent(t, Config{})
		c, f := a.dial(t.Context(), key{hop: hops[0]}, false, nil)
		require.Nil(t, f)
		m, why := tokenMechanism(c.client, "u", "t")
		if want == "" {
			require.Nil(t, m)
			require.NotEmpty(t, why)
		} else {
			name, _, err := m.Start()
			require.NoError(t, err)
			require.Equal(t, want, name)
		}
		_ = c.client.Close()
	}
}
