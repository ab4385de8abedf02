package smtp

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// person is a client by hand.
type person struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
}

func call(t testing.TB, addr string) *person {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	p := &person{t, conn, bufio.NewReader(conn)}
	p.hear("220")
	return p
}

// say may be called on any goroutine.
func (p *person) say(text string) {
	_, err := io.WriteString(p.conn, text)
	assert.NoError(p.t, err)
}

// hear reads one reply and returns its last line.
func (p *person) hear(want string) {
	p.t.Helper()
	_ = p.conn.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		line, err := p.in.ReadString('\n')
		require.NoError(p.t, err)
		if line[3] == ' ' {
			require.True(p.t, strings.HasPrefix(line, want), line)
			return
		}
	}
}

func (p *person) gone() {
	p.t.Helper()
	_ = p.conn.SetReadDeadline(time.Now().Add(time.Minute))
	rest, err := io.ReadAll(p.in)
	require.NoError(p.t, err)
	require.Empty(p.t, rest)
}

const envelope = "HELO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<bob@example.test>\r\n"

func TestShutdownIdle(t *testing.T) {
	s, addr := start(t, ServerConfig{Backend: &testBackend{}})
	fresh, ready := call(t, addr), call(t, addr)
	ready.say("HELO c\r\n")
	ready.hear("250")
	require.NoError(t, s.Shutdown(t.Context()))
	for _, p := range []*person{fresh, ready} {
		p.hear("421 4.3.2")
		p.gone()
	}
	_, err := net.Dial("tcp", addr)
	require.Error(t, err)
	require.NoError(t, s.Shutdown(t.Context()))
}

func TestShutdownLetsTransactionsEnd(t *testing.T) {
	b := &testBackend{block: make(chan struct{})}
	s, addr := start(t, ServerConfig{Backend: b})
	busy, slow := call(t, addr), call(t, addr)
	for _, p := range []*person{busy, slow} {
		p.say(envelope)
		p.hear("250")
		p.hear("250")
		p.hear("250")
	}
	busy.say("DATA\r\n")
	busy.hear("354")
	busy.say("x\r\n.\r\nMAIL FROM:<a@b>\r\n")
	require.Eventually(t, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.log) > 0
	}, time.Minute, time.Millisecond)
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(t.Context()) }()
	require.Eventually(t, s.closing.Load, time.Minute, time.Millisecond)
	close(b.block)
	busy.hear("250 2.0.0 Ok: queued as M1")
	busy.hear("421 4.3.2") // not the next one
	busy.gone()
	slow.say("DATA\r\n")
	slow.hear("354")
	slow.say(".\r\n")
	slow.hear("250 2.0.0 Ok: queued as M2")
	slow.hear("421 4.3.2")
	slow.gone()
	require.NoError(t, <-done)
}

func TestShutdownCuts(t *testing.T) {
	b := &testBackend{block: make(chan struct{})}
	s, addr := start(t, ServerConfig{Backend: b})
	p, q := call(t, addr), call(t, addr)
	p.say(envelope + "DATA\r\n")
	q.say(envelope + "DATA\r\n")
	for _, code := range []string{"250", "250", "250", "354"} {
		p.hear(code)
		q.hear(code)
	}
	p.say("x\r\n.\r\n")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Shutdown(ctx), context.DeadlineExceeded)
	p.hear("4") // 451: the backend was told to stop; 421 follows
	q.hear("421 4.3.2")
	_, sent := b.last()
	require.False(t, sent)
	require.Zero(t, s.Stats().Active.Load())
}

func TestServeEndsWithItsContext(t *testing.T) {
	s, err := NewServer(ServerConfig{Hostname: "mx", Backend: &testBackend{}})
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	p := call(t, l.Addr().String())
	cancel()
	p.hear("421 4.3.2")
	require.ErrorIs(t, <-done, context.Canceled)
	require.NoError(t, s.Shutdown(t.Context()))
	require.ErrorIs(t, s.Serve(t.Context(), l), ErrServerClosed)
}

func TestConnectionLimits(t *testing.T) {
	s, addr := start(t, ServerConfig{Backend: &testBackend{}, Limits: Limits{NetConnections: 1}})
	p := call(t, addr)
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "421 Too many connections, try again later\r\n", string(answer))
	require.NoError(t, conn.Close())
	require.EqualValues(t, 1, s.Stats().Turned.Load())
	p.say("QUIT\r\n")
	p.hear("221")
	p.gone()
	require.Eventually(t, func() bool { return s.Stats().Active.Load() == 0 }, time.Minute, time.Millisecond)
	call(t, addr)
}

func TestSessionIsClosedOnce(t *testing.T) {
	b := &testBackend{}
	s, addr := start(t, ServerConfig{Backend: b})
	p := call(t, addr)
	p.say(envelope)
	p.hear("250")
	p.hear("250")
	p.hear("250")
	require.NoError(t, p.conn.Close())
	require.Eventually(t, func() bool { return s.Stats().Active.Load() == 0 }, time.Minute, time.Millisecond)
	require.Equal(t, []string{"close"}, b.log)
}

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []ServerConfig{
		{}, {Hostname: "mx"}, {Backend: &testBackend{}}, {Hostname: "a b", Backend: &testBackend{}},
		{Hostname: "mx", Backend: &testBackend{}, ImplicitTLS: true},
	} {
		_, err := NewServer(cfg)
		require.Error(t, err)
	}
}

// monologue is a client that has said all it will say, and hears all answers.
type monologue struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func (c *monologue) Read(b []byte) (int, error)  { return c.in.Read(b) }
func (c *monologue) Write(b []byte) (int, error) { return c.out.Write(b) }
func (c *monologue) Close() error                { return nil }
func (c *monologue) LocalAddr() net.Addr         { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 25} }
func (c *monologue) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 1025}
}
func (c *monologue) SetDeadline(time.Time) error      { return nil }
func (c *monologue) SetReadDeadline(time.Time) error  { return nil }
func (c *monologue) SetWriteDeadline(time.Time) error { return nil }

// The server answers any input in lines and its framing holds: a message that gets
// through was ended by CRLF.CRLF or a chunk's count.
func FuzzServer(f *testing.F) {
	f.Add([]byte("EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"))
	f.Add([]byte("HELO c\nMAIL FROM:<a@b>\nRCPT TO:<bob@example.test>\nBDAT 3\r\nabcBDAT 0 LAST\r\nNOOP\r\n"))
	f.Add([]byte("EHLO c\r\nAUTH PLAIN\r\n*\r\nVRFY x\r\nHELP\r\nXCLIENT ADDR=1.2.3.4\r\n"))
	f.Add([]byte("EHLO c\r\nVRFY j\xc3\xbcrgen SMTPUTF8\r\nVRFY \xc9\x90\xc9\x90\xc9\x90\xc9\x90 SMTPUTF8\r\nEXPN <>\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := NewServer(ServerConfig{
			Hostname: "mx", Backend: fullBackend{&testBackend{}}, Trusted: all, XClient: all, LegacyVerbs: true,
			LenientSyntax: true,
			Verify:        true, Expand: true, MaxSize: 1 << 16, AuthDelay: func(netip.Addr, error) time.Duration { return 0 },
			CallTimeout: 10 * time.Millisecond,
		})
		require.NoError(t, err)
		c := &monologue{in: bytes.NewReader(in)}
		s.serve(t.Context(), c)
		for line := range strings.Lines(c.out.String()) {
			require.Regexp(t, `^[2345]\d\d[ -][ -~\x{a0}-\x{10ffff}]*\r\n$`, line)
		}
		require.Zero(t, s.Stats().Panics.Load(), "the server panicked")
	})
}

// BenchmarkServer is one kept-open session that hands in one message of 4 KiB
// after the other, waiting for each answer.
// toldBackend makes sessions that want to know whether a 250 was read.
type toldBackend struct{ nullBackend }

type toldSession struct{ Session }

func (b toldBackend) NewSession(ctx context.Context, p *Peer) (Session, error) {
	s, err := b.nullBackend.NewSession(ctx, p)
	return toldSession{s}, err
}

// Received implements Receiver.
func (toldSession) Received() {}

func BenchmarkServer(b *testing.B) {
	benchmarkServer(b, nullBackend{})
	b.Run("told", func(b *testing.B) { benchmarkServer(b, toldBackend{}) })
}

func benchmarkServer(b *testing.B, backend Backend) {
	cfg := ServerConfig{Hostname: "mx.example.test", Backend: backend}
	_, addr := start(b, cfg)
	body := strings.Repeat(strings.Repeat("x", 70)+"\r\n", 57) + ".\r\n"
	b.Run("stepwise", func(b *testing.B) {
		p := call(b, addr)
		p.say("EHLO c\r\n")
		p.hear("250")
		b.ReportAllocs()
		for b.Loop() {
			p.say("MAIL FROM:<a@b>\r\n")
			p.hear("250")
			p.say("RCPT TO:<bob@example.test>\r\n")
			p.hear("250")
			p.say("DATA\r\n")
			p.hear("354")
			p.say(body)
			p.hear("250")
		}
	})
	b.Run("client", func(b *testing.B) {
		conn, err := net.Dial("tcp", addr)
		require.NoError(b, err)
		c, err := NewClient(b.Context(), conn, ClientOptions{Hostname: "c"})
		require.NoError(b, err)
		text := body[:len(body)-3]
		b.ReportAllocs()
		for b.Loop() {
			r, err := c.Send(b.Context(), &Envelope{From: "a@b", To: []Rcpt{{Address: "c@d"}}}, strings.NewReader(text), nil)
			if err != nil || r[0].Code != 250 {
				b.Fatal(err, r)
			}
		}
		_ = c.Close()
	})
}

type nullBackend struct{}

func (nullBackend) NewSession(context.Context, *Peer) (Session, error) { return nullSession{}, nil }

type nullSession struct{}

func (nullSession) Mail(context.Context, string, *MailOptions) error { return nil }
func (nullSession) Rcpt(context.Context, string, *RcptOptions) error { return nil }
func (nullSession) Data(_ context.Context, r io.Reader) (string, error) {
	_, err := io.Copy(io.Discard, r)
	return "x", err
}
func (nullSession) Reset()       {}
func (nullSession) Close() error { return nil }

// An idle connection, after a message went through it, costs at most 40 KiB.
func TestIdleConnectionIsCheap(t *testing.T) {
	if testing.Short() {
		t.Skip("opens many connections")
	}
	s, addr := start(t, ServerConfig{Backend: nullBackend{}})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const n = 300
	for range n {
		p := call(t, addr)
		p.in = bufio.NewReaderSize(p.conn, 16)
		p.say(envelope + "DATA\r\n")
		for range 4 {
			p.hear("")
		}
		p.say(strings.Repeat("x", 5000) + "\r\n.\r\n")
		p.hear("250")
	}
	require.EqualValues(t, n, s.Stats().Active.Load())
	runtime.GC()
	runtime.GC() // the pool forgets
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)) / n
	t.Logf("%d octets a connection, this test's own side included", each)
	require.Less(t, each, int64(40<<10))
}

// panicking has a bug in RCPT.
type panicking struct{ *testSession }

func (s panicking) Rcpt(context.Context, string, *RcptOptions) error { panic("a bug") }

type panickingBackend struct{ *testBackend }

func (b panickingBackend) NewSession(ctx context.Context, p *Peer) (Session, error) {
	s, err := b.testBackend.NewSession(ctx, p)
	if err != nil {
		return nil, err
	}
	return panicking{s.(*testSession)}, nil
}

func TestPanicEndsOneConnectionOnly(t *testing.T) {
	b := panickingBackend{&testBackend{}}
	told := make(chan struct{}, 3)
	s, addr := start(t, ServerConfig{Backend: b, Limits: Limits{Connections: 2}, Log: func(event string, _ ...any) {
		if event == "error" {
			told <- struct{}{}
		}
	}})
	other := call(t, addr)
	for range 3 {
		p := call(t, addr)
		p.say(envelope)
		p.gone()
		<-told // it is counted by then, which the client need not wait for
	}
	other.say("NOOP\r\n")
	other.hear("250")
	require.EqualValues(t, 3, s.Stats().Panics.Load())
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Contains(t, b.log, "close")
}
