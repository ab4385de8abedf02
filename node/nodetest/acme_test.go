package nodetest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/stretchr/testify/require"

	"relay/node/config"
)

// startCA runs an ACME server that asks challenges of both kinds at a port, and
// makes certificates that live for so many seconds. TestMain sets its environment.
func startCA(t *testing.T, dns string, port int, life uint64,
	wrap func(http.Handler) http.Handler) (directory, roots string) {
	logger := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	authority := ca.New(logger, store, "", "ecdsa", 0, 1,
		map[string]ca.Profile{"default": {Description: "test", ValidityPeriod: life}})
	validator := va.New(logger, port, port, false, dns, store)
	front := wfe.New(logger, store, validator, authority, nil, false, false, 1, 1)
	server := httptest.NewTLSServer(wrap(front.Handler()))
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t,
		os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	return server.URL + wfe.DirectoryPath, file
}

// The leader orders a certificate; the CA asks another node, and all serve it,
// also when the one that ordered it is gone.
func TestCertificateByACMEIsShared(t *testing.T) {
	t.Parallel()
	port := challengePort(t)
	const host = "mx.example.test"

	var orders atomic.Int32
	names := NewDNS(t)
	ready := make(chan struct{}) // the CA answers when all nodes are there
	directory, roots := startCA(t, names.Addr, port, 90*86400, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-ready:
			case <-r.Context().Done():
			}
			if r.URL.Path == "/order-plz" {
				orders.Add(1)
			}
			located(w, r)
			h.ServeHTTP(w, r)
		})
	})
	c := New(t, Options{Tuning: Quick(), Configure: func(i int, conf *config.Config) {
		conf.TLS.Cert, conf.TLS.Key = "", ""
		conf.ACME = config.ACME{
			Directory: directory, Email: "postmaster@example.test", Hosts: []string{host}, CA: roots,
			TLSListen: net.JoinHostPort("127.0.0."+strconv.Itoa(i+1), strconv.Itoa(port)),
		}
	}})
	leader := c.Leader()
	for i, m := range c.Nodes { // whom the CA asks is not the one that orders
		if m != leader {
			names.Add(t, host+". A 127.0.0."+strconv.Itoa(i+1))
			break
		}
	}
	close(ready)
	c.Eventually(time.Minute, "no certificate", func() bool { return leader.serial(host) != "" })
	want := leader.serial(host)
	for _, m := range c.Nodes {
		c.Eventually(time.Minute, "another certificate", func() bool { return m.serial(host) == want })
	}
	require.EqualValues(t, 1, orders.Load(), "one node orders")
	leader.Kill()
	next := c.Leader()
	c.Eventually(time.Minute, "another certificate", func() bool { return next.serial(host) == want })
	require.EqualValues(t, 1, orders.Load())
	leader.Start()
	c.WaitHealthy()
	c.Verify()
}

// serial is that of the certificate that a node shows for a host; empty: none.
func (m *Member) serial(host string) string {
	conn, err := net.Dial("tcp", m.SMTP)
	if err != nil {
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Minute))
	buf := make([]byte, 4096)
	for _, line := range []string{"", "EHLO c\r\n", "STARTTLS\r\n"} {
		if _, err := io.WriteString(conn, line); err != nil {
			return ""
		}
		if _, err := conn.Read(buf); err != nil { // a node without a leader hangs up
			return ""
		}
	}
	var leaf *x509.Certificate
	secure := tls.Client(conn, &tls.Config{ServerName: host, InsecureSkipVerify: true})
	if secure.Handshake() == nil {
		leaf = secure.ConnectionState().PeerCertificates[0]
	}
	if leaf == nil || leaf.VerifyHostname(host) != nil {
		return ""
	}
	return leaf.SerialNumber.String()
}

// located says where an order is in the answer to its finalisation, as RFC 8555
// §7.4 shows and CAs out there do; this one does not.
func located(w http.ResponseWriter, r *http.Request) {
	if id, ok := strings.CutPrefix(r.URL.Path, "/finalize-order/"); ok {
		w.Header().Set("Location", "https://"+r.Host+"/my-order/"+id)
	}
}

// challengePort is free at 127.0.0.1, and most likely at its neighbours.
func challengePort(t *testing.T) int {
	_, port, err := net.SplitHostPort(freeAddr(t))
	require.NoError(t, err)
	n, err := strconv.Atoi(port)
	require.NoError(t, err)
	return n
}

// Any node that a CA asks answers a challenge of HTTP-01, and no try is wasted
// on a kind that no listener is for.
func TestCertificateByHTTP01(t *testing.T) {
	t.Parallel()
	port, names := challengePort(t), NewDNS(t)
	var orders atomic.Int32
	ready := make(chan struct{}) // the CA answers when all nodes are there
	directory, roots := startCA(t, names.Addr, port, 90*86400, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-ready:
			case <-r.Context().Done():
			}
			if r.URL.Path == "/order-plz" {
				orders.Add(1)
			}
			located(w, r)
			h.ServeHTTP(w, r)
		})
	})
	var hosts []string
	for i := range 3 { // each is at another node
		host := "mx" + strconv.Itoa(i+1) + ".example.test"
		hosts = append(hosts, host)
		names.Add(t, host+". A 127.0.0."+strconv.Itoa(i+1))
	}
	c := New(t, Options{Configure: func(i int, conf *config.Config) {
		conf.TLS.Cert, conf.TLS.Key = "", ""
		conf.ACME = config.ACME{
			Directory: directory, Hosts: hosts, CA: roots,
			HTTPListen: net.JoinHostPort("127.0.0."+strconv.Itoa(i+1), strconv.Itoa(port)),
		}
	}})
	close(ready)
	for _, host := range hosts {
		for _, m := range c.Nodes {
			c.Eventually(time.Minute, "no certificate for "+host, func() bool { return m.serial(host) != "" })
			require.Equal(t, c.Nodes[0].serial(host), m.serial(host))
		}
	}
	require.EqualValues(t, len(hosts), orders.Load(), "one order each")
	res, err := http.Get("http://127.0.0.1:" + strconv.Itoa(port) + "/.well-known/acme-challenge/none")
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusNotFound, res.StatusCode)
}

// A certificate that nears its end is renewed, and all nodes show the new one
// without a restart. While the CA is down the old one stays.
func TestCertificateIsRenewed(t *testing.T) {
	t.Parallel()
	const host = "mx.example.test"
	port, names := challengePort(t), NewDNS(t)
	var down atomic.Bool
	var refused atomic.Int32
	ready := make(chan struct{})
	directory, roots := startCA(t, names.Addr, port, 9, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-ready:
			case <-r.Context().Done():
			}
			if down.Load() {
				refused.Add(1)
				panic(http.ErrAbortHandler) // it hangs up
			}
			located(w, r)
			h.ServeHTTP(w, r)
		})
	})
	names.Add(t, host+". A 127.0.0.1")
	c := New(t, Options{Configure: func(i int, conf *config.Config) {
		conf.TLS.Cert, conf.TLS.Key = "", ""
		conf.ACME = config.ACME{
			Directory: directory, Hosts: []string{host}, CA: roots,
			HTTPListen: net.JoinHostPort("127.0.0."+strconv.Itoa(i+1), strconv.Itoa(port)),
		}
	}})
	close(ready)
	all := func(serial string) bool {
		for _, m := range c.Nodes {
			if m.serial(host) != serial {
				return false
			}
		}
		return true
	}
	leader := c.Leader()
	c.Eventually(time.Minute, "no certificate", func() bool { return leader.serial(host) != "" })
	down.Store(true)
	first := leader.serial(host)
	c.Eventually(time.Minute, "not all show the first certificate", func() bool { return all(first) })
	c.Eventually(time.Minute, "the CA was not asked again", func() bool { return refused.Load() > 2 })
	require.True(t, all(first), "the old one stays")
	c.Eventually(time.Minute, "the operator hears nothing", func() bool {
		s, err := c.Nodes[0].Client().Status(within(t, 3*time.Minute))
		return err == nil && slices.ContainsFunc(s.Problems, func(p string) bool {
			return strings.Contains(p, "the certificate for "+host) && strings.Contains(p, "could not be renewed")
		})
	})
	down.Store(false)
	c.Eventually(time.Minute, "the certificate is not renewed", func() bool {
		next := leader.serial(host)
		return next != "" && next != first && all(next)
	})
	text := metrics(t, leader)
	require.Contains(t, text, `relay_certificate_expires_timestamp_seconds{host="`+host+`",kind="acme"}`)
	require.NotContains(t, text, `relay_acme_orders_total{result="failed"} 0`)
}

// metrics is what a node shows at /metrics.
func metrics(t *testing.T, m *Member) string {
	r, err := http.NewRequestWithContext(within(t, 3*time.Minute), http.MethodGet, m.Admin+"/metrics", nil)
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer test")
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusOK, res.StatusCode)
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(text)
}
