package nodetest

import (
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/smtp"
)

// Delivery is one recipient's copy that arrived at a Sink.
type Delivery struct {
	From, To string
	Body     string
}

// Sink is an SMTP server that keeps what it gets in memory, and can be told to
// answer otherwise.
type Sink struct {
	Addr string

	mu     sync.Mutex
	got    []Delivery
	answer func(to string) error // nil: 250
	grown  chan struct{}
}

// NewSink starts a sink that lives as long as the test. addr is where it
// listens, such as 127.0.0.1:0.
func NewSink(t testing.TB, addr string) *Sink {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	s := &Sink{Addr: l.Addr().String(), grown: make(chan struct{})}
	srv, err := smtp.NewServer(smtp.ServerConfig{
		Hostname: "sink.test", Backend: s, Trusted: func(netip.Addr) bool { return true }, MaxRecipients: 5000,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		over, stop := context.WithCancel(context.Background())
		stop()
		_ = srv.Shutdown(over)
		<-done
	})
	return s
}

// Answer sets what RCPT is answered: nil for 250, or a *smtp.Reply.
func (s *Sink) Answer(fn func(to string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = fn
}

// Got returns all deliveries so far.
func (s *Sink) Got() []Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// Wait returns once n deliveries have arrived.
func (s *Sink) Wait(ctx context.Context, n int) error {
	for {
		s.mu.Lock()
		have, grown := len(s.got), s.grown
		s.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// NewSession implements smtp.Backend.
func (s *Sink) NewSession(context.Context, *smtp.Peer) (smtp.Session, error) {
	return &sinkSession{sink: s}, nil
}

type sinkSession struct {
	sink *Sink
	from string
	to   []string
}

func (s *sinkSession) Mail(_ context.Context, from string, _ *smtp.MailOptions) error {
	s.from, s.to = from, nil
	return nil
}

func (s *sinkSession) Rcpt(_ context.Context, to string, _ *smtp.RcptOptions) error {
	s.sink.mu.Lock()
	answer := s.sink.answer
	s.sink.mu.Unlock()
	if answer != nil {
		if err := answer(to); err != nil {
			return err
		}
	}
	s.to = append(s.to, to)
	return nil
}

func (s *sinkSession) Data(_ context.Context, r io.Reader) (string, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	s.sink.mu.Lock()
	defer s.sink.mu.Unlock()
	for _, to := range s.to {
		s.sink.got = append(s.sink.got, Delivery{From: s.from, To: to, Body: string(b)})
	}
	close(s.sink.grown)
	s.sink.grown = make(chan struct{})
	return "sunk", nil
}

func (s *sinkSession) Reset()       { s.to = nil }
func (s *sinkSession) Close() error { return nil }
