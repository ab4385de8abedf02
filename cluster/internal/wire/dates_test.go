package wire_test

import (
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/internal/wire"
)

// TestNoDateBreaksALink: whatever the dates of a certificate are to this node's
// clock, its chain is checked as of when it began; Allow sees the dates.
func TestNoDateBreaksALink(t *testing.T) {
	day := 24 * time.Hour
	for name, from := range map[string]time.Duration{
		"signed just now": -day, "signed where the clock is 10 days ahead": 10 * day,
		"signed where the clock is 10 days behind": -10 * day,
		"expired for 10 days":                      -100 * day, "expired for years": -2000 * day,
	} {
		t.Run(name, func(t *testing.T) {
			ca := newCA(t)
			ca.from, ca.life = from, 90*day
			seen := make(chan wire.Peer, 1)
			b := port(t, ca.node("b"), func(p wire.Peer, _ string) error {
				seen <- p
				return nil
			})
			a := port(t, ca.node("a"), nil)
			out, err := a.Dial(t.Context(), wire.RPC, "b", b.Addr().String())
			require.NoError(t, err)
			in, err := b.Listen(wire.RPC).Accept()
			require.NoError(t, err)
			p := <-seen
			require.Equal(t, p, in.(*wire.Conn).Shown)
			require.Equal(t, "a", p.Node)
			require.Equal(t, big.NewInt(2).FillBytes(make([]byte, 16)), p.Serial)
			require.Equal(t, sha256.Sum256(ca.cert.Raw), p.CA)
			require.WithinDuration(t, time.Now().Add(from+90*day), p.NotAfter, time.Minute)
			_ = out.Close()
			_ = in.Close()
		})
	}
}

// TestTwoCAsAreTrusted: while the CA changes, a node trusts the old one and the
// next; a certificate signed by a CA out of trust counts nowhere.
func TestTwoCAsAreTrusted(t *testing.T) {
	old, next := newCA(t), newCA(t)
	both := func(id wire.Identity) wire.Identity {
		id.CAs = []*x509.Certificate{old.cert, next.cert}
		return id
	}
	dial := func(from, to wire.Identity) error {
		a, b := port(t, from, nil), port(t, to, nil)
		c, err := a.Dial(t.Context(), wire.RPC, to.Node, b.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		in := make(chan error, 1)
		go func() {
			got, err := b.Listen(wire.RPC).Accept()
			if err == nil {
				_, _ = got.Write([]byte{1})
				_ = got.Close()
			}
			in <- err
		}()
		_, err = c.Read(make([]byte, 1))
		_ = b.Close()
		<-in
		return err
	}
	require.NoError(t, dial(both(old.node("a")), both(next.node("b"))))
	require.NoError(t, dial(both(next.node("a")), both(old.node("b"))))
	require.Error(t, dial(both(old.node("a")), next.node("b")), "the old CA is out of trust at b")
	require.Error(t, dial(next.node("a"), both(old.node("b"))), "the old CA is out of trust at a")
}
