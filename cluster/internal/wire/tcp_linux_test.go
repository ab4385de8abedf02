package wire

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestConnectionsAreTuned asks the kernel what a tuned connection has.
func TestConnectionsAreTuned(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	tune(c)
	raw, err := c.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	for option, want := range map[int]int{
		unix.TCP_THIN_LINEAR_TIMEOUTS: 1,
		unix.TCP_USER_TIMEOUT:         int(userTimeout.Milliseconds()),
		unix.TCP_KEEPIDLE:             int(keepAlive().Idle.Seconds()),
	} {
		var got int
		var bad error
		err := raw.Control(func(fd uintptr) { got, bad = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option) })
		require.NoError(t, err)
		require.NoError(t, bad)
		require.Equal(t, want, got, "option %d", option)
	}
}
