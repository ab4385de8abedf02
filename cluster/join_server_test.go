package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/datadir"
	"relay/cluster/internal/wire"
	"relay/cluster/pki"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

// alone runs a cluster of one node.
func alone(t *testing.T) *Cluster {
	dir := filepath.Join(t.TempDir(), "data")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	o := toMake(dir)
	o.Advertise = l.Addr().String()
	require.NoError(t, datadir.Init(t.Context(), o))
	c, err := Open(Options{
		Dir: dir, Listener: l, Log: zap.NewNop(), Tuning: tuning.Tuning{GrowTo: -1}, Fatal: func(err error) { t.Error(err) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Crash(nil)) })
	require.Eventually(t, func() bool { return c.Ready() == nil && c.At(2) }, 20*time.Second, time.Millisecond)
	return c
}

func (c *Cluster) tokenForTest(t *testing.T) pki.Token {
	s, err := c.Token(t.Context(), 1, time.Hour, &pb.Admin{Who: "test"})
	require.NoError(t, err)
	token, err := pki.ParseToken(s)
	require.NoError(t, err)
	return token
}

// askRaw puts one request to the join server and returns the answer.
func askRaw(
	t *testing.T, c *Cluster, fingerprint [32]byte, me *tls.Certificate, req joinRequest,
) (reply joinReply, err error) {
	conn, _, err := wire.DialJoin(t.Context(), c.Addr().String(), fingerprint, me, nil)
	require.NoError(t, err)
	defer conn.Close()
	req.MinVersion, req.MaxVersion = spool.MinVersion, spool.MaxVersion
	require.NoError(t, writeJSON(conn, req))
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	return reply, readJSON(conn, &reply)
}

// TestDoorTellsNothingWithoutAToken: whatever a stranger asks, the answer is the
// same, comes at once, and leaves nothing in the log.
func TestDoorTellsNothingWithoutAToken(t *testing.T) {
	c := alone(t)
	fp := c.tokenForTest(t).Fingerprint
	_, csr, err := pki.NewRequest("n2")
	require.NoError(t, err)
	secret := make([]byte, pki.SecretSize)
	for name, req := range map[string]joinRequest{
		"a new node": {Secret: secret, Request: []byte("1"), Node: "n2", Advertise: "127.0.0.1:1", CSR: csr,
			MaxVersion: spool.MaxVersion},
		"a member that runs": {Secret: secret, Request: []byte("1"), Node: "n1", Advertise: "127.0.0.1:1", CSR: csr,
			MaxVersion: spool.MaxVersion},
		"a bad name": {Secret: secret, Request: []byte("1"), Node: "a b", Advertise: "127.0.0.1:1", CSR: csr,
			MaxVersion: spool.MaxVersion},
		"a bad request":  {Secret: secret, Request: []byte("1"), Node: "n2", Advertise: "127.0.0.1:1", CSR: []byte("x")},
		"a short secret": {Secret: []byte("x"), Request: []byte("1"), Node: "n1"},
		"nothing":        {},
	} {
		began, before := time.Now(), c.rejections(t)
		reply, err := askRaw(t, c, fp, nil, req)
		require.NoError(t, err, name)
		require.Equal(t, joinReply{Kind: kindToken, Refused: errNoToken.Error()}, reply, name)
		require.Less(t, time.Since(began), c.t.Lease, "%s: it did not wait for the death of a member", name)
		require.Equal(t, before, c.rejections(t), "%s: it wrote to the log", name)
	}
	_, err = askRaw(t, c, fp, nil, joinRequest{Asks: asksMember, Node: "n1"})
	require.Error(t, err, "who has no certificate is not told who is a member")
	me, err := c.id.Wire()
	require.NoError(t, err)
	reply, err := askRaw(t, c, fp, &me.Cert, joinRequest{Asks: asksMember, Node: "n9"})
	require.NoError(t, err)
	require.Equal(t, joinReply{Kind: kindKnown}, reply, "a node is told of itself, whatever name it says")
}

// rejections is how many answers to admin commands are remembered: a join that
// reaches the log leaves one.
func (c *Cluster) rejections(t *testing.T) (n int) {
	for _, kind := range []byte("qt") {
		require.NoError(t, c.store.View(func(v spool.View) error {
			return v.R.Scan([]byte{kind}, []byte{kind + 1}, func(_, _ []byte) bool { n++; return true })
		}))
	}
	return n
}

// TestDoorTakesPlainKeysOnly: a certificate is made for a P-256 key and no other,
// and a refused request costs no use of the token.
func TestDoorTakesPlainKeysOnly(t *testing.T) {
	c := alone(t)
	token := c.tokenForTest(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	for name, key := range map[string]any{"P-384": p384, "RSA": long} {
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		require.NoError(t, err)
		reply, err := askRaw(t, c, token.Fingerprint, nil, joinRequest{
			Secret: token.Secret[:], Request: []byte(name), Node: "n2", Advertise: "127.0.0.1:1", CSR: csr,
			MaxVersion: spool.MaxVersion,
		})
		require.NoError(t, err)
		require.Contains(t, reply.Refused, "P-256", name)
		require.Equal(t, kindToken, reply.Kind)
	}
	_, csr, err := pki.NewRequest("n2")
	require.NoError(t, err)
	req := joinRequest{Secret: token.Secret[:], Request: []byte("again"), Node: "n2", Advertise: "127.0.0.1:1", CSR: csr,
		MaxVersion: spool.MaxVersion}
	for range 2 {
		reply, err := askRaw(t, c, token.Fingerprint, nil, req)
		require.NoError(t, err)
		require.Empty(t, reply.Refused, "one use, however often the answer is lost")
		require.NotEmpty(t, reply.Cert)
	}
	req.Request = []byte("another")
	reply, err := askRaw(t, c, token.Fingerprint, nil, req)
	require.NoError(t, err)
	require.Equal(t, errNoToken.Error(), reply.Refused)
}

// TestSilentStrangersDoNotCloseTheDoor: those who come in and say nothing hold no
// place that a node with a token needs.
func TestSilentStrangersDoNotCloseTheDoor(t *testing.T) {
	c := alone(t)
	token := c.tokenForTest(t)
	for range 3 * joinClients {
		conn, _, err := wire.DialJoin(t.Context(), c.Addr().String(), token.Fingerprint, nil, nil)
		require.NoError(t, err)
		defer conn.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, Join(ctx, JoinOptions{
		ID: "n2", Dir: filepath.Join(t.TempDir(), "data"), Advertise: "127.0.0.1:1", Token: token.String(),
		Addr: c.Addr().String(), Log: zap.NewNop(),
	}))
}
