package e2e

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/smtp"
)

// hop is a next hop in the test's own process, which takes mail or says later.
type hop struct {
	addr string

	mu       sync.Mutex
	refuse   *smtp.Reply
	refused  int
	arrivals []arrival
}

// arrival is one delivery to one recipient.
type arrival struct {
	id, to string
	at     time.Time
}

func startHop(t *testing.T) *hop {
	h := &hop{}
	server, err := smtp.NewServer(smtp.ServerConfig{
		Hostname: "hop.example.net", Backend: h, Trusted: func(netip.Addr) bool { return true },
	})
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-ended })
	return h
}

// answer sets what every RCPT is answered; nil: mail is taken.
func (h *hop) answer(r *smtp.Reply) {
	h.mu.Lock()
	h.refuse = r
	h.mu.Unlock()
}

// taken returns the deliveries by id.
func (h *hop) taken() map[string][]arrival {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := map[string][]arrival{}
	for _, a := range h.arrivals {
		all[a.id] = append(all[a.id], a)
	}
	return all
}

// NewSession implements smtp.Backend.
func (h *hop) NewSession(context.Context, *smtp.Peer) (smtp.Session, error) {
	return &hopSession{hop: h}, nil
}

type hopSession struct {
	hop *hop
	to  []string
}

func (s *hopSession) Mail(context.Context, string, *smtp.MailOptions) error { s.to = nil; return nil }

func (s *hopSession) Rcpt(_ context.Context, to string, _ *smtp.RcptOptions) error {
	s.hop.mu.Lock()
	defer s.hop.mu.Unlock()
	if s.hop.refuse != nil {
		s.hop.refused++
		return s.hop.refuse
	}
	s.to = append(s.to, to)
	return nil
}

func (s *hopSession) Data(_ context.Context, r io.Reader) (string, error) {
	var b strings.Builder
	if _, err := io.Copy(&b, r); err != nil {
		return "", err
	}
	s.hop.mu.Lock()
	defer s.hop.mu.Unlock()
	for _, to := range s.to {
		s.hop.arrivals = append(s.hop.arrivals, arrival{idOf(b.String()), to, time.Now()})
	}
	return "x", nil
}

func (s *hopSession) Reset()       { s.to = nil }
func (s *hopSession) Close() error { return nil }
