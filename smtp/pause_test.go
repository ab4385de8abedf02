package smtp

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// pipeAddr gives a net.Pipe the address of a stranger.
type pipeAddr struct{ net.Conn }

func (pipeAddr) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }
func (pipeAddr) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 25} }

func TestGreetPauseIsAsLongAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := NewServer(ServerConfig{Hostname: "mx.example.test", Backend: &testBackend{}, GreetPause: 3 * time.Second})
		require.NoError(t, err)
		here, there := net.Pipe()
		done := make(chan struct{})
		go func() { defer close(done); s.serve(context.Background(), pipeAddr{there}) }()
		began := time.Now()
		line := make([]byte, 64)
		n, err := here.Read(line)
		require.NoError(t, err)
		require.Equal(t, "220 mx.example.test ESMTP\r\n", string(line[:n]))
		require.Equal(t, 3*time.Second, time.Since(began))
		_ = here.Close()
		<-done
	})
}

// A client that hangs up in the pause, and a server that stops in it.
func TestGreetPauseEndsEarly(t *testing.T) {
	backend := &testBackend{}
	s, addr := start(t, ServerConfig{Backend: backend, GreetPause: time.Hour})
	gone, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	require.Eventually(t, func() bool { return s.stats.Connections.Load() == 2 && s.stats.Active.Load() == 1 },
		time.Minute, time.Millisecond)
	require.NoError(t, s.Shutdown(t.Context()))
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	said, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "421 mx.example.test is shutting down, try again later\r\n", string(said))
	require.Equal(t, []string{"close", "close"}, backend.log, "sessions end, greeted or not")
}

// A client that is over a limit costs no handshake.
func TestFloodCostsNoHandshake(t *testing.T) {
	server, client := testTLS(t)
	s, addr := start(t, ServerConfig{
		Backend: &testBackend{}, TLS: server, ImplicitTLS: true, Limits: Limits{NetConnections: 1},
	})
	first, err := tls.Dial("tcp", addr, client)
	require.NoError(t, err)
	defer first.Close()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	require.Error(t, tls.Client(conn, client).Handshake())
	require.EqualValues(t, 1, s.stats.Turned.Load())
	// The first one's side may be done with its handshake before the server has counted it.
	require.Eventually(t, func() bool { return s.stats.TLS.Load()+s.stats.TLSFailed.Load() == 1 }, time.Minute,
		time.Millisecond)
}
