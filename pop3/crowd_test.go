package pop3

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// from gives a net.Pipe the address of some client.
type from struct {
	net.Conn
	addr netip.Addr
}

func (f from) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.addr, 1)) }
func (f from) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 110} }

// visit connects to a server from an address, and returns the client's side and
// the first line.
func visit(t *testing.T, s *Server, addr string) (net.Conn, *bufio.Reader, string) {
	t.Helper()
	here, there := net.Pipe()
	g := &group{srv: s, speak: (*conn).servePOP3}
	g.start(context.Background(), from{there, netip.MustParseAddr(addr)})
	t.Cleanup(func() { _ = here.Close() })
	in := bufio.NewReader(here)
	line, err := in.ReadString('\n')
	require.NoError(t, err)
	return here, in, line
}

func crowded(t *testing.T, cfg ServerConfig) *Server {
	t.Helper()
	cfg.Backend = nobody{}
	cfg.Trusted = func(a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.7") }
	cfg.Limits.Exempt = cfg.Trusted
	s, err := NewServer(cfg)
	require.NoError(t, err)
	return s
}

// Commands that do not log in have a limit.
func TestCommandsBeforeLoginAreBounded(t *testing.T) {
	for _, cmd := range []string{"CAPA", "USER x", "LANG"} {
		synctest.Test(t, func(t *testing.T) {
			s := crowded(t, ServerConfig{Limits: Limits{Idle: 10}, Trusted: nil})
			c, in, _ := visit(t, s, "192.0.2.1")
			go func() { _, _ = io.WriteString(c, strings.Repeat(cmd+"\r\n", 11)) }()
			said, err := io.ReadAll(in)
			require.NoError(t, err)
			require.True(t, strings.HasSuffix(string(said), "-ERR [SYS/TEMP] too many errors, goodbye\r\n"), string(said))
		})
	}
	synctest.Test(t, func(t *testing.T) {
		s := crowded(t, ServerConfig{Limits: Limits{Idle: 10}})
		c, in, _ := visit(t, s, "192.0.2.7")
		for range 50 {
			go func() { _, _ = io.WriteString(c, "LANG\r\n") }()
			for line := ""; line != ".\r\n"; {
				var err error
				line, err = in.ReadString('\n')
				require.NoError(t, err)
			}
		}
	})
}

// TestSentAwayIsTold: the hook hears why a client is sent away; what the server can do
// may be asked in clear, and is no refusal.
func TestSentAwayIsTold(t *testing.T) {
	pop2Words := func(c *conn) { (&pop2{conn: c, current: 1}).run() }
	for name, one := range map[string]struct {
		says  string
		leave bool
		speak func(*conn)
		want  string
	}{
		"a question":          {"CAPA\r\nQUIT\r\n", false, (*conn).servePOP3, ""},
		"a login in clear":    {"USER x\r\nQUIT\r\n", false, (*conn).servePOP3, "login tls_required"},
		"too many commands":   {strings.Repeat("LANG\r\n", 11), false, (*conn).servePOP3, "command idle_commands"},
		"too many errors":     {strings.Repeat("FOO\r\n", 3), false, (*conn).servePOP3, "command too_many_errors"},
		"out of service":      {"QUIT\r\n", true, (*conn).servePOP3, "connect stopping"},
		"POP2 for a stranger": {"QUIT\r\n", false, pop2Words, "connect not_trusted"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var told []string
			s := crowded(t, ServerConfig{
				Limits: Limits{Idle: 10, Errors: 3}, Refused: func(f *Refusal) { told = append(told, f.Stage+" "+f.Reason) },
			})
			s.Refuse(one.leave, 0)
			here, there := net.Pipe()
			g := &group{srv: s, speak: one.speak}
			g.start(context.Background(), from{there, netip.MustParseAddr("192.0.2.1")})
			go func() { _, _ = io.WriteString(here, one.says) }()
			_, err := io.ReadAll(here)
			require.NoError(t, err)
			g.wg.Wait()
			_ = here.Close()
			require.Equal(t, one.want, strings.Join(told, ", "), name)
		})
	}
}

// Clients of one network do not take all connections, and some are kept.
func TestPOP3ConnectionsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := crowded(t, ServerConfig{Limits: Limits{Connections: 16, PerHost: 3}})
		enter := func(addr, want string) {
			t.Helper()
			_, _, line := visit(t, s, addr)
			require.True(t, strings.HasPrefix(line, want), line)
		}
		for range 3 {
			enter("192.0.2.1", "+OK")
			enter("192.0.2.2", "+OK")
		}
		enter("192.0.2.3", "-ERR [SYS/TEMP]")
		for range 3 {
			enter("2001:db8::1", "+OK")
			enter("2001:db8:0:1::1", "+OK")
			enter("198.51.100.1", "+OK")
		}
		enter("203.0.113.1", "-ERR [SYS/TEMP]")
		enter("192.0.2.7", "+OK")
	})
}

// TestSilentClientsUnderHalfLoad: the client that makes the load high is itself
// given a minute, and it ends the others that have been silent for longer. The
// trusted stay.
func TestSilentClientsUnderHalfLoad(t *testing.T) {
	open := func(s *Server, clients int) {
		t.Helper()
		synctest.Wait()
		require.EqualValues(t, clients, s.stats.Open.Load(), "clients")
	}
	synctest.Test(t, func(t *testing.T) {
		s := crowded(t, ServerConfig{Limits: Limits{Connections: 16}})
		visit(t, s, "192.0.2.7")
		for range 7 {
			visit(t, s, "192.0.2.1")
		}
		open(s, 8)
		time.Sleep(61 * time.Second)
		open(s, 8)
		visit(t, s, "192.0.2.1")
		open(s, 2)
	})
	synctest.Test(t, func(t *testing.T) {
		s := crowded(t, ServerConfig{Limits: Limits{Connections: 16}})
		for n := range 8 {
			visit(t, s, "192.0.2.1")
			open(s, n+1)
		}
		time.Sleep(61 * time.Second)
		open(s, 7)
	})
}

// A client that does not log in makes room for others.
func TestSilentClientsGoUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := crowded(t, ServerConfig{Limits: Limits{Connections: 16}})
		for range 15 {
			visit(t, s, "192.0.2.1")
		}
		time.Sleep(61 * time.Second)
		_, _, _ = visit(t, s, "192.0.2.7")
		synctest.Wait()
		require.LessOrEqual(t, s.stats.Open.Load(), int64(8), "half of the room is free again")
		scarce := crowded(t, ServerConfig{Scarce: func(net.Conn) bool { return true }})
		_, _, line := visit(t, scarce, "192.0.2.1")
		require.True(t, strings.HasPrefix(line, "-ERR [SYS/TEMP]"), line)
	})
}
