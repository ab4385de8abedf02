package pop3

import (
	"bytes"
	"errors"
	"io"
)

// errEnough stops a writer that has more to write than TOP asked for.
var errEnough = errors.New("pop3: enough lines")

// sink takes octets that are ready for the wire. put copies what it keeps.
type sink interface {
	put(p []byte) error
}

// stuffer writes a message as the body of a multi-line reply (RFC 1939 §3): a
// line that begins with a dot gets another one. It works block by block, never
// line by line: it looks for line ends that a dot follows and copies all
// between them at once.
type stuffer struct {
	to    sink
	bol   bool    // at the beginning of a line
	tail  [2]byte // the last two octets written
	count int64   // octets taken, before stuffing
	cut   *topper // nil: the whole message
}

var lineDot = []byte("\n.")

func (s *stuffer) reset(to sink, cut *topper) {
	*s = stuffer{to: to, bol: true, cut: cut}
}

// clean reports whether p can be sent as it is.
func (s *stuffer) clean(p []byte) bool {
	return s.cut == nil && (len(p) == 0 || !s.bol || p[0] != '.') && !bytes.Contains(p, lineDot)
}

// note remembers what the end of p means for what follows.
func (s *stuffer) note(p []byte) {
	n := len(p)
	s.count += int64(n)
	switch {
	case n >= 2:
		s.tail = [2]byte{p[n-2], p[n-1]}
	case n == 1:
		s.tail = [2]byte{s.tail[1], p[0]}
	default:
		return
	}
	s.bol = s.tail[1] == '\n'
}

// Write takes the next octets of the message. It returns errEnough when TOP's
// lines are complete.
func (s *stuffer) Write(p []byte) (int, error) {
	var end error
	if s.cut != nil {
		n, done := s.cut.take(p)
		p = p[:n]
		if done {
			end = errEnough
		}
	}
	if err := s.stuff(p); err != nil {
		return 0, err
	}
	s.note(p)
	return len(p), end
}

func (s *stuffer) stuff(p []byte) error {
	if s.bol && len(p) > 0 && p[0] == '.' {
		if err := s.to.put(lineDot[1:]); err != nil {
			return err
		}
	}
	for {
		i := bytes.Index(p, lineDot)
		if i < 0 {
			return s.to.put(p)
		}
		// the run, its line end and the extra dot
		if err := s.to.put(p[:i+2]); err != nil {
			return err
		}
		p = p[i+1:]
	}
}

var endOfReply = []byte("\r\n.\r\n")

// finish ends the reply. A message that does not end with a line end gets one.
func (s *stuffer) finish() error {
	if s.count == 0 || s.tail == [2]byte{'\r', '\n'} {
		return s.to.put(endOfReply[2:])
	}
	return s.to.put(endOfReply)
}

// topper counts lines for TOP: the header, the empty line, and left lines of
// the body.
type topper struct {
	left int
	body bool
	line int  // octets of the current line so far
	cr   bool // the first of them is a CR
}

// take returns how much of p belongs to the reply, and whether it is complete.
func (t *topper) take(p []byte) (n int, done bool) {
	for n < len(p) && !t.done() {
		i := bytes.IndexByte(p[n:], '\n')
		if i < 0 {
			t.see(p[n:])
			return len(p), false
		}
		t.see(p[n : n+i])
		n += i + 1
		t.end()
	}
	return n, t.done()
}

func (t *topper) done() bool { return t.body && t.left == 0 }

func (t *topper) see(part []byte) {
	if t.line == 0 && len(part) > 0 {
		t.cr = part[0] == '\r'
	}
	t.line += len(part)
}

func (t *topper) end() {
	empty := t.line == 0 || t.line == 1 && t.cr
	t.line, t.cr = 0, false
	switch {
	case t.body:
		t.left--
	case empty:
		t.body = true
	}
}

// errShort says that a message could not be read to its end.
type errShort struct{ cause error }

func (e errShort) Error() string { return "pop3: reading a message: " + e.cause.Error() }
func (e errShort) Unwrap() error { return e.cause }

// copyFrom writes all of r through the stuffer. An errShort is the message's
// fault, any other error the connection's.
func (s *stuffer) copyFrom(c *conn, r io.Reader) error {
	if w, ok := r.(io.WriterTo); ok {
		_, err := w.WriteTo(s)
		return s.judge(c, err)
	}
	return s.judge(c, s.readInPlace(c, r))
}

func (s *stuffer) judge(c *conn, err error) error {
	switch {
	case err == nil || errors.Is(err, errEnough):
		return nil
	case c.outErr != nil:
		return c.outErr
	case errors.Is(err, errCut):
		return errCut
	}
	return errShort{err}
}

// readInPlace reads into the output block itself, so that text without a dot to
// stuff, which is nearly all, is copied only once.
func (s *stuffer) readInPlace(c *conn, r io.Reader) error {
	for {
		free, err := c.free(blockSize / 8)
		if err != nil {
			return err
		}
		n, end := r.Read(free)
		if p := free[:n]; s.clean(p) {
			c.out = c.out[:len(c.out)+n]
			s.note(p)
		} else if err := s.aside(c, p); err != nil {
			return err
		}
		if end == io.EOF {
			return nil
		}
		if end != nil {
			return end
		}
	}
}

// aside writes p, which lies in the free part of the output block, by way of
// another block.
func (s *stuffer) aside(c *conn, p []byte) error {
	b := c.srv.block()
	defer c.srv.blocks.Put(b)
	_, err := s.Write(b[:copy(b[:], p)])
	return err
}
