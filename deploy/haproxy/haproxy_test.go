package haproxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/config"
	"relay/node/nodetest"
	"relay/pop3"
)

func free(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// example is haproxy.cfg with the addresses of a test.
func example(t *testing.T, c *nodetest.Cluster, binds map[string]string) string {
	data, err := os.ReadFile("haproxy.cfg")
	require.NoError(t, err)
	text := string(data)
	for service, port := range map[string]string{"smtp": "25", "submission": "587", "submissions": "465", "pop3": "110", "pop3s": "995"} {
		text = strings.Replace(text, "bind :"+port+"\n", "bind "+binds[service]+"\n", 1)
		for i, m := range c.Nodes {
			addr := m.SMTP
			if strings.HasPrefix(service, "pop3") {
				addr = m.POP3
			}
			_, adminPort, err := net.SplitHostPort(strings.TrimPrefix(m.Admin, "http://"))
			require.NoError(t, err)
			text = strings.Replace(text, fmt.Sprintf("10.0.0.1%d:%s check port 7181", i+1, port), addr+" check port "+adminPort, 1)
		}
	}
	require.NotContains(t, text, "10.0.0.1")
	text = strings.Replace(text, "maxconn 20000", "maxconn 100", 1) // within the limits of a test
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// TestExample runs the example configuration before a cluster and kills the
// node that serves.
func TestExample(t *testing.T) {
	program, err := exec.LookPath("haproxy")
	if err != nil {
		t.Skip("haproxy is not installed")
	}
	c := nodetest.New(t, nodetest.Options{Configure: func(_ int, conf *config.Config) {
		from := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
		conf.SMTP[0].ProxyProtocol, conf.POP3[0].ProxyProtocol = from, from
	}})
	binds := map[string]string{}
	for _, service := range []string{"smtp", "submission", "submissions", "pop3", "pop3s"} {
		binds[service] = free(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	proxy := exec.CommandContext(ctx, program, "-db", "-f", example(t, c, binds))
	proxy.Stderr = os.Stderr
	require.NoError(t, proxy.Start())
	t.Cleanup(func() { _ = proxy.Process.Kill(); _ = proxy.Wait() })

	front := &nodetest.Member{SMTP: binds["smtp"], POP3: binds["pop3"]}
	send := func(name string) bool {
		_, err := front.Send(ctx, "a@far.example", "alice@example.test", nodetest.Letter(name))
		return err == nil
	}
	c.Eventually(10*time.Second, "no mail through the proxy", func() bool { return send("one") })
	one := login(t, ctx, c, front)
	status, err := c.Nodes[0].Client().Mailbox(ctx, "alice@example.test")
	require.NoError(t, err)
	require.NotNil(t, status.Lock)
	remote, err := netip.ParseAddrPort(status.Lock.Remote)
	require.NoError(t, err)
	require.NotEqual(t, binds["pop3"], remote.String())
	uids := uidl(t, ctx, one)
	require.Len(t, uids, 1)

	// Whoever serves the client dies; the next login finds the same mail.
	for _, m := range c.Nodes {
		if m.ID == status.Lock.Node {
			m.Kill()
		}
	}
	_, _, err = one.Stat(ctx)
	require.Error(t, err)
	_ = one.Close()
	two := login(t, ctx, c, front)
	require.Equal(t, uids, uidl(t, ctx, two))
	require.NoError(t, two.Quit(ctx))
	c.Eventually(10*time.Second, "no mail after a node died", func() bool { return send("two") })
}

// login tries until a node lets alice in.
func login(t *testing.T, ctx context.Context, c *nodetest.Cluster, front *nodetest.Member) (one *pop3.Client) {
	t.Helper()
	c.Eventually(15*time.Second, "no login through the proxy", func() bool {
		var err error
		one, err = front.Login(ctx, "alice")
		return err == nil
	})
	return one
}

func uidl(t *testing.T, ctx context.Context, one *pop3.Client) (uids []string) {
	require.NoError(t, one.UIDL(ctx, func(_ int, uid []byte) { uids = append(uids, string(uid)) }))
	return uids
}
