package pop3_test

import (
	"bytes"
	"context"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/pop3"
)

// monologue is a client that has said all it will say, and hears all answers.
type monologue struct {
	in     *bytes.Reader
	out    bytes.Buffer
	closed chan struct{}
}

func (c *monologue) Read(b []byte) (int, error)  { return c.in.Read(b) }
func (c *monologue) Write(b []byte) (int, error) { return c.out.Write(b) }
func (c *monologue) Close() error                { close(c.closed); return nil }
func (c *monologue) LocalAddr() net.Addr         { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 110} }
func (c *monologue) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 1025}
}
func (c *monologue) SetDeadline(time.Time) error      { return nil }
func (c *monologue) SetReadDeadline(time.Time) error  { return nil }
func (c *monologue) SetWriteDeadline(time.Time) error { return nil }

// single is a listener with one client.
type single struct {
	calls chan net.Conn
	over  chan struct{}
}

func (l *single) Accept() (net.Conn, error) {
	select {
	case c := <-l.calls:
		return c, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}

func (l *single) Close() error {
	select {
	case <-l.over:
	default:
		close(l.over)
	}
	return nil
}

func (l *single) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 110} }

var (
	answerLine = regexp.MustCompile(`^[^\x00\r\n]*\r\n$`)
	quits      = regexp.MustCompile(`(?i)quit|qaut`)
	deletes    = regexp.MustCompile(`(?i)del[ei]`)
)

// FuzzServer: whatever a client says, it is answered in whole lines and takes
// nobody down; the lock is free again when it has gone, and no mail is gone that
// it did not delete.
func FuzzServer(f *testing.F) {
	for _, s := range []string{
		"USER alice\r\nPASS secret\r\nSTAT\r\nUIDL\r\nLIST\r\nRETR 1\r\nTOP 2 0\r\nDELE 1\r\nRSET\r\nDELE 3\r\nLAST\r\n" +
			"NOOP\r\nQUIT\r\n",
		"CAPA\r\nAUTH\r\nAUTH PLAIN AGFsaWNlAHNlY3JldA==\r\nUTF8\r\nLANG de\r\nLANG\r\nRETR UID:u1\r\nDELI UID:u2\r\n" +
			"SLEE\r\nWAKE\r\nQAUT\r\nQUIT\r\n",
		"XTND XMIT\r\nAPOP alice 0123456789abcdef0123456789abcdef\r\nAUTH LOGIN\r\nYWxpY2U=\r\n*\r\nSTLS\r\n" +
			"USER \r\nPASS\r\n",
		"AUTH SCRAM-SHA-256 biwsbj1hbGljZSxyPWFiYw==\r\nYz1iaXdzLHI9YWJj\r\nuser alice\npass secret\nretr 0\nretr 99\n",
	} {
		f.Add([]byte(s), uint64(0))
	}
	f.Fuzz(func(t *testing.T, in []byte, with uint64) {
		store := newStore()
		cfg := config(store)
		cfg.With = pop3.Extension(with)
		srv, err := pop3.NewServer(cfg)
		if err != nil {
			cfg.With = 0
			srv, err = pop3.NewServer(cfg)
		}
		require.NoError(t, err)
		l := &single{calls: make(chan net.Conn, 1), over: make(chan struct{})}
		c := &monologue{in: bytes.NewReader(in), closed: make(chan struct{})}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- srv.Serve(ctx, l) }()
		l.calls <- c
		<-c.closed
		stop()
		require.NoError(t, <-done)

		require.Zero(t, srv.Stats().Panics.Load(), "the server panicked")
		require.Zero(t, srv.Stats().LoggedIn.Load())
		require.True(t, strings.HasPrefix(c.out.String(), "+OK "))
		for line := range strings.Lines(c.out.String()) {
			require.Regexp(t, answerLine, line)
		}
		if !quits.Match(in) && !bytes.Contains(bytes.ToLower(in), []byte("deli")) || !deletes.Match(in) {
			require.Len(t, store.UIDs("alice"), len(mail), "mail is gone that nobody has deleted")
		}
		drop, err := store.Login(t.Context(), &pop3.Peer{Session: "after"}, "alice", "secret")
		require.NoError(t, err, "a lock was left behind")
		require.NoError(t, drop.Close())
	})
}
