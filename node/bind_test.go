package node

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Ports below 1024 are refused to users without a right, which the error names.
func TestRefusedPortNamesTheCure(t *testing.T) {
	refused := &net.OpError{Op: "listen", Net: "tcp", Err: os.NewSyscallError("bind", syscall.EACCES)}
	err := bindCure(refused)
	require.ErrorIs(t, err, syscall.EACCES)
	require.ErrorContains(t, err, "CAP_NET_BIND_SERVICE")
	require.ErrorContains(t, err, "setcap")
	err = bindCure(&net.OpError{Op: "listen", Net: "tcp", Err: os.NewSyscallError("bind", syscall.EADDRINUSE)})
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	require.ErrorContains(t, err, "another program has the port, and 'ss -ltnp' names it")
	other := errors.New("no such device")
	require.Equal(t, other, bindCure(other))
	require.NoError(t, bindCure(nil))
	l, err := listenTCP("127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
}
