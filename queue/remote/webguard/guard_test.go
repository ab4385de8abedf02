package webguard

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPublic(t *testing.T) {
	for text, want := range map[string]bool{
		"8.8.8.8": true, "2a00:1450::1": true, "64:ff9b::808:808": true, "2002:808:808::1": true, "::ffff:8.8.8.8": true,
		"127.0.0.1": false, "127.9.9.9": false, "10.1.2.3": false, "172.16.0.1": false, "192.168.0.1": false,
		"169.254.169.254": false, "100.64.0.1": false, "0.0.0.0": false, "0.1.2.3": false, "224.0.0.1": false,
		"255.255.255.255": false, "240.0.0.1": false, "192.0.2.1": false, "198.18.0.1": false, "192.0.0.8": false,
		"::1": false, "::": false, "fe80::1": false, "fe80::1%eth0": false, "fc00::1": false, "fd12::1": false,
		"fec0::1": false, "ff02::1": false, "2001:db8::1": false, "2001::1": false, "100::1": false,
		"::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "::7f00:1": false, "64:ff9b::7f00:1": false,
		"64:ff9b::a00:1": false, "64:ff9b::a9fe:a9fe": false, "64:ff9b:1::808:808": false, "2002:7f00:1::": false,
		"2002:a00:1::1": false, "2a00:1450::1%1": false,
	} {
		require.Equal(t, want, Public(netip.MustParseAddr(text)), text)
	}
	require.False(t, Public(netip.Addr{}))
}

// site is a web server on loopback, with a client whose DNS says so.
func site(t *testing.T, h http.HandlerFunc, loopback bool, addrs ...string) (*Client, string) {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	c := New(Options{Roots: roots, Loopback: loopback, Resolve: func(context.Context, string) ([]netip.Addr, error) {
		var all []netip.Addr
		for _, a := range addrs {
			all = append(all, netip.MustParseAddr(a))
		}
		return all, nil
	}})
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	require.NoError(t, err)
	return c, "https://example.com:" + port // a name that httptest's certificate has
}

func ask(t *testing.T, c *Client, url string) (*http.Response, []byte, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	require.NoError(t, err)
	return c.Do(r)
}

func TestAnswers(t *testing.T) {
	c, url := site(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/long":
			_, _ = io.WriteString(w, strings.Repeat("x", MaxAnswer+1))
		case "/whole":
			_, _ = io.WriteString(w, strings.Repeat("x", MaxAnswer))
		case "/away":
			http.Redirect(w, r, "/whole", http.StatusFound)
		}
	}, true, "10.0.0.1", "127.0.0.1")
	_, body, err := ask(t, c, url+"/whole")
	require.NoError(t, err)
	require.Len(t, body, MaxAnswer)
	_, _, err = ask(t, c, url+"/long")
	require.ErrorIs(t, err, ErrTooLong)
	resp, _, err := ask(t, c, url+"/away")
	require.NoError(t, err)
	require.Equal(t, http.StatusFound, resp.StatusCode, "it is not followed")
}

// TestForbidden: loopback is out of reach but for a test's client, by name and by number; so is the rest.
func TestForbidden(t *testing.T) {
	answer := func(http.ResponseWriter, *http.Request) { t.Error("it was asked") }
	c, url := site(t, answer, false, "127.0.0.1", "::1", "10.0.0.1")
	_, _, err := ask(t, c, url)
	require.ErrorIs(t, err, ErrForbidden)
	for _, host := range []string{"127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "169.254.169.254"} {
		_, _, err = ask(t, c, strings.Replace(url, "example.com", host, 1))
		require.ErrorIs(t, err, ErrForbidden, host)
	}
	require.ErrorIs(t, dialer{}.control("tcp4", "127.0.0.1:443", nil), ErrForbidden)
	require.ErrorIs(t, dialer{}.control("tcp4", "nonsense", nil), ErrForbidden)
	require.NoError(t, dialer{}.control("tcp4", "8.8.8.8:443", nil))
	for _, bad := range []string{strings.Replace(url, "https", "http", 1), strings.Replace(url, "//", "//u:p@", 1)} {
		_, _, err = ask(t, c, bad)
		require.ErrorContains(t, err, "is not a plain https address")
	}
	failed := errors.New("no DNS")
	c = New(Options{Resolve: func(context.Context, string) ([]netip.Addr, error) { return nil, failed }})
	_, _, err = ask(t, c, url)
	require.ErrorIs(t, err, failed)
}

// TestProxiesAreNotUsed: a proxy of the environment would ask for us, unguarded.
func TestProxiesAreNotUsed(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:9")
	c, url := site(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "direct") }, true, "127.0.0.1")
	_, body, err := ask(t, c, url)
	require.NoError(t, err)
	require.Equal(t, "direct", string(body))
}
