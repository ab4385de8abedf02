package e2e

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// credential is what identity.json says that a node shows and trusts.
type credential struct {
	CA   string `json:"ca"`
	Next string `json:"ca_next"`
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

func (d *Dev) credential(node int) (c credential) {
	d.t.Helper()
	data, err := os.ReadFile(filepath.Join(d.Dir, "n"+itoa(node), "identity.json"))
	require.NoError(d.t, err)
	require.NoError(d.t, json.Unmarshal(data, &c))
	return c
}

// TestRotationAndRemoval: the CA of the cluster port is changed while mail flows,
// and n3 is removed while its process lives. The former certificate, and then the
// one of the removed node, open nothing. No mail is lost or doubled, and no mailbox is
// held twice.
func TestRotationAndRemoval(t *testing.T) {
	d := Start(t, "--restart-after", "0")
	mail, fight, accounts := d.busy()
	var former [4]credential
	for node := 1; node <= 3; node++ {
		former[node] = d.credential(node)
	}
	require.NoError(t, d.opens(1, "relay-rpc/1", former[3]))
	began := time.Now()
	d.Ctl("cluster", "rotate-ca")
	d.Await(60*time.Second, "every node trusts the new CA alone", func() bool {
		for node := 1; node <= 3; node++ {
			now := d.credential(node)
			if now.CA == former[node].CA || now.Next != "" || now.Cert == former[node].Cert || !d.rotated(node) {
				return false
			}
		}
		return true
	})
	t.Logf("the rotation ended after %s", seconds(time.Since(began)))
	require.Equal(t, d.credential(1).CA, d.credential(2).CA)
	require.Equal(t, d.credential(1).CA, d.credential(3).CA)
	d.healthy(60 * time.Second)
	d.verify()
	shut(t, d, former[3])

	last := d.credential(3)
	require.NoError(t, d.opens(1, "relay-rpc/1", last))
	began = time.Now()
	d.Ctl("node", "rm", "n3", "--yes")
	line := d.ends(3, 60*time.Second)
	t.Logf("n3 ended %s after its removal began: %s", seconds(time.Since(began)), line)
	require.Regexp(t, `^relayd: cluster: this node is no member of its cluster any more: .*relayd join`, line)
	for node := 1; node <= 2; node++ {
		d.Await(60*time.Second, "two nodes are healthy", func() bool {
			s, err := d.status(node)
			return err == nil && s.Healthy && len(s.Nodes) == 2
		})
	}
	shut(t, d, last)
	all, r := mail(), fight()
	r.check(t)
	d.drained(1, 60*time.Second)
	(&ledger{t: t, d: d, copies: map[copyOf]int{}}).check(all, accounts, 0)
	d.Ctl("verify", "--bodies")
}

// rotated reports whether a node says that no rotation is under way.
func (d *Dev) rotated(node int) bool {
	var s struct{ Rotation string }
	return d.call(node, http.MethodGet, "/v1/status", nil, &s) == nil && s.Rotation == ""
}

// shut wants that no service of members at n1 and n2 opens for a certificate.
func shut(t *testing.T, d *Dev, c credential) {
	t.Helper()
	for node := 1; node <= 2; node++ {
		for _, service := range []string{"relay-raft/1", "relay-rpc/1", "relay-bulk/1"} {
			err := d.opens(node, service, c)
			require.Error(t, err, "%s of n%d", service, node)
			require.False(t, errors.Is(err, os.ErrDeadlineExceeded), "%s of n%d holds the connection", service, node)
		}
	}
}

// opens connects to a service of the cluster port by a certificate, and returns
// nil when the service has answered. A refusal comes after TLS 1.3's handshake.
func (d *Dev) opens(node int, service string, c credential) error {
	pair, err := tls.X509KeyPair([]byte(c.Cert), []byte(c.Key))
	require.NoError(d.t, err)
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 15 * time.Second}, "tcp", d.Addr(node, clusterPort), &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{service}, Certificates: []tls.Certificate{pair},
		InsecureSkipVerify: true, // whom we reach does not matter
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(15 * time.Second))
	// The preface of HTTP/2, with empty settings.
	if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}
