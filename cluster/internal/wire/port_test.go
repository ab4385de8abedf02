package wire_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"relay/cluster/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testCA makes identities.
type testCA struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	from time.Duration // when leaves begin, from now
	life time.Duration
}

func newCA(t *testing.T) *testCA {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().AddDate(-10, 0, 0), NotAfter: time.Now().AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &testCA{t, cert, key, -time.Hour, 2 * time.Hour}
}

func (ca *testCA) identity(cluster string, uris ...*url.URL) wire.Identity {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(ca.t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: uris,
		NotBefore: time.Now().Add(ca.from), NotAfter: time.Now().Add(ca.from + ca.life),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, &key.PublicKey, ca.key)
	require.NoError(ca.t, err)
	node := ""
	if len(uris) > 0 {
		node = uris[0].Path[1:]
	}
	return wire.Identity{
		Cluster: cluster, Node: node, CAs: []*x509.Certificate{ca.cert},
		Cert: tls.Certificate{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: key},
	}
}

func (ca *testCA) node(name string) wire.Identity {
	return ca.identity("c1", wire.NodeURI("c1", name))
}

func port(t *testing.T, id wire.Identity, allow func(p wire.Peer, proto string) error) *wire.Port {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := wire.New(wire.Options{Listener: l, Identity: id, Allow: allow, Log: zap.NewNop()})
	p.Start()
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func TestServicesShareThePort(t *testing.T) {
	ca := newCA(t)
	a, b := port(t, ca.node("a"), nil), port(t, ca.node("b"), nil)
	for _, proto := range []string{wire.Raft, wire.RPC, wire.Bulk} {
		out, err := a.Dial(t.Context(), proto, "b", b.Addr().String())
		require.NoError(t, err)
		in, err := b.Listen(proto).Accept()
		require.NoError(t, err)
		require.Equal(t, "a", in.(*wire.Conn).Peer)
		require.Equal(t, proto, in.(*wire.Conn).Proto)
		_, err = out.Write([]byte("hello"))
		require.NoError(t, err)
		got := make([]byte, 5)
		_, err = io.ReadFull(in, got)
		require.NoError(t, err)
		require.NoError(t, out.Close())
		require.NoError(t, out.Close())
		_ = in.Close()
	}
	require.Equal(t, uint64(3), b.Stats.Accepted.Load())
}

func TestWhoIsRefused(t *testing.T) {
	ca, foreign := newCA(t), newCA(t)
	b := port(t, ca.node("b"), func(p wire.Peer, _ string) error {
		if p.Node == "gone" {
			return errors.New("not a member")
		}
		return nil
	})
	addr := b.Addr().String()
	for name, id := range map[string]wire.Identity{
		"of another CA":      foreign.node("a"),
		"of another cluster": ca.identity("c2", wire.NodeURI("c2", "a")),
		"without a name":     ca.identity("c1"),
		"with two names":     ca.identity("c1", wire.NodeURI("c1", "a"), wire.NodeURI("c1", "x")),
		"no member":          ca.node("gone"),
	} {
		t.Run(name, func(t *testing.T) {
			before := b.Stats.Refused.Load()
			p := port(t, id, nil)
			c, err := p.Dial(t.Context(), wire.RPC, "b", addr)
			if err == nil { // TLS 1.3: the client is done before the server has judged it
				_, err = c.Read(make([]byte, 1))
				_ = c.Close()
			}
			require.Error(t, err)
			require.Eventually(t, func() bool { return b.Stats.Refused.Load() > before }, time.Minute, time.Millisecond)
		})
	}
	a := port(t, ca.node("a"), nil)
	_, err := a.Dial(t.Context(), wire.RPC, "c", addr)
	require.ErrorIs(t, err, wire.ErrPeer, "b answers where c is looked for")
}

func TestStrangersReachTheDoorAndNothingElse(t *testing.T) {
	ca := newCA(t)
	b := port(t, ca.node("b"), nil)
	sum := sha256.Sum256(ca.cert.Raw)
	c, got, err := wire.DialJoin(t.Context(), b.Addr().String(), sum, nil, nil)
	require.NoError(t, err)
	require.True(t, got.Equal(ca.cert))
	in, err := b.Listen(wire.Join).Accept()
	require.NoError(t, err)
	require.Empty(t, in.(*wire.Conn).Peer)
	_ = c.Close()
	_ = in.Close()

	_, _, err = wire.DialJoin(t.Context(), b.Addr().String(), [32]byte{1}, nil, nil)
	require.ErrorIs(t, err, wire.ErrFingerprint)

	for _, protos := range [][]string{{wire.RPC}, {wire.Join, wire.RPC}, nil, {"h2"}} {
		raw, err := tls.Dial("tcp", b.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: protos})
		if err == nil {
			_, err = raw.Read(make([]byte, 1))
			_ = raw.Close()
		}
		require.Error(t, err, "%v without a certificate", protos)
	}
}

func TestSilentPeerHoldsNobodyUp(t *testing.T) {
	ca := newCA(t)
	a, b := port(t, ca.node("a"), nil), port(t, ca.node("b"), nil)
	for range 20 {
		c, err := net.Dial("tcp", b.Addr().String()) // and says nothing
		require.NoError(t, err)
		defer c.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := a.Dial(ctx, wire.RPC, "b", b.Addr().String())
	require.NoError(t, err)
	in, err := b.Listen(wire.RPC).Accept()
	require.NoError(t, err)
	_ = c.Close()
	_ = in.Close()
}

func TestCutOff(t *testing.T) {
	ca := newCA(t)
	a, b := port(t, ca.node("a"), nil), port(t, ca.node("b"), nil)
	out, err := a.Dial(t.Context(), wire.Raft, "b", b.Addr().String())
	require.NoError(t, err)
	defer out.Close()
	in, err := b.Listen(wire.Raft).Accept()
	require.NoError(t, err)
	defer in.Close()
	b.CutOff(func(l wire.Link) bool { return l.Peer.Node == "x" })
	_, err = in.Write([]byte("1"))
	require.NoError(t, err)
	b.CutOff(func(l wire.Link) bool { return l.Peer.Node == "a" && l.Proto == wire.RPC })
	_, err = in.Write([]byte("2"))
	require.NoError(t, err)
	b.CutOff(func(l wire.Link) bool { return l.Peer.Node == "a" && l.Proto == wire.Raft })
	_, err = in.Read(make([]byte, 1))
	require.Error(t, err)
	require.NoError(t, b.Close())
	_, err = b.Listen(wire.Raft).Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = b.Dial(t.Context(), wire.Raft, "a", a.Addr().String())
	require.ErrorIs(t, err, net.ErrClosed)
}

// sum is the fingerprint that a token would have.
func (ca *testCA) sum() [32]byte { return sha256.Sum256(ca.cert.Raw) }
