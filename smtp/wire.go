package smtp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// ErrStray is wrapped where the server said something that no command had asked
// for, or gave a reply that cannot be the one to its command. From there on
// nobody can tell which reply belongs to which command.
const ErrStray = constError("smtp: a reply that no command accounts for")

// Wire makes a connection that a Client can ask, without waiting, what has
// arrived. NewClient does that with every connection in clear; a caller that
// makes a TLS connection itself does it with what lies below the TLS.
func Wire(conn net.Conn) net.Conn {
	if w, ok := conn.(*wire); ok {
		return w
	}
	s, ok := conn.(syscall.Conn)
	if !ok {
		return conn
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return conn
	}
	w := &wire{Conn: conn, raw: raw}
	w.take = w.takeNow
	return w
}

// wire is a connection whose Read waits for nothing while it is told so.
type wire struct {
	net.Conn
	raw  syscall.RawConn
	mode mode

	// The arguments and results of takeNow, kept here so that a probe
	// allocates nothing.
	take func(fd uintptr) bool
	into []byte
	n    int
	err  error
}

// mode is how a wire reads.
type mode uint8

const (
	waiting mode = iota
	now          // what has arrived
	nothing      // nothing, so that TLS gives what it has read before
)

func (w *wire) Read(b []byte) (int, error) {
	if w.mode == waiting || len(b) == 0 {
		return w.Conn.Read(b)
	}
	if w.mode == nothing {
		return 0, os.ErrDeadlineExceeded
	}
	w.into = b
	err := w.raw.Read(w.take)
	w.into = nil
	switch {
	case err != nil:
		return 0, err
	case w.err != nil:
		return 0, w.err
	case w.n == 0:
		return 0, io.EOF
	}
	return w.n, nil
}

// takeNow reads what is there.
func (w *wire) takeNow(fd uintptr) bool {
	for {
		w.n, w.err = syscall.Read(int(fd), w.into)
		switch {
		case w.err == nil:
		case errors.Is(w.err, syscall.EINTR):
			continue
		case errors.Is(w.err, syscall.EAGAIN):
			// crypto/tls goes on after an error that says it is a time-out.
			w.n, w.err = 0, os.ErrDeadlineExceeded
		default:
			w.n, w.err = 0, os.NewSyscallError("read", w.err)
		}
		return true
	}
}

// wireOf finds the wire below a connection; nil: it cannot be asked.
func wireOf(conn net.Conn) *wire {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	w, _ := conn.(*wire)
	return w
}

// arrived reads what has arrived, without waiting.
func (c *Client) arrived(m mode) error {
	if c.wire == nil {
		return nil
	}
	c.wire.mode = m
	n, err := c.conn.Read(c.in.room())
	c.wire.mode = waiting
	c.in.w += n
	if n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// quiet is called where every command has its reply: nothing may have arrived.
// A server that says goodbye unasked is the exception (RFC 5321 section 3.8).
// Its error ends the connection.
func (c *Client) quiet(ctx context.Context) error {
	if len(c.in.pending()) == 0 {
		if err := c.arrived(now); err != nil {
			return c.broken(c.cause(ctx, err))
		}
	}
	said := c.in.pending()
	if len(said) == 0 {
		return nil
	}
	if bytes.HasPrefix(said, []byte("421")) && hasReply(said) {
		if r, err := c.reply(ctx); err != nil {
			return err
		} else if r.Code == 421 && len(c.in.pending()) == 0 {
			return c.broken(r)
		}
	}
	return c.broken(fmt.Errorf("%w: %.60q", ErrStray, said))
}

// surplus reads the replies that came together with the one that should have been
// the last. whole: there is nothing else, and no more of them than a server that
// stutters may send. It does not look at the socket: input that came later is found
// before the next command goes out.
func (c *Client) surplus(ctx context.Context) (replies []*Reply, whole bool) {
	if len(c.in.pending()) == 0 {
		if c.tls != nil {
			_ = c.arrived(nothing)
		}
	}
	for len(c.in.pending()) > 0 {
		if len(replies) == 4 || !hasReply(c.in.pending()) {
			return replies, false
		}
		r, err := c.reply(ctx)
		if err != nil {
			return replies, false
		}
		replies = append(replies, r)
	}
	return replies, true
}

// hasReply reports whether there is a whole reply at the beginning of b, or
// something that is none.
func hasReply(b []byte) bool {
	for {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		if !whole {
			return false
		}
		if _, more, _, ok := replyLine(bytes.TrimSuffix(line, []byte("\r"))); !more || !ok {
			return true
		}
		b = rest
	}
}
