package node

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Behind a load balancer, too, a server can end its half and hear the rest: a
// close with input unread would reset the connection and take away the reply
// that says why.
func TestLastWordsThroughProxy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer client.Close()
	_ = client.SetDeadline(time.Now().Add(time.Minute))
	_, err = io.WriteString(client, "PROXY TCP4 192.0.2.1 198.51.100.25 4711 25\r\nEHLO early\r\n")
	require.NoError(t, err)
	conn, err := proxied(l, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, nil).Accept()
	require.NoError(t, err)
	defer conn.Close()
	require.Equal(t, "192.0.2.1:4711", conn.RemoteAddr().String())
	_, err = io.WriteString(conn, "554 no\r\n")
	require.NoError(t, err)
	half, ok := conn.(interface{ CloseWrite() error })
	require.True(t, ok)
	require.NoError(t, half.CloseWrite())
	said, err := io.ReadAll(client)
	require.NoError(t, err)
	require.Equal(t, "554 no\r\n", string(said))
	require.NoError(t, client.Close())
	heard, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "EHLO early\r\n", string(heard))
}
