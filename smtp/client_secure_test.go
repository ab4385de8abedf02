package smtp

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/smtp/sasl"
)

// turn is what a server says to one command; "TLS" behind it: the handshake.
type turn struct{ verb, say string }

// hopOfTurns plays turns in their order, and tells at the end what came besides.
func hopOfTurns(t *testing.T, config *tls.Config, turns ...turn) (net.Conn, <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	rest := make(chan string, 1)
	go func() {
		defer l.Close()
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		in := bufio.NewReader(conn)
		for _, x := range turns {
			if x.verb != "" {
				line, err := in.ReadString('\n')
				if err != nil || !strings.HasPrefix(line, x.verb) {
					rest <- line
					return
				}
			}
			say, secure := strings.CutSuffix(x.say, "TLS")
			_, _ = io.WriteString(conn, strings.ReplaceAll(say, "\n", "\r\n"))
			if secure {
				s := tls.Server(conn, config)
				if s.Handshake() != nil {
					rest <- ""
					return
				}
				conn, in = s, bufio.NewReader(s)
			}
		}
		more, _ := io.ReadAll(in)
		rest <- string(more)
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	return conn, rest
}

// Replies too many around STARTTLS, AUTH, RSET and QUIT end the connection: no
// command goes out behind them, and the next one's reply is never an older one.
func TestClientStrayAroundTLSAndLogin(t *testing.T) {
	server, client := testTLS(t)
	hello := turn{"EHLO", "250-hi\n250-STARTTLS\n250 AUTH PLAIN LOGIN\n"}
	greeting, secure := turn{"", "220 hi\n"}, turn{"STARTTLS", "220 go\nTLS"}
	startTLS := func(c *Client) error { return c.StartTLS(t.Context(), client) }
	login := func(mech sasl.Client) func(*Client) error {
		return func(c *Client) error { return c.Auth(t.Context(), mech) }
	}
	reset := func(c *Client) error { return c.Reset(t.Context()) }
	for name, c := range map[string]struct {
		turns []turn
		do    []func(*Client) error // the last one fails
		stray bool
	}{
		"EHLO twice, then STARTTLS": {[]turn{greeting, {"EHLO", hello.say + "250 ok\n"}},
			[]func(*Client) error{startTLS}, true},
		"plain text behind 220": {[]turn{greeting, hello, {"STARTTLS", "220 go\n250-hi\n250 SIZE\n"}},
			[]func(*Client) error{startTLS}, false},
		"half a line behind 220": {[]turn{greeting, hello, {"STARTTLS", "220 go\n25"}},
			[]func(*Client) error{startTLS}, false},
		"STARTTLS refused twice": {[]turn{greeting, hello, {"STARTTLS", "454 no\n454 no\n"}},
			[]func(*Client) error{startTLS, reset}, true},
		"a greeting inside TLS": {[]turn{greeting, hello, secure, {"", "220 hi again\n"}, hello},
			[]func(*Client) error{startTLS}, false},
		"EHLO twice inside TLS": {[]turn{greeting, hello, secure, {"EHLO", "250 hi\n250 hi\n"}},
			[]func(*Client) error{startTLS, reset}, true},
		"235 twice": {[]turn{greeting, hello, {"AUTH PLAIN", "235 in\n235 in\n"}},
			[]func(*Client) error{login(sasl.NewPlainClient("u", "p")), reset}, true},
		"334 twice": {[]turn{greeting, hello, {"AUTH LOGIN", "334 VXNlcm5hbWU6\n334 UGFzc3dvcmQ6\n"}},
			[]func(*Client) error{login(sasl.NewLoginClient("u", "p"))}, true},
		"a no twice": {[]turn{greeting, hello, {"AUTH PLAIN", "535 no\n235 in\n"}},
			[]func(*Client) error{refusedAuth(login(sasl.NewPlainClient("u", "p"))), reset}, true},
		"RSET twice": {[]turn{greeting, hello, {"RSET", "250 ok\n250 ok\n"}},
			[]func(*Client) error{reset, reset}, true},
	} {
		t.Run(name, func(t *testing.T) {
			conn, rest := hopOfTurns(t, server, c.turns...)
			client, err := NewClient(t.Context(), conn, ClientOptions{Hostname: "me"})
			require.NoError(t, err)
			for i, do := range c.do {
				// Octets that a server sends unasked may be some time on their way.
				if i == len(c.do)-1 && c.stray && name != "334 twice" {
					require.Eventually(t, func() bool {
						return client.err != nil || client.arrived(now) != nil || len(client.in.pending()) > 0
					}, 60e9, 1e6)
				}
				err = do(client)
				if i < len(c.do)-1 && client.err == nil && err != nil {
					require.ErrorAs(t, err, new(*Reply))
				}
			}
			require.Error(t, err)
			require.Error(t, client.usable())
			if c.stray {
				require.ErrorIs(t, client.usable(), ErrStray)
			}
			_ = client.Close()
			require.Empty(t, strings.TrimPrefix(<-rest, "EHLO me\r\n"), "nothing goes out behind it")
		})
	}
	conn, _ := hopOfTurns(t, server, greeting, hello, turn{"QUIT", "221 bye\n250 ok\n"})
	c, err := NewClient(t.Context(), conn, ClientOptions{Hostname: "me"})
	require.NoError(t, err)
	require.NoError(t, c.Quit(t.Context()))
}

func refusedAuth(do func(*Client) error) func(*Client) error {
	return func(c *Client) error {
		if err := do(c); !errors.As(err, new(*Reply)) {
			return errors.New("AUTH was not refused")
		}
		return nil
	}
}
