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

// startCA runs an ACME server that asks challenges at a port.
func startCA(t *testing.T, dns string, port int, wrap func(http.Handler) http.Handler) (directory, roots string) {
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "0")
	logger := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	authority := ca.New(logger, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "test", ValidityPeriod: 90 * 86400}})
	validator := va.New(logger, 0, port, false, dns, store)
	front := wfe.New(logger, store, validator, authority, nil, false, false, 1, 1)
	server := httptest.NewTLSServer(wrap(front.Handler()))
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	return server.URL + wfe.DirectoryPath, file
}

// The leader orders a certificate; the CA asks another node, and all serve it,
// also when the one that ordered it is gone.
func TestCertificateByACMEIsShared(t *testing.T) {
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := probe.Addr().(*net.TCPAddr).Port
	require.NoError(t, probe.Close())
	const host = "mx.example.test"

	var orders atomic.Int32
	names := NewDNS(t)
	ready := make(chan struct{}) // the CA answers when all nodes are there
	directory, roots := startCA(t, names.Addr, port, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-ready:
			case <-r.Context().Done():
			}
			if r.URL.Path == "/order-plz" {
				orders.Add(1)
			}
			// RFC 8555 §7.4 shows where an order is in the answer to its finalisation,
			// and CAs out there say it; this one does not.
			if id, ok := strings.CutPrefix(r.URL.Path, "/finalize-order/"); ok {
				w.Header().Set("Location", "https://"+r.Host+"/my-order/"+id)
			}
			h.ServeHTTP(w, r)
		})
	})
	c := New(t, Options{Configure: func(i int, conf *config.Config) {
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
	serial := func(m *Member) string {
		conn, err := net.Dial("tcp", m.SMTP)
		if err != nil {
			return ""
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
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
	c.Eventually(30*time.Second, "no certificate", func() bool { return serial(leader) != "" })
	want := serial(leader)
	for _, m := range c.Nodes {
		c.Eventually(10*time.Second, "another certificate", func() bool { return serial(m) == want })
	}
	require.EqualValues(t, 1, orders.Load(), "one node orders")
	leader.Kill()
	next := c.Leader()
	c.Eventually(10*time.Second, "another certificate", func() bool { return serial(next) == want })
	require.EqualValues(t, 1, orders.Load())
	leader.Start()
	c.WaitHealthy()
	c.Verify()
}
