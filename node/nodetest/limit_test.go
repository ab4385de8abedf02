package nodetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/node/config"
	"relay/smtp"
)

// countingHop is a hop that counts connections and the begin of each message.
type countingHop struct {
	net.Listener
	work time.Duration // that a message takes

	mu    sync.Mutex
	open  int
	most  int
	begun []time.Time
	told  *sync.Cond
}

func newCountingHop(t *testing.T, addr string, work time.Duration) *countingHop {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	s := &countingHop{Listener: l, work: work}
	srv, err := smtp.NewServer(smtp.ServerConfig{
		Hostname: "counter.test", Backend: s, Trusted: func(netip.Addr) bool { return true },
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ctx, s) }()
	t.Cleanup(func() {
		cancel()
		over, stop := context.WithCancel(context.Background())
		stop()
		_ = srv.Shutdown(over)
		<-done
	})
	return s
}

// Accept implements net.Listener.
func (s *countingHop) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	s.most = max(s.most, s.open)
	return &counted{Conn: c, of: s}, nil
}

// counted is a connection until its goodbye, or its end.
type counted struct {
	net.Conn
	of   *countingHop
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
func (s *countingHop) NewSession(context.Context, *smtp.Peer) (smtp.Session, error) {
	return &countingSession{s}, nil
}

type countingSession struct{ s *countingHop }

func (c *countingSession) Mail(context.Context, string, *smtp.MailOptions) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.begun = append(c.s.begun, time.Now())
	return nil
}

func (c *countingSession) Rcpt(context.Context, string, *smtp.RcptOptions) error { return nil }

func (c *countingSession) Data(_ context.Context, r io.Reader) (string, error) {
	_, err := io.Copy(io.Discard, r)
	time.Sleep(c.s.work)
	return "counted", err
}

func (c *countingSession) Reset()       {}
func (c *countingSession) Close() error { return nil }

// counts are what was seen so far, since an instant.
func (s *countingHop) counts(since time.Time) (open, most, begun int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from, _ := slices.BinarySearchFunc(s.begun, since, time.Time.Compare)
	return s.open, s.most, len(s.begun) - from
}

// window is the most messages that began within a time.
func (s *countingHop) window(d time.Duration) (most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := 0
	for i, at := range s.begun {
		for at.Sub(s.begun[from]) > d {
			from++
		}
		most = max(most, i-from+1)
	}
	return most
}

// limited makes a cluster whose mail for *.big.example goes to a hop that counts, the site big with a limit.
func limited(t *testing.T, work time.Duration, limit string) (*Cluster, *countingHop) {
	t.Helper()
	addr := freeAddr(t)
	_, text, _ := net.SplitHostPort(addr)
	port, err := strconv.Atoi(text)
	require.NoError(t, err)
	s := newCountingHop(t, addr, work)
	c := New(t, Options{Configure: func(_ int, conf *config.Config) { conf.Delivery.Port = port }})
	for i := range domains {
		d := fmt.Sprintf("d%d.big.example", i)
		c.DNS.Add(t, fmt.Sprintf("%s. 60 MX 10 %d.mx.big.example.", d, i),
			fmt.Sprintf("%d.mx.big.example. 60 A 127.0.0.1", i))
	}
	api := c.Nodes[0].Client()
	own := admin.Route{Domain: "big.example", Target: "mx"}
	require.NoError(t, api.SetRoute(within(t, 20*time.Second), admin.By{}, own))
	c.Eventually(20*time.Second, "no cluster version 2", func() bool {
		s, err := api.Status(within(t, 5*time.Second))
		return err == nil && s.ClusterVersion >= 2
	})
	require.NoError(t, api.SetSettings(within(t, 20*time.Second), admin.By{}, admin.Settings{
		RetryFirstSeconds: 1, RetryMaxSeconds: 2,
		Sites: []string{"big mx.big.example"}, Limits: []string{"site:big " + limit}}))
	return c, s
}

const domains = 6

var letters atomic.Int64

// feed gives a node messages.
func (m *Member) feed(n int) {
	for i := range n {
		m.MustSend("alice@example.test", fmt.Sprintf("x@d%d.big.example", i%domains),
			Letter(fmt.Sprint("limited", letters.Add(1))))
	}
}

// TestALimitOfTheCluster: connections and messages at a site, as it counts them, while nodes send alone and together,
// one dies, and one is cut off and comes back.
func TestALimitOfTheCluster(t *testing.T) {
	t.Parallel()
	c, s := limited(t, 20*time.Millisecond, "connections=4 rate=50/s")
	const conns, rate = 4, 50
	began := time.Now()
	c.Nodes[0].feed(100)
	settled := func(n int) {
		t.Helper()
		c.Eventually(2*time.Minute, "not all mail goes", func() bool { _, _, begun := s.counts(began); return begun >= n })
	}
	settled(100)
	for _, m := range c.Nodes {
		m.feed(60)
	}
	settled(280)
	whole := time.Since(began)
	leader := c.Leader()
	i := slices.Index(c.Nodes, leader)
	cut, dead := c.Nodes[(i+1)%3], c.Nodes[(i+2)%3]
	cut.feed(60)
	c.Isolate(cut)
	leader.feed(60)
	settled(340)
	c.Heal(cut)
	settled(400)
	c.WaitHealthy()
	dead.feed(40)
	dead.Kill()
	cut.feed(40)
	settled(440)
	dead.Start()
	dead.WaitReady()
	settled(480)
	_, most, _ := s.counts(began)
	require.LessOrEqual(t, most, conns)
	in := s.window(10 * time.Second)
	t.Logf("280 messages in %v; at most %d in 10 s and %d in 1 s; %d connections at a time", whole, in,
		s.window(time.Second), most)
	require.LessOrEqual(t, in, rate*12, "of a busy machine some arrive late")
}
