package pop3_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"relay/pop3"
	"relay/pop3/pop3test"
	"relay/smtp/sasl"
)

func dial(t testing.TB, s *serving) *pop3.Client {
	t.Helper()
	c, err := pop3.Dial(t.Context(), s.addr, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func config(store pop3.Backend) pop3.ServerConfig {
	return pop3.ServerConfig{Hostname: "mx.example.test", Backend: store, Trusted: everybody}
}

func TestClient(t *testing.T) {
	ctx, store := t.Context(), newStore()
	cfg := config(store)
	cfg.TLS = serverTLS(t)
	c := dial(t, serve(t, cfg, false))
	require.Equal(t, "mx.example.test POP3 server ready", c.Greeting)
	require.Nil(t, c.TLS())
	capa, err := c.Capa(ctx)
	require.NoError(t, err)
	require.Contains(t, capa, "STLS")
	require.NoError(t, c.StartTLS(ctx, &tls.Config{InsecureSkipVerify: true}))
	require.NotNil(t, c.TLS())

	err = c.Login(ctx, "alice", "wrong")
	var refused *pop3.ReplyError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "AUTH", refused.Code)
	require.NoError(t, c.Login(ctx, "alice", "secret"))

	n, octets, err := c.Stat(ctx)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	require.EqualValues(t, 104, octets)
	var sizes []int64
	require.NoError(t, c.List(ctx, func(_ int, size int64) { sizes = append(sizes, size) }))
	require.Equal(t, []int64{24, 38, 42}, sizes)
	var uids []string
	require.NoError(t, c.UIDL(ctx, func(_ int, uid []byte) { uids = append(uids, string(uid)) }))
	require.Equal(t, []string{"u1", "u2", "u3"}, uids)

	for i, want := range mail {
		var got bytes.Buffer
		n, err := c.Retr(ctx, i+1, &got)
		require.NoError(t, err)
		require.EqualValues(t, sizes[i], n)
		require.Equal(t, want, got.String())
	}
	got := make([]bytes.Buffer, 3)
	require.NoError(t, c.RetrPipelined(ctx, 1, 3, 2, func(n int) io.Writer { return &got[n-1] }))
	for i, want := range mail {
		require.Equal(t, want, got[i].String())
	}
	var top bytes.Buffer
	_, err = c.Top(ctx, 3, 1, &top)
	require.NoError(t, err)
	require.Equal(t, "Subject: three\r\n\r\nline 1\r\n", top.String())
	_, err = c.RetrUID(ctx, "UID:u9", io.Discard)
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "UID", refused.Code)

	require.NoError(t, c.Dele(ctx, 1))
	require.NoError(t, c.Reset(ctx))
	require.NoError(t, c.Noop(ctx))
	require.NoError(t, c.Deli(ctx, 2))
	require.NoError(t, c.Sleep(ctx))
	store.Deliver("alice", "x\r\n")
	news, err := c.Wake(ctx)
	require.NoError(t, err)
	require.True(t, news)
	require.NoError(t, c.Dele(ctx, 1))
	require.NoError(t, c.Quit(ctx))
	require.Equal(t, []string{"u3", "u4"}, store.UIDs("alice"))
}

// TestMechanisms logs in by each mechanism, in the clear and on TLS.
func TestMechanisms(t *testing.T) {
	ctx := t.Context()
	cfg := config(newStore())
	cfg.TLS, cfg.Mechanisms = serverTLS(t), sasl.Names()
	s := serve(t, cfg, false)
	long := strings.Repeat("x", 300) // a response that does not fit a command
	makers := map[string]func(user, secret string, c *pop3.Client) sasl.Client{
		"PLAIN": func(user, secret string, _ *pop3.Client) sasl.Client { return sasl.NewPlainClient(user, secret) },
		"LOGIN": func(user, secret string, _ *pop3.Client) sasl.Client { return sasl.NewLoginClient(user, secret) },
		"SCRAM": func(user, secret string, c *pop3.Client) sasl.Client {
			return sasl.NewScramClient(user, secret, c.TLS())
		},
	}
	for name, client := range makers {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprint(name, secure), func(t *testing.T) {
				c := dial(t, s)
				if secure {
					require.NoError(t, c.StartTLS(ctx, &tls.Config{InsecureSkipVerify: true}))
				}
				for _, bad := range [][2]string{{"alice", "wrong"}, {"nobody", "secret"}, {"alice", long}} {
					var refused *pop3.ReplyError
					require.ErrorAs(t, c.Auth(ctx, client(bad[0], bad[1], c)), &refused)
					require.Equal(t, "AUTH", refused.Code)
				}
				require.NoError(t, c.Auth(ctx, client("alice", "secret", c)))
				_, _, err := c.Stat(ctx)
				require.NoError(t, err)
				require.NoError(t, c.Quit(ctx))
			})
		}
	}
}

// TestProofNotJudged: where the backend can't tell whether a proof is wrong, the
// client is not told that it is, and it is not counted against it.
func TestProofNotJudged(t *testing.T) {
	store := newStore()
	store.Fail("alice", "disproven", errors.New("the keys may be old"))
	c := dial(t, serve(t, config(store), false))
	for range 20 {
		var refused *pop3.ReplyError
		require.ErrorAs(t, c.Auth(t.Context(), sasl.NewScramClient("alice", "wrong", nil)), &refused)
		require.Equal(t, "SYS/TEMP", refused.Code)
	}
	require.NoError(t, c.Auth(t.Context(), sasl.NewScramClient("alice", "secret", nil)))
}

func TestImplicitTLS(t *testing.T) {
	cfg := config(newStore())
	cfg.TLS, cfg.ImplicitTLS, cfg.Trusted = serverTLS(t), true, nil
	var events sync.Map
	cfg.Log = func(event string, _ ...any) { events.Store(event, true) }
	s := serve(t, cfg, false)
	c, err := pop3.Dial(t.Context(), s.addr, &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, err)
	require.NoError(t, c.Login(t.Context(), "alice", "secret"))
	require.NoError(t, c.Quit(t.Context()))

	nc, err := s.dial(t.Context())
	require.NoError(t, err)
	defer nc.Close()
	_, err = nc.Write([]byte("QUIT\r\n this is no handshake"))
	require.NoError(t, err)
	_, err = io.ReadAll(nc)
	_ = err // an alert, or a reset
	require.Eventually(t, func() bool { _, ok := events.Load("tls failed"); return ok }, time.Minute, time.Millisecond)
}

func TestConfiguration(t *testing.T) {
	for _, bad := range []pop3.ServerConfig{
		{}, {Backend: newStore(), ImplicitTLS: true}, {Backend: newStore(), AutoLogout: -1},
		{Backend: struct{ pop3.Backend }{newStore()}, With: pop3.APOP},
	} {
		_, err := pop3.NewServer(bad)
		require.Error(t, err)
	}
}

// TestBackendSeesPeer checks what a backend is told of a connection.
func TestBackendSeesPeer(t *testing.T) {
	var seen pop3.Peer
	s := serve(t, config(loginFunc(func(p *pop3.Peer) error { seen = *p; return pop3.ErrAuth })), false)
	c := dial(t, s)
	require.Error(t, c.Login(t.Context(), "a", "b"))
	require.True(t, seen.Trusted)
	require.Equal(t, "USER", seen.Mechanism)
	require.Equal(t, s.addr, seen.Local.String())
	require.Equal(t, netip.MustParseAddr("127.0.0.1"), seen.Remote.Addr())
	require.NotEmpty(t, seen.Session)
	require.Error(t, c.Auth(t.Context(), sasl.NewPlainClient("a", "b")))
	require.Equal(t, "PLAIN", seen.Mechanism)
}

type loginFunc func(*pop3.Peer) error

func (loginFunc) SameAccount(context.Context, string, string) bool { return false }

func (f loginFunc) Login(_ context.Context, p *pop3.Peer, _, _ string) (pop3.Maildrop, error) {
	return nil, f(p)
}

// TestPanic checks that a broken backend takes down one session only.
func TestPanic(t *testing.T) {
	s := serve(t, config(loginFunc(func(*pop3.Peer) error { panic("oh") })), false)
	c := dial(t, s)
	require.Error(t, c.Login(t.Context(), "a", "b"))
	dial(t, s)
}

// A panic and deletions that were not committed are told to the hook of refusals,
// with what is needed to find the cause.
func TestPanicsAndLostDeletionsAreTold(t *testing.T) {
	ctx, told := t.Context(), make(chan pop3.Refusal, 1)
	hook := func(f *pop3.Refusal) { told <- *f }
	cfg := config(loginFunc(func(*pop3.Peer) error { panic("oh") }))
	cfg.Refused = hook
	require.Error(t, dial(t, serve(t, cfg, false)).Login(ctx, "a", "b"))
	f := <-told
	require.Equal(t, []string{"panic", "panic"}, []string{f.Stage, f.Reason})
	require.EqualError(t, f.Cause, "panic: oh")
	require.Contains(t, f.Stack, "pop3_test.loginFunc.Login")

	store := newStore()
	store.Fail("alice", "commit", pop3test.ErrBroken)
	cfg = config(store)
	cfg.Refused = hook
	c := dial(t, serve(t, cfg, false))
	require.NoError(t, c.Login(ctx, "alice", "secret"))
	require.NoError(t, c.Dele(ctx, 1))
	require.NoError(t, c.Dele(ctx, 3))
	require.Error(t, c.Quit(ctx))
	f = <-told
	require.Equal(t, []string{"commit", "not_committed"}, []string{f.Stage, f.Reason})
	require.ErrorIs(t, f.Cause, pop3test.ErrBroken)
	require.Equal(t, 2, f.Messages)
	require.NotEmpty(t, f.Peer.Session)
}

// TestShutdown checks that sessions with a maildrop may finish, the others not.
func TestShutdown(t *testing.T) {
	ctx, store := t.Context(), newStore()
	s := serve(t, config(store), false)
	idle, busy, asleep := dial(t, s), dial(t, s), dial(t, s)
	require.NoError(t, asleep.Login(ctx, "bob", "two words "))
	require.NoError(t, asleep.Sleep(ctx))
	require.NoError(t, busy.Login(ctx, "alice", "secret"))
	require.NoError(t, busy.Dele(ctx, 1))
	require.Equal(t, 3, s.Sessions())
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(ctx) }()
	for _, c := range []*pop3.Client{idle, asleep} {
		_, err := c.Reply()
		require.EqualError(t, err, "pop3: [SYS/TEMP] server is stopping, nothing was deleted")
		_, err = c.Reply()
		require.Equal(t, io.EOF, err)
	}
	require.NoError(t, busy.Noop(ctx))
	require.NoError(t, busy.Quit(ctx))
	require.NoError(t, <-down)
	require.Equal(t, []string{"u2", "u3"}, store.UIDs("alice"))
	require.NoError(t, <-s.done)
	s.done <- nil
	require.Zero(t, s.Sessions())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.ErrorIs(t, s.Serve(ctx, ln), pop3.ErrServerClosed)
}

// TestRefuse checks that a server that goes out of service lets sessions with a
// maildrop finish, ends the others, and lets nobody in until it is back.
func TestRefuse(t *testing.T) {
	const words = "pop3: [SYS/TEMP] server is going out of service, connect again; nothing was deleted"
	ctx, store := t.Context(), newStore()
	s := serve(t, config(store), false)
	idle, busy, asleep := dial(t, s), dial(t, s), dial(t, s)
	require.NoError(t, asleep.Login(ctx, "bob", "two words "))
	require.NoError(t, asleep.Sleep(ctx))
	require.NoError(t, busy.Login(ctx, "alice", "secret"))
	require.NoError(t, busy.Dele(ctx, 1))
	s.Refuse(true, time.Minute)
	for _, c := range []*pop3.Client{idle, asleep} {
		_, err := c.Reply()
		require.EqualError(t, err, words)
		_, err = c.Reply()
		require.Equal(t, io.EOF, err)
	}
	_, err := pop3.Dial(ctx, s.addr, nil)
	require.ErrorContains(t, err, "[SYS/TEMP] server is going out of service")
	require.NoError(t, busy.Noop(ctx))
	require.NoError(t, busy.Sleep(ctx), "the deletions are committed")
	_, err = busy.Reply()
	require.EqualError(t, err, words)
	require.Equal(t, []string{"u2", "u3"}, store.UIDs("alice"))
	s.Refuse(false, 0)
	require.NoError(t, dial(t, s).Login(ctx, "alice", "secret"))
}

// TestRefuseGrace checks that who is silent for half a minute is cut, and that a
// stop after that waits for less.
func TestRefuseGrace(t *testing.T) {
	for _, stops := range []bool{false, true} {
		store := newStore()
		inBubble(t, config(store), func(srv *pop3.Server, ln *pipe) {
			c := ln.dial(t)
			require.NoError(t, c.Login(context.Background(), "alice", "secret"))
			srv.Refuse(true, 30*time.Second)
			time.Sleep(25 * time.Second) // the bubble's clock
			require.NoError(t, c.Noop(context.Background()))
			start := time.Now()
			if stops {
				go func() { _ = srv.Shutdown(context.Background()) }()
			}
			_, err := c.Reply()
			require.ErrorContains(t, err, "[SYS/TEMP]")
			require.Equal(t, !stops, time.Since(start) > 20*time.Second)
			require.Less(t, time.Since(start), 31*time.Second)
			synctest.Wait()
			require.False(t, store.Held("alice"))
		})
	}
}

// TestStop checks that the end of Serve's context cuts all sessions and frees
// their maildrops.
func TestStop(t *testing.T) {
	ctx, store := t.Context(), newStore()
	s := serve(t, config(store), false)
	c := dial(t, s)
	require.NoError(t, c.Login(ctx, "alice", "secret"))
	require.NoError(t, c.Dele(ctx, 1))
	s.stop()
	_, err := c.Reply()
	require.EqualError(t, err, "pop3: [SYS/TEMP] server is stopping, nothing was deleted")
	require.NoError(t, <-s.done)
	s.done <- nil
	require.False(t, store.Held("alice"))
	require.Len(t, store.UIDs("alice"), 3)
}

// TestLostWhileSending checks that a session which loses its maildrop in the
// middle of a message breaks off without the final dot.
func TestLostWhileSending(t *testing.T) {
	store := newStore()
	store.Deliver("alice", strings.Repeat("0123456789\r\n", 1<<20))
	s := serve(t, config(store), false)
	c := dial(t, s)
	require.NoError(t, c.Login(t.Context(), "alice", "secret"))
	require.NoError(t, c.Send("RETR 4"))
	_, err := c.Reply()
	require.NoError(t, err)
	store.Lose("alice", "gone")
	_, err = c.Body(io.Discard)
	require.Error(t, err)
	require.EqualValues(t, 1, s.Stats().Lost.Load())
}

// TestManySessions has many users come and go at once.
func TestManySessions(t *testing.T) {
	store := pop3test.NewStore("example.test")
	s := serve(t, config(store), false)
	var wg sync.WaitGroup
	for u := range 8 {
		user := fmt.Sprint("user", u)
		store.AddUser(user, "secret")
		wg.Go(func() {
			for round := range 20 {
				store.Deliver(user, fmt.Sprintf("Subject: %d\r\n\r\n%d\r\n", round, round))
				c, err := pop3.Dial(t.Context(), s.addr, nil)
				if err == nil {
					err = errors.Join(c.Login(t.Context(), user, "secret"), c.Dele(t.Context(), 1), c.Quit(t.Context()))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 160, s.Stats().Deleted.Load())
	require.Eventually(t, func() bool { return s.Sessions() == 0 }, time.Minute, time.Millisecond)
	require.Zero(t, s.Stats().LoggedIn.Load())
}

// pipe is a listener of connections in memory, for tests in a synctest bubble.
type pipe struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipe() *pipe { return &pipe{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipe) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipe) dial(t *testing.T) *pop3.Client {
	near, far := net.Pipe()
	p.conns <- far
	c, err := pop3.NewClient(context.Background(), near)
	require.NoError(t, err)
	return c
}

// inBubble runs a server under a clock that only moves when all wait.
func inBubble(t *testing.T, cfg pop3.ServerConfig, f func(*pop3.Server, *pipe)) {
	synctest.Test(t, func(t *testing.T) {
		srv, err := pop3.NewServer(cfg)
		require.NoError(t, err)
		ctx, stop := context.WithCancel(context.Background())
		ln, done := newPipe(), make(chan error)
		go func() { done <- srv.Serve(ctx, ln) }()
		f(srv, ln)
		stop()
		require.NoError(t, <-done)
	})
}

// TestTimers checks ten minutes, the hour of a sleeper, and the patience with a
// client that takes nothing.
func TestTimers(t *testing.T) {
	store := newStore()
	inBubble(t, config(store), func(srv *pop3.Server, ln *pipe) {
		ctx, start := context.Background(), time.Now()
		c := ln.dial(t)
		require.NoError(t, c.Login(ctx, "alice", "secret"))
		_, err := c.Reply()
		require.Equal(t, io.EOF, err)
		require.Equal(t, 10*time.Minute, time.Since(start))
		require.False(t, store.Held("alice"))

		start = time.Now()
		c = ln.dial(t)
		require.NoError(t, c.Login(ctx, "alice", "secret"))
		require.NoError(t, c.Sleep(ctx))
		_, err = c.Reply()
		require.Equal(t, io.EOF, err)
		require.Equal(t, time.Hour, time.Since(start))
		require.EqualValues(t, 2, srv.Stats().Autologouts.Load())
		require.Zero(t, srv.Stats().Sleeping.Load())

		c = ln.dial(t)
		require.NoError(t, c.Login(ctx, "alice", "secret"))
		require.NoError(t, c.Send("RETR 1"))
		require.NoError(t, c.Flush())
		synctest.Wait()
		time.Sleep(2 * time.Minute) // the bubble's clock
		synctest.Wait()
		require.False(t, store.Held("alice"))
		_ = c.Close()
	})
}

// TestTrickle checks that octets alone do not keep a session alive, only
// commands do.
func TestTrickle(t *testing.T) {
	inBubble(t, config(newStore()), func(srv *pop3.Server, ln *pipe) {
		near, far := net.Pipe()
		ln.conns <- far
		go func() { _, _ = io.Copy(io.Discard, near) }()
		start := time.Now()
		for {
			if _, err := near.Write([]byte("x")); err != nil {
				break
			}
			time.Sleep(time.Minute) // the bubble's clock
		}
		require.LessOrEqual(t, time.Since(start), 11*time.Minute)
		_ = near.Close()
	})
}

// TestDrainGrace checks that a server which stops does not wait for a silent
// client.
func TestDrainGrace(t *testing.T) {
	store := newStore()
	inBubble(t, config(store), func(srv *pop3.Server, ln *pipe) {
		c := ln.dial(t)
		require.NoError(t, c.Login(context.Background(), "alice", "secret"))
		start := time.Now()
		down := make(chan error)
		go func() { down <- srv.Shutdown(context.Background()) }()
		_, err := c.Reply()
		require.EqualError(t, err, "pop3: [SYS/TEMP] server is stopping, nothing was deleted")
		require.NoError(t, <-down)
		require.Less(t, time.Since(start), 5*time.Second)
		require.False(t, store.Held("alice"))
	})
}

// TestAcceptErrors checks that a listener out of file descriptors is asked
// again, and that Serve returns other errors.
func TestAcceptErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, err := pop3.NewServer(config(newStore()))
		require.NoError(t, err)
		ln := &failing{pipe: newPipe(), errs: []error{tempError{}, tempError{}, tempError{}, io.ErrUnexpectedEOF}}
		require.ErrorIs(t, srv.Serve(context.Background(), ln), io.ErrUnexpectedEOF)
		require.Empty(t, ln.errs)
	})
}

type failing struct {
	*pipe
	errs []error
}

func (f *failing) Accept() (net.Conn, error) {
	err := f.errs[0]
	f.errs = f.errs[1:]
	return nil, err
}

type tempError struct{}

func (tempError) Error() string   { return "too many open files" }
func (tempError) Temporary() bool { return true }

// TestIdleMemory holds idle sessions against their budget of 40 KiB, stacks and
// both ends included.
func TestIdleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("opens many connections")
	}
	n := 500
	if os.Getenv("RELAY_SCALE") != "" {
		n = 9000 // both ends are in this process, and count as files
	}
	store := pop3test.NewStore("example.test")
	for i := range n {
		store.AddUser(fmt.Sprint("u", i), "s")
	}
	s := serve(t, config(store), false)
	before := inUse()
	conns := make([]net.Conn, n)
	buf := make([]byte, 1024)
	for i := range conns {
		nc, err := s.dial(t.Context())
		require.NoError(t, err)
		defer nc.Close()
		for _, say := range []string{"", fmt.Sprintf("USER u%d\r\n", i), "PASS s\r\n"} {
			_, err := nc.Write([]byte(say))
			require.NoError(t, err)
			_, err = nc.Read(buf)
			require.NoError(t, err)
		}
		conns[i] = nc
	}
	require.EqualValues(t, n, s.Stats().LoggedIn.Load())
	each := (inUse() - before) / int64(n)
	t.Logf("%d octets an idle session", each)
	require.Less(t, each, int64(40<<10))
}

func inUse() int64 {
	runtime.GC()
	runtime.GC() // the pools' second generation
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// deaf is a Backend that does not answer before it is given up.
type deaf struct{}

func (deaf) Login(ctx context.Context, _ *pop3.Peer, _, _ string) (pop3.Maildrop, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (deaf) SameAccount(context.Context, string, string) bool { return false }

// TestLoginIsBounded: a login that leads nowhere is answered, in either protocol.
func TestLoginIsBounded(t *testing.T) {
	for _, row := range []struct {
		serve func(*pop3.Server, context.Context, net.Listener) error
		login string
		want  []string
	}{
		{(*pop3.Server).Serve, "USER alice\r\nPASS secret\r\n", []string{"+OK", "+OK", "-ERR [SYS/TEMP]"}},
		{(*pop3.Server).ServePOP2, "HELO alice secret\r\n", []string{"+ POP2", "- temporary failure"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv, err := pop3.NewServer(config(deaf{}))
			require.NoError(t, err)
			ctx, stop := context.WithCancel(context.Background())
			ln, done := newPipe(), make(chan error)
			go func() { done <- row.serve(srv, ctx, ln) }()
			near, far := net.Pipe()
			ln.conns <- far
			begin := time.Now()
			go func() { _, _ = io.WriteString(near, row.login) }()
			in := bufio.NewReader(near)
			for _, want := range row.want {
				require.NoError(t, near.SetReadDeadline(begin.Add(time.Hour)))
				line, err := in.ReadString('\n')
				require.NoError(t, err)
				require.Contains(t, line, want)
			}
			require.LessOrEqual(t, time.Since(begin), 15*time.Second)
			_ = near.Close()
			stop()
			require.NoError(t, <-done)
		})
	}
}
