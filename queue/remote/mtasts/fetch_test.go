package mtasts

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/queue/remote/webguard"
)

// webServer is the web server of a domain's policy on loopback.
func webServer(t *testing.T, name string, h http.HandlerFunc) (*webguard.Client, int) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	x := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, x, x, &key.PublicKey, key)
	require.NoError(t, err)
	x, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(x)
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	web := webguard.New(webguard.Options{Roots: roots, Loopback: true,
		Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
			require.Equal(t, "mta-sts.x.example", host)
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		}})
	return web, s.Listener.Addr().(*net.TCPAddr).Port
}

func TestFetch(t *testing.T) {
	const good = "version: STSv1\r\nmode: testing\r\nmax_age: 86400\r\nmx: mx.x.example\r\n"
	kind := "text/plain; charset=utf-8"
	answer := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", kind)
		if r.URL.Path == "/.well-known/mta-sts.txt" {
			_, _ = io.WriteString(w, good)
		}
	}
	web, port := webServer(t, "mta-sts.x.example", answer)
	p, err := Fetch(t.Context(), web, domain, port)
	require.NoError(t, err)
	require.Equal(t, &Policy{Mode: Testing, MaxAge: 24 * time.Hour, MX: []string{"mx.x.example"}}, p)
	kind = "text/html"
	_, err = Fetch(t.Context(), web, domain, port)
	require.ErrorContains(t, err, "is not text/plain")
	long := strings.Repeat("a.", 130) + "b"
	for _, odd := range []string{"x.example/a", "x@127.0.0.1", "x.example:1", "", "x..y", long} {
		_, err = Fetch(t.Context(), web, odd, port)
		require.ErrorContains(t, err, "is not the name of a web server", odd)
	}
	for name, c := range map[string]struct {
		cert, want string
		h          http.HandlerFunc
	}{
		"another's certificate": {"x.example", "certificate", answer},
		"sent away": {"mta-sts.x.example", "answered 301", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://www.x.example/", http.StatusMovedPermanently)
		}},
		"not there": {"mta-sts.x.example", "answered 404", http.NotFound},
		"too long": {"mta-sts.x.example", "larger than 64 KiB", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, good+strings.Repeat("x: y\n", webguard.MaxAnswer/5))
		}},
	} {
		web, port := webServer(t, c.cert, c.h)
		_, err := Fetch(t.Context(), web, domain, port)
		require.ErrorContains(t, err, c.want, name)
	}
}
