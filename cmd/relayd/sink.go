package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"relay/smtp"
)

// sink takes all remote mail of a trial cluster, so that nothing leaves the
// machine. Each message becomes one file of its directory: the envelope as
// X-Sink fields, then the octets that came. A file appears whole or not at all;
// nothing is synced, because this is no place to keep mail.
type sink struct {
	dir     string
	tmp     string // beside dir, so that a listing of dir shows whole messages only
	discard bool   // count only, for benchmarks
	seq     atomic.Uint64
	buffers sync.Pool
}

func newSink(dir string, discard bool) (*sink, error) {
	s := &sink{dir: dir, tmp: dir + ".tmp", discard: discard}
	s.buffers.New = func() any { return bufio.NewWriterSize(nil, 32<<10) }
	_ = os.RemoveAll(s.tmp) // halves that a killed process left
	return s, errors.Join(os.MkdirAll(s.dir, 0o755), os.MkdirAll(s.tmp, 0o755))
}

// serve takes mail on l until ctx ends.
func (s *sink) serve(ctx context.Context, l net.Listener) error {
	server, err := smtp.NewServer(smtp.ServerConfig{
		Hostname: "sink.example.test",
		Backend:  s,
		Trusted:  func(a netip.Addr) bool { return a.IsLoopback() },
		MaxSize:  1 << 30,
	})
	if err != nil {
		return err
	}
	return server.Serve(ctx, l)
}

// NewSession implements smtp.Backend.
func (s *sink) NewSession(_ context.Context, p *smtp.Peer) (smtp.Session, error) {
	return &sinkSession{sink: s, peer: p}, nil
}

type sinkSession struct {
	sink *sink
	peer *smtp.Peer
	from string
	to   []string
}

func (c *sinkSession) Mail(_ context.Context, from string, _ *smtp.MailOptions) error {
	c.from, c.to = from, nil
	return nil
}

func (c *sinkSession) Rcpt(_ context.Context, to string, _ *smtp.RcptOptions) error {
	c.to = append(c.to, to)
	return nil
}

func (c *sinkSession) Data(_ context.Context, r io.Reader) (string, error) {
	n := c.sink.seq.Add(1)
	id := strconv.FormatUint(n, 10)
	if c.sink.discard {
		_, err := io.Copy(io.Discard, r)
		return id, err
	}
	return id, c.keep(n, r)
}

// keep writes one message. Names sort in the order of arrival.
func (c *sinkSession) keep(n uint64, r io.Reader) error {
	name := fmt.Sprintf("%d-%06d.eml", time.Now().UnixNano(), n)
	tmp := filepath.Join(c.sink.tmp, name)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	w := c.sink.buffers.Get().(*bufio.Writer)
	w.Reset(f)
	_, _ = w.WriteString(c.envelope())
	_, err = io.Copy(w, r)
	err = errors.Join(err, w.Flush(), f.Close())
	c.sink.buffers.Put(w)
	if err == nil {
		err = os.Rename(tmp, filepath.Join(c.sink.dir, name))
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}

// envelope writes what SMTP said besides the message, as header fields.
func (c *sinkSession) envelope() string {
	var b strings.Builder
	fmt.Fprintf(&b, "X-Sink-From: <%s>\r\n", c.from)
	for _, to := range c.to {
		fmt.Fprintf(&b, "X-Sink-To: <%s>\r\n", to)
	}
	fmt.Fprintf(&b, "X-Sink-Client: %s [%s]\r\n", c.peer.Helo, c.peer.Remote)
	return b.String()
}

func (c *sinkSession) Reset()       { c.from, c.to = "", nil }
func (c *sinkSession) Close() error { return nil }
