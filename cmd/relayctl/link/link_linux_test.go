package link

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/porttest"
	"relay/node/admin"
)

// TestTokenIsNotToldToOthers: a program of another user that waits at the port of
// a node gets no token, whatever file it names.
func TestTokenIsNotToldToOthers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root has sockets of several users")
	}
	file := filepath.Join(t.TempDir(), "admin.token")
	require.NoError(t, os.WriteFile(file, []byte("s3cret-of-a-node\n"), 0o600))
	const nobody = 65534
	listen := func(uid uintptr, addr string) net.Listener {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		_, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, uid, 0, 0)
		defer func() { _, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, 0, 0, 0) }()
		l, err := net.Listen("tcp", addr)
		require.NoError(t, err)
		return l
	}
	wait := func(l net.Listener) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(admin.TokenFileHeader, file)
			w.WriteHeader(http.StatusUnauthorized)
		}))
		_ = s.Listener.Close()
		s.Listener = l
		s.Start()
		t.Cleanup(s.Close)
		return s
	}
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0"} {
		s := wait(listen(nobody, addr))
		_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
		token, err := FindToken("http://127.0.0.1:"+port, file)
		require.Empty(t, token, addr)
		require.ErrorContains(t, err, "may not read "+file)
		require.ErrorContains(t, err, "--token-file")
	}
	s := wait(listen(0, "127.0.0.1:0"))
	token, err := FindToken(s.URL, file)
	require.NoError(t, err)
	require.Equal(t, "s3cret-of-a-node", token)

	// The node's own user is the file's owner; root may have made the file for its group.
	require.NoError(t, os.Chown(file, nobody, 0))
	_, port, _ := net.SplitHostPort(wait(listen(nobody, "127.0.0.1:0")).Listener.Addr().String())
	token, err = FindToken("http://localhost:"+port, file)
	require.NoError(t, err)
	require.Equal(t, "s3cret-of-a-node", token)

	_, err = FindToken("http://"+porttest.Addr(t, "127.0.0.1"), file)
	require.ErrorContains(t, err, "no program of this machine listens there")
}
