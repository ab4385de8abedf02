package smtp

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
func (f from) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 25} }

// visit connects to a server from an address; it returns the client's side and
// what the first line says.
func visit(t *testing.T, s *Server, addr string) (*person, string) {
	t.Helper()
	here, there := net.Pipe()
	go s.serve(context.Background(), from{there, netip.MustParseAddr(addr)})
	t.Cleanup(func() { _ = here.Close() })
	p := &person{t, here, bufio.NewReader(here)}
	line, err := p.in.ReadString('\n')
	require.NoError(t, err)
	return p, line[:3]
}

func trusted(a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.7") }

func server(t *testing.T, cfg ServerConfig) *Server {
	t.Helper()
	cfg.Hostname, cfg.Backend, cfg.Trusted = "mx.example.test", &testBackend{}, trusted
	s, err := NewServer(cfg)
	require.NoError(t, err)
	return s
}

// Strangers never take all connections, and what they take counts by network.
func TestConnectionsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t, ServerConfig{Limits: Limits{Connections: 8, NetConnections: 2}})
		for _, one := range []struct{ addr, want string }{
			{"192.0.2.1", "220"}, {"192.0.2.1", "220"}, {"192.0.2.1", "421"},
			{"192.0.2.2", "220"}, {"192.0.2.3", "220"}, {"192.0.2.4", "421"}, // the /24 has its share
			{"2001:db8::1", "220"}, {"2001:db8::2", "220"}, {"2001:db8::3", "421"},
			{"198.51.100.1", "421"}, // the strangers have theirs
			{"192.0.2.7", "220"}, {"192.0.2.7", "220"}, {"192.0.2.7", "421"},
		} {
			_, got := visit(t, s, one.addr)
			require.Equal(t, one.want, got, one.addr)
		}
	})
}

// The silent make room for others; a trusted client does not have to.
func TestSilentStrangersGoUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t, ServerConfig{Limits: Limits{Connections: 8}})
		known, _ := visit(t, s, "192.0.2.7")
		var silent []*person
		for range 2 {
			p, _ := visit(t, s, "192.0.2.1")
			silent = append(silent, p)
		}
		time.Sleep(4 * time.Minute) // there is room: five are allowed
		for _, p := range silent {
			go p.say("NOOP\r\n")
			p.hear("250")
		}
		time.Sleep(30 * time.Second)
		for range 4 {
			p, _ := visit(t, s, "192.0.2.1")
			silent = append(silent, p)
		}
		require.EqualValues(t, 7, s.stats.Active.Load())
		for _, p := range silent { // net.Pipe hands over no last words to who does not read
			_ = p.conn.SetReadDeadline(time.Time{})
			go func() { _, _ = io.Copy(io.Discard, p.in) }()
		}
		time.Sleep(time.Second)
		_, got := visit(t, s, "198.51.100.1") // the share is taken, but not for long
		require.Equal(t, "421", got)
		synctest.Wait()
		require.EqualValues(t, 5, s.stats.Active.Load(), "two have been silent for too long")
		time.Sleep(11 * time.Second)
		_, got = visit(t, s, "198.51.100.1")
		require.Equal(t, "220", got)
		synctest.Wait()
		// As soon as there is room the others may be silent for longer.
		require.Less(t, s.stats.Active.Load(), int64(6), "room was made")
		go known.say("NOOP\r\n")
		known.hear("250")
	})
}

// If descriptors are scarce strangers are turned away.
func TestScarceDescriptorsAreNotForStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t, ServerConfig{Scarce: func(net.Conn) bool { return true }})
		_, got := visit(t, s, "192.0.2.1")
		require.Equal(t, "421", got)
		_, got = visit(t, s, "192.0.2.7")
		require.Equal(t, "220", got)
	})
}

// Commands that do nothing have an end, unless there is mail between them.
func TestIdleCommandsAreBounded(t *testing.T) {
	for _, cmd := range []string{"NOOP", "RSET", "VRFY x", "EHLO me", "HELP"} {
		s, addr := start(t, ServerConfig{Backend: &testBackend{}, MaxIdle: 20})
		p := call(t, addr)
		p.say(strings.Repeat(cmd+"\r\n", 20))
		for range 20 {
			p.hear("2")
		}
		p.say(cmd + "\r\n")
		p.hear("421 4.7.0")
		p.gone()
		require.EqualValues(t, 1, s.stats.Flooded.Load())
	}
	_, addr := start(t, ServerConfig{Backend: &testBackend{}, MaxIdle: 3})
	p := call(t, addr)
	for range 5 {
		p.say("RSET\r\n" + envelope + "DATA\r\nx\r\n.\r\n")
		for _, want := range []string{"250", "250", "250", "250", "354", "250"} {
			p.hear(want)
		}
	}
	_, addr = start(t, ServerConfig{Backend: &testBackend{}, MaxIdle: 3, Trusted: all})
	p = call(t, addr)
	for range 10 {
		p.say("NOOP\r\n")
		p.hear("250")
	}
}

// Guesses at recipients become slow, from a network together.
func TestRecipientGuessesAreSlowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t, ServerConfig{MaxErrors: 1000})
		began := time.Now()
		for _, addr := range []string{"192.0.2.1", "192.0.2.2"} {
			p, _ := visit(t, s, addr)
			go p.say("HELO c\r\nMAIL FROM:<a@b>\r\n")
			p.hear("250")
			p.hear("250")
			for range 10 {
				go p.say("RCPT TO:<nobody@example.test>\r\n")
				p.hear("550 5.1.1")
			}
		}
		slow := time.Since(began)
		require.Greater(t, slow, 10*time.Second)
		p, _ := visit(t, s, "198.51.100.1")
		go p.say(envelope)
		for range 3 {
			p.hear("250")
		}
		require.Equal(t, slow, time.Since(began), "others wait for nothing")
	})
}

// begins hands in the beginning of a message.
func begins(t *testing.T, s *Server, addr string) *person {
	t.Helper()
	p, got := visit(t, s, addr)
	require.Equal(t, "220", got)
	go p.say(envelope + "DATA\r\n")
	for _, want := range []string{"250", "250", "250"} {
		p.hear(want)
	}
	return p
}

// Beginnings of messages have a common budget: under pressure the slow ones end,
// and no more begin where there is no room.
func TestSlowMessagesEndUnderPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t, ServerConfig{Limits: Limits{Held: 5 * holdBase}})
		var slow []*person
		for range 3 {
			p := begins(t, s, "192.0.2.1")
			p.hear("354")
			p.say("Subject: x\r\n")
			slow = append(slow, p)
			time.Sleep(time.Second)
		}
		for range 6 {
			time.Sleep(time.Second)
			slow[0].say("y\r\n")
		}
		p := begins(t, s, "198.51.100.1")
		p.hear("354")
		for range 5 { // who is fast enough goes on
			time.Sleep(5 * time.Second)
			p.say(strings.Repeat(strings.Repeat("x", 76)+"\r\n", 400))
		}
		p.say(".\r\n")
		p.hear("250")
		for _, p := range slow {
			p.hear("421 4.4.2")
		}
		synctest.Wait()
		require.Zero(t, s.meters.holds.held.Load())
	})
}

func TestMessagesBeginWhereThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t, ServerConfig{Limits: Limits{Held: 2 * holdBase}})
		for range 2 {
			p := begins(t, s, "192.0.2.1")
			p.hear("354")
			p.say("Subject: x\r\n")
		}
		synctest.Wait()
		p := begins(t, s, "198.51.100.1")
		p.hear("451 4.3.1")
		known := begins(t, s, "192.0.2.7")
		known.hear("354")
		known.say("x\r\n.\r\n")
		known.hear("250")
	})
}
