package nodetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/config"
)

// webServer is a web server on loopback for a name, and a file with its CA.
func webServer(t *testing.T, name string, h http.HandlerFunc) (port int, ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	x := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, x, x, &key.PublicKey, key)
	require.NoError(t, err)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).Port, ca
}

// TestPoliciesOfDomains: a domain's MTA-STS policy is fetched once, all nodes have it, and mail waits for hosts that
// meet it. Another domain, without one, gets its mail.
func TestPoliciesOfDomains(t *testing.T) {
	t.Parallel()
	var fetched atomic.Int32
	port, ca := webServer(t, "mta-sts.sts.example", func(w http.ResponseWriter, _ *http.Request) {
		fetched.Add(1)
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(w, "version: STSv1\nmode: enforce\nmax_age: 86400\nmx: *.sts.example\n")
	})
	sink := NewSink(t, "127.0.0.1:0")
	_, hop, err := net.SplitHostPort(hopWith(t, sink, evilPair(t, func(*x509.Certificate) {})))
	require.NoError(t, err)
	c := New(t, Options{Nodes: 2, Configure: func(_ int, conf *config.Config) {
		conf.Delivery.MTASTSPort, conf.Delivery.HTTPSCA = port, ca
		conf.Delivery.TLSReports = true
		_, err := fmt.Sscan(hop, &conf.Delivery.Port)
		require.NoError(t, err)
	}})
	c.DNS.Add(t, "sts.example. MX 10 mx.sts.example.", "mx.sts.example. A 127.0.0.1", "mta-sts.sts.example. A 127.0.0.1",
		`_mta-sts.sts.example. TXT "v=STSv1; id=20261201;"`, "none.example. MX 10 mx.sts.example.")
	for _, domain := range []string{"sts.example", "none.example"} { // all else goes to a sink
		require.NoError(t, c.Nodes[0].Client().SetRoute(t.Context(), admin.By{Why: "test"},
			admin.Route{Domain: domain, Target: "mx"}))
	}
	waits := func(m *Member) {
		id := m.MustSend("s@far.example", "x@sts.example", "Subject: policy\r\n\r\ntext\r\n")
		c.Eventually(time.Minute, "no attempt", func() bool {
			trace, err := m.Client().Trace(t.Context(), id)
			return err == nil && strings.Contains(fmt.Sprint(trace), "4.7.5 TLS failed by MTA-STS: tls: failed to verify")
		})
	}
	waits(c.Nodes[0])
	for _, m := range c.Nodes {
		c.Eventually(time.Minute, "no policy", func() bool {
			found := false
			err := m.Node().Cluster().View(func(v spool.View) (err error) {
				_, found, err = v.Policy("sts.example")
				return err
			})
			return err == nil && found
		})
	}
	require.EqualValues(t, 1, fetched.Load())
	waits(c.Nodes[1])
	require.EqualValues(t, 1, fetched.Load(), "the other node has it from the cluster")
	c.Nodes[0].MustSend("s@far.example", "x@none.example", "Subject: none\r\n\r\ntext\r\n")
	c.Eventually(time.Minute, "nothing came", func() bool { return len(sink.Got()) == 1 })
	c.Nodes[1].Stop() // which leaves what it has counted in the cluster
	c.Eventually(time.Minute, "no counts", func() bool {
		found := ""
		err := c.Nodes[0].Node().Cluster().View(func(v spool.View) error {
			return v.TLS(func(one *pb.Tls) { found += one.Domain + " " + string(one.Counts) })
		})
		return err == nil && strings.Contains(found, `sts.example [{"policy":{"policy-type":"sts"`)
	})
	c.Nodes[1].Start()
	c.Nodes[1].WaitReady()
	c.Verify()
}
