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

	"relay/cluster/porttest"
	"relay/cluster/timetest"
	"relay/node/config"
	"relay/node/nodetest"
	"relay/pop3"
)

func TestMain(m *testing.M) {
	timetest.SideBySide(3)
	os.Exit(m.Run())
}

// services are what the example listens for, and where.
var services = map[string]string{"smtp": "25", "submission": "587", "submissions": "465", "pop3": "110", "pop3s": "995"}

// listeners gives each node all services behind a proxy on this host and a port for its
// checks, and returns their addresses by service and node.
func listeners(t *testing.T) (configure func(int, *config.Config), addrs map[string][]string) {
	from := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	addrs = map[string][]string{}
	return func(_ int, conf *config.Config) {
		submission, submissions, pop3s := config.NewSMTP(), config.NewSMTP(), config.NewPOP3()
		submission.Role, submissions.Role = config.RoleSubmission, config.RoleSubmission
		submissions.TLS, pop3s.TLS = config.TLSImplicit, config.TLSImplicit
		for _, listen := range []*string{&submission.Listen, &submissions.Listen, &pop3s.Listen} {
			*listen = porttest.Addr(t, "127.0.0.1")
		}
		conf.Admin.HealthListen = porttest.Addr(t, "127.0.0.1")
		conf.SMTP, conf.POP3 = append(conf.SMTP, submission, submissions), append(conf.POP3, pop3s)
		for i := range conf.SMTP {
			conf.SMTP[i].ProxyProtocol = from
		}
		for i := range conf.POP3 {
			conf.POP3[i].ProxyProtocol = from
		}
		for service, addr := range map[string]string{
			"smtp": conf.SMTP[0].Listen, "submission": submission.Listen, "submissions": submissions.Listen,
			"pop3": conf.POP3[0].Listen, "pop3s": pop3s.Listen, "health": conf.Admin.HealthListen,
		} {
			addrs[service] = append(addrs[service], addr)
		}
	}, addrs
}

// started runs the example before a cluster, and returns its addresses by service.
func started(ctx context.Context, t *testing.T, program string, c *nodetest.Cluster,
	addrs map[string][]string) map[string]string {
	binds := map[string]string{}
	for service := range services {
		binds[service] = porttest.Addr(t, "127.0.0.1")
	}
	proxy := exec.CommandContext(ctx, program, "-db", "-f", example(t, c, addrs, binds))
	proxy.Stderr = os.Stderr
	require.NoError(t, proxy.Start())
	t.Cleanup(func() { _ = proxy.Process.Kill(); _ = proxy.Wait() })
	return binds
}

// example is haproxy.cfg with the addresses of a test.
func example(t *testing.T, c *nodetest.Cluster, addrs map[string][]string, binds map[string]string) string {
	data, err := os.ReadFile("haproxy.cfg")
	require.NoError(t, err)
	text := string(data)
	for service, port := range services {
		text = strings.Replace(text, "bind :"+port+"\n", "bind "+binds[service]+"\n", 1)
		for i := range c.Nodes {
			_, healthPort, err := net.SplitHostPort(addrs["health"][i])
			require.NoError(t, err)
			text = strings.Replace(text, fmt.Sprintf("10.0.0.1%d:%s check port 7181", i+1, port),
				addrs[service][i]+" check port "+healthPort, 1)
		}
	}
	require.NotContains(t, text, "10.0.0.1")
	text = strings.Replace(text, "maxconn 20000", "maxconn 200", 1) // within the limits of a test
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// TestExample runs the example configuration before a cluster and kills the
// node that serves.
func TestExample(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("haproxy")
	if err != nil {
		t.Skip("haproxy is not installed")
	}
	configure, addrs := listeners(t)
	c := nodetest.New(t, nodetest.Options{Tuning: nodetest.Quick(), Configure: configure})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	binds := started(ctx, t, program, c, addrs)
	front := &nodetest.Member{SMTP: binds["smtp"], POP3: binds["pop3"]}
	send := func(name string) bool {
		_, err := front.Send(ctx, "a@far.example", "alice@example.test", nodetest.Letter(name))
		return err == nil
	}
	c.Eventually(time.Minute, "no mail through the proxy", func() bool { return send("one") })
	one := login(t, ctx, c, front)
	status, err := c.Nodes[0].Client().Mailbox(ctx, "alice@example.test")
	require.NoError(t, err)
	require.NotNil(t, status.Lock)
	remote, err := netip.ParseAddrPort(status.Lock.Remote)
	require.NoError(t, err)
	require.NotEqual(t, binds["pop3"], remote.String())
	uids := uidl(t, ctx, one)
	require.Len(t, uids, 1)

	// The node that serves the client dies; the next login finds the same mail.
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
	c.Eventually(time.Minute, "no mail after a node died", func() bool { return send("two") })
}

// login tries until a node lets alice in.
func login(t *testing.T, ctx context.Context, c *nodetest.Cluster, front *nodetest.Member) (one *pop3.Client) {
	t.Helper()
	c.Eventually(time.Minute, "no login through the proxy", func() bool {
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
