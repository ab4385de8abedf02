package node

import (
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// wrapped stands for a connection through a load balancer.
type wrapped struct{ net.Conn }

func (w wrapped) NetConn() net.Conn { return w.Conn }

// The connections whose descriptors are among the last are not for strangers.
func TestLastDescriptorsAreKept(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	raw, err := conn.(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	number := 0
	require.NoError(t, raw.Control(func(fd uintptr) { number = int(fd) }))
	require.True(t, descriptors{number}.scarce(conn))
	require.True(t, descriptors{number}.scarce(wrapped{conn}))
	require.False(t, descriptors{number + 1}.scarce(conn))
	require.False(t, descriptors{}.scarce(conn))

	var have syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &have))
	require.Equal(t, have.Max, have.Cur, "the runtime raises the limit")
	d := newDescriptors()
	require.Positive(t, d.limit)
	require.Less(t, d.limit, int(have.Cur))
	if all, err := os.ReadDir("/proc/self/fd"); err == nil {
		require.Greater(t, d.limit, len(all))
	}
}
