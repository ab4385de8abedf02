// Package hoptest has a next hop that counts what comes to it.
package hoptest

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/smtp"
)

// Hop is an SMTP server that takes all mail, and counts connections and the begin of each message.
type Hop struct {
	net.Listener
	work time.Duration

	mu    sync.Mutex
	open  int
	most  int
	begun []time.Time
}

// New starts a hop at an address that lives as long as the test. Each message takes it some time.
func New(t testing.TB, addr string, work time.Duration) *Hop {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	h := &Hop{Listener: l, work: work}
	srv, err := smtp.NewServer(smtp.ServerConfig{
		Hostname: "counter.test", Backend: h, Trusted: func(netip.Addr) bool { return true },
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ctx, h) }()
	t.Cleanup(func() {
		cancel()
		over, stop := context.WithCancel(context.Background())
		stop()
		_ = srv.Shutdown(over)
		<-done
	})
	return h
}

// Accept implements net.Listener.
func (h *Hop) Accept() (net.Conn, error) {
	c, err := h.Listener.Accept()
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open++
	h.most = max(h.most, h.open)
	return &counted{Conn: c, of: h}, nil
}

// counted is a connection until its goodbye, or its end.
type counted struct {
	net.Conn
	of   *Hop
	once sync.Once
}

func (c *counted) gone() {
	c.once.Do(func() {
		c.of.mu.Lock()
		c.of.open--
		c.of.mu.Unlock()
	})
}

// Write implements net.Conn.
func (c *counted) Write(b []byte) (int, error) {
	if bytes.HasPrefix(b, []byte("221 ")) {
		c.gone()
	}
	return c.Conn.Write(b)
}

// Close implements net.Conn.
func (c *counted) Close() error { c.gone(); return c.Conn.Close() }

// NewSession implements smtp.Backend.
func (h *Hop) NewSession(context.Context, *smtp.Peer) (smtp.Session, error) { return &session{h}, nil }

type session struct{ h *Hop }

func (s *session) Mail(context.Context, string, *smtp.MailOptions) error {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.h.begun = append(s.h.begun, time.Now())
	return nil
}

func (s *session) Rcpt(context.Context, string, *smtp.RcptOptions) error { return nil }

func (s *session) Data(_ context.Context, r io.Reader) (string, error) {
	_, err := io.Copy(io.Discard, r)
	time.Sleep(s.h.work)
	return "counted", err
}

func (s *session) Reset()       {}
func (s *session) Close() error { return nil }

// Connections are those that are open, and the most that ever were at a time.
func (h *Hop) Connections() (open, most int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open, h.most
}

// Begun are the instants at which messages began.
func (h *Hop) Begun() []time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.begun)
}

// Window is the most messages that began within a time.
func (h *Hop) Window(d time.Duration) (most int) {
	begun, from := h.Begun(), 0
	for i, at := range begun {
		for at.Sub(begun[from]) > d {
			from++
		}
		most = max(most, i-from+1)
	}
	return most
}
