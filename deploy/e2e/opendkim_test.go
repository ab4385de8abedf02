package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/config"
	"relay/node/nodetest"
)

// OpenDKIM, as its package brings it, looks at what a node takes in: a version 6
// filter that signs and verifies.
func TestOpenDKIMAsContentFilter(t *testing.T) {
	need(t, "opendkim", "openssl")
	dir := t.TempDir()
	key := filepath.Join(dir, "key.pem")
	out, err := exec.Command("openssl", "genrsa", "-out", key, "2048").CombinedOutput()
	require.NoError(t, err, "%s", out)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	conf := filepath.Join(dir, "opendkim.conf")
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, "Mode sv\nDomain signed.example\nSelector s1\nKeyFile %s\nSocket inet:%d@127.0.0.1\n"+
		"Background no\nAutoRestart no\nUMask 007\nInternalHosts 127.0.0.1\nAuthservID mx.example.test\nAlwaysAddARHeader yes\nRequireSafeKeys no\nPidFile %s\n",
		key, port, filepath.Join(dir, "pid")), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	filter := exec.CommandContext(ctx, "opendkim", "-f", "-x", conf)
	filter.Stderr = os.Stderr
	require.NoError(t, filter.Start())
	t.Cleanup(func() { cancel(); _ = filter.Wait() })
	address := fmt.Sprintf("127.0.0.1:%d", port)
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, 10*time.Second, 20*time.Millisecond, "opendkim does not listen")

	c := nodetest.New(t, nodetest.Options{Nodes: 1, Configure: func(_ int, conf *config.Config) {
		m := config.NewMilter()
		m.Address = "inet:" + address
		conf.Milter = []config.Milter{m}
	}})
	// A message of its domain, from an inner client, is signed.
	c.Nodes[0].MustSend("a@signed.example", "alice@example.test", strings.Replace(nodetest.Letter("signed"), "sender@far.example", "a@signed.example", 1))
	ctx, done := context.WithTimeout(t.Context(), 20*time.Second)
	defer done()
	p, err := c.Nodes[0].Login(ctx, "alice@example.test")
	require.NoError(t, err)
	defer func() { _ = p.Quit(ctx) }()
	var b strings.Builder
	_, err = p.Retr(ctx, 1, &b)
	require.NoError(t, err)
	require.Contains(t, b.String(), "\r\nDKIM-Signature: v=1; a=rsa-sha256;")
	require.Contains(t, b.String(), "d=signed.example; s=s1;")
	head, body, _ := strings.Cut(b.String(), "\r\n\r\n")
	require.Equal(t, "signed\r\n", body)
	require.NotContains(t, strings.ReplaceAll(head, "\r\n", ""), "\n", "line ends are whole")
}
