package remote

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"relay/queue"
	"relay/smtp"
)

// sink is an SMTP server that takes everything, and a spool that has all there
// is to send.
type sink struct {
	left atomic.Int64
	body string
	done chan struct{}
	once sync.Once
}

func (s *sink) NewSession(context.Context, *smtp.Peer) (smtp.Session, error) {
	return sinkSession{}, nil
}

type sinkSession struct{}

func (sinkSession) Mail(context.Context, string, *smtp.MailOptions) error { return nil }
func (sinkSession) Rcpt(context.Context, string, *smtp.RcptOptions) error { return nil }
func (sinkSession) Data(_ context.Context, r io.Reader) (string, error) {
	_, err := io.Copy(io.Discard, r)
	return "x", err
}
func (sinkSession) Reset()       {}
func (sinkSession) Close() error { return nil }

func (s *sink) Scan(ctx context.Context, _ func(queue.Waiting)) error {
	<-ctx.Done()
	return ctx.Err()
}
func (s *sink) Until() time.Time { return time.Now().Add(time.Hour) }
func (s *sink) Load(_ context.Context, id queue.ID, ns []uint32) (*queue.Job, error) {
	j := jobTo("", "a@x")
	j.ID, j.Recipients[0].N, j.Size = id, ns[0], int64(len(s.body))
	j.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(s.body)), nil }
	return j, nil
}

func (s *sink) Settle(_ context.Context, v []queue.Verdict, _ []queue.Notice) ([]queue.Taken, error) {
	taken := make([]queue.Taken, len(v))
	for i := range v {
		taken[i] = queue.Applied
		if v[i].Outcome != queue.Delivered {
			panic(v[i].Reply)
		}
	}
	if s.left.Add(-int64(len(v))) <= 0 {
		s.once.Do(func() { close(s.done) })
	}
	return taken, nil
}

// BenchmarkRelay sends messages of 4 KiB from a spool that costs nothing,
// through manager and agent, to an SMTP server on loopback.
func BenchmarkRelay(b *testing.B) {
	s := &sink{done: make(chan struct{}), body: "Subject: x\r\n\r\n" + strings.Repeat(strings.Repeat("x", 62)+"\r\n", 64)}
	s.left.Store(int64(b.N))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv, err := smtp.NewServer(smtp.ServerConfig{
		Hostname: "sink.example", Backend: s, Trusted: func(netip.Addr) bool { return true },
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var ends sync.WaitGroup
	ends.Go(func() { _ = srv.Serve(ctx, l) })
	a, err := New(Config{Hostname: "relay.example"})
	if err != nil {
		b.Fatal(err)
	}
	m := queue.New(queue.Config{Spool: s, Agent: a})
	ends.Go(func() { _ = m.Run(ctx) })
	b.ReportAllocs()
	b.SetBytes(int64(len(s.body)))
	b.ResetTimer()
	route := "smtp:" + net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	for i := range b.N {
		w := queue.Waiting{Domain: "x", Route: route}
		binary.BigEndian.PutUint64(w.ID[8:], uint64(i)*0x9e3779b97f4a7c15)
		m.Add([]queue.Waiting{w})
	}
	<-s.done
	b.StopTimer()
	_ = a.Close()
	cancel()
	ends.Wait()
}
