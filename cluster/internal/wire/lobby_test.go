package wire_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"relay/cluster/internal/wire"
)

// comes is a connection that comes from an address and says nothing.
type comes struct {
	net.Conn
	from net.Addr
}

func (c comes) RemoteAddr() net.Addr { return c.from }

// guests brings connections from an address; the test holds the far ends.
func guest(t *testing.T, from string) (near comes, far net.Conn) {
	a, err := net.ResolveTCPAddr("tcp", from)
	require.NoError(t, err)
	one, other := net.Pipe()
	t.Cleanup(func() { _, _ = one.Close(), other.Close() })
	return comes{one, a}, other
}

func open(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, context.DeadlineExceeded) || isTimeout(err)
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func TestLobbyIsNeverFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := wire.NewLobby(4, 2, 2)
		enter := func(from string) (*wire.Guest, net.Conn) {
			near, far := guest(t, from)
			return l.Enter(near, time.Minute, time.Minute), far
		}
		_, a1 := enter("10.0.0.1:1")
		spoke, a2 := enter("10.0.0.1:2")
		go func() { _, _ = a1.Write(nil) }()
		_, a3 := enter("10.0.0.1:3")
		require.False(t, open(a1), "one address holds no more than its share")
		require.True(t, open(a2) && open(a3))

		go func() { _, _ = a2.Write([]byte("x")) }()
		_, err := spoke.Read(make([]byte, 1))
		require.NoError(t, err)
		_, b1 := enter("10.0.0.2:1")
		_, b2 := enter("[2001:db8::1]:1")
		_, b3 := enter("10.0.0.4:1")
		require.True(t, open(a2), "it has spoken: those who have not go first")
		require.False(t, open(a3))
		require.True(t, open(b1) && open(b2) && open(b3))

		l.Trust(&net.TCPAddr{IP: net.IPv4(10, 0, 0, 9)})
		_, m1 := enter("10.0.0.9:1")
		_, m2 := enter("10.0.0.9:2")
		require.True(t, open(m1) && open(m2) && open(b1) && open(b2) && open(b3), "room is kept for members")
		_, c1 := enter("[2001:db8::2]:1")
		_, c2 := enter("[2001:db8::3]:1")
		require.False(t, open(b2), "a network of 64 bits is one address")
		require.False(t, open(c1) && open(c2) && open(b1), "and strangers have no more than theirs")
		require.True(t, open(m1) && open(m2))
	})
}

func TestGuestMustSpeakSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := wire.NewLobby(4, 4, 4)
		near, _ := guest(t, "10.0.0.1:1")
		began := time.Now()
		_, err := l.Enter(near, 3*time.Second, 10*time.Second).Read(make([]byte, 1))
		require.True(t, isTimeout(err))
		require.Equal(t, 3*time.Second, time.Since(began))

		near, far := guest(t, "10.0.0.1:1")
		began = time.Now()
		g := l.Enter(near, 3*time.Second, 10*time.Second)
		go func() { _, _ = far.Write([]byte("x")) }()
		_, err = g.Read(make([]byte, 1))
		require.NoError(t, err)
		_, err = g.Read(make([]byte, 1))
		require.True(t, isTimeout(err))
		require.Equal(t, 10*time.Second, time.Since(began), "and end soon")

		near, far = guest(t, "10.0.0.1:1")
		g = l.Enter(near, 3*time.Second, 10*time.Second)
		l.Leave(g)
		go func() {
			time.Sleep(time.Hour)
			_, _ = far.Write([]byte("x"))
		}()
		_, err = g.Read(make([]byte, 1))
		require.NoError(t, err, "who has shown who it is has no deadline")
	})
}

// TestHalfOpenConnectionsDoNotCloseThePort: more than the port has places for,
// silent ones and such as stop in the middle of the handshake, from many
// addresses; a member comes in, and the log has few lines.
func TestHalfOpenConnectionsDoNotCloseThePort(t *testing.T) {
	core, lines := observer.New(zapcore.WarnLevel)
	ca := newCA(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := wire.New(wire.Options{Listener: l, Identity: ca.node("b"), Log: zap.New(core)})
	b.Start()
	defer b.Close()
	a := port(t, ca.node("a"), nil)
	for i := range 400 {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i%8+1))}}
		c, err := d.DialContext(t.Context(), "tcp", b.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		if i%2 == 0 {
			_, _ = c.Write([]byte{22, 3, 1, 1, 0}) // a record that never comes
		}
	}
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		c, err := a.Dial(ctx, wire.RPC, "b", b.Addr().String())
		require.NoError(t, err)
		in, err := b.Listen(wire.RPC).Accept()
		require.NoError(t, err)
		_, _, _ = c.Close(), in.Close(), cancel
		cancel()
	}
	require.Eventually(t, func() bool { return b.Stats.Refused.Load() >= 100 }, time.Minute, time.Millisecond)
	require.LessOrEqual(t, lines.Len(), 1, "one line a minute")
}

// TestTroubleIsOneLineAMinute: a second line comes after a minute, and says how many
// had none.
func TestTroubleIsOneLineAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, lines := observer.New(zapcore.WarnLevel)
		var s wire.Sparing
		for range 150 { // seconds
			s.Warn(zap.New(core), "trouble")
			time.Sleep(time.Second)
		}
		var others []any
		for _, l := range lines.All() {
			others = append(others, l.ContextMap()["others_since_last_line"])
		}
		require.Equal(t, []any{int64(0), int64(59), int64(59)}, others)
	})
}

// TestOtherKeysAreRefused: no signature of an odd key is checked.
func TestOtherKeysAreRefused(t *testing.T) {
	ca := newCA(t)
	b := port(t, ca.node("b"), nil)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	id := ca.node("a")
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(9), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	tmpl.URIs = append(tmpl.URIs, wire.NodeURI("c1", "a"))
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, &key.PublicKey, ca.key)
	require.NoError(t, err)
	id.Cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	for _, proto := range []string{wire.RPC, wire.Join} {
		c, err := tls.Dial("tcp", b.Addr().String(), &tls.Config{
			InsecureSkipVerify: true, NextProtos: []string{proto}, Certificates: []tls.Certificate{id.Cert},
		})
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			_ = c.Close()
		}
		require.Error(t, err, fmt.Sprint("RSA for ", proto))
	}
}

// TestTokensOfTheFormerCA: after a rotation the members show the present CA, the
// same as the one before signed it, and that one.
func TestTokensOfTheFormerCA(t *testing.T) {
	old, next := newCA(t), newCA(t)
	cross, err := x509.CreateCertificate(rand.Reader, next.cert, old.cert, &next.key.PublicKey, old.key)
	require.NoError(t, err)
	id := next.node("b")
	id.Cert.Certificate = append(id.Cert.Certificate, cross, old.cert.Raw)
	b := port(t, id, nil)
	go func() {
		for {
			c, err := b.Listen(wire.Join).Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	for _, ca := range []*testCA{old, next} {
		c, got, err := wire.DialJoin(t.Context(), b.Addr().String(), ca.sum(), nil, nil)
		require.NoError(t, err)
		require.True(t, got.Equal(next.cert), "the CA that the cluster has now")
		_ = c.Close()
	}
	id.Cert.Certificate = [][]byte{id.Cert.Certificate[0], next.cert.Raw, old.cert.Raw}
	b.SetIdentity(id)
	_, _, err = wire.DialJoin(t.Context(), b.Addr().String(), old.sum(), nil, nil)
	require.ErrorIs(t, err, wire.ErrFingerprint, "the former CA has signed nothing of it")
}
