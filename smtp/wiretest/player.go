package wiretest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Player plays transcripts. The zero value with a Dial function is ready. A
// Player is not changed by playing; one may play several scripts at once.
type Player struct {
	// Dial opens a connection to the server under test.
	Dial func(ctx context.Context) (net.Conn, error)
	// TLS is used by starttls; ServerName should be set. Nil: any certificate
	// will do.
	TLS *tls.Config
	// Vars are the variables at the start of each play.
	Vars map[string]string
	// Calls are the functions for the call directive, by name.
	Calls map[string]func(args string) error
	// Timeout bounds each single wait for the server. 0: ten seconds.
	Timeout time.Duration
}

// Mismatch says where a play left its transcript.
type Mismatch struct {
	Script string
	Line   int    // of the transcript
	Want   string // the pattern, or the directive
	Got    string // the line that came, without its CRLF, or what happened
}

// Error gives both sides, each on a line of its own.
func (m *Mismatch) Error() string {
	return fmt.Sprintf("%s:%d:\n  want %s\n  got  %s", m.Script, m.Line, m.Want, m.Got)
}

// Play runs the script against a fresh connection and returns nil where every
// line matched. The error is a *Mismatch where the server said something else,
// and any other error where the play itself could not go on.
func (p *Player) Play(ctx context.Context, s *Script) error {
	run := &play{player: p, script: s, ctx: ctx, vars: map[string]string{}, conns: map[string]*peer{}}
	maps.Copy(run.vars, p.Vars)
	defer run.close()
	if err := run.connect("1"); err != nil {
		return err
	}
	for i := range s.steps {
		run.step = &s.steps[i]
		done, err := run.do()
		if err != nil || done {
			return err
		}
	}
	if err := run.flush(); err != nil {
		return err
	}
	return run.finish()
}

type play struct {
	player *Player
	script *Script
	ctx    context.Context
	vars   map[string]string
	conns  map[string]*peer
	cur    *peer
	step   *step
}

// peer is one connection of a play.
type peer struct {
	conn    net.Conn
	in      *bufio.Reader
	pending []byte     // collected, not yet handed to the writer
	wrote   chan error // result of the write under way; nil: none
	closed  bool
}

func (r *play) timeout() time.Duration {
	if r.player.Timeout > 0 {
		return r.player.Timeout
	}
	return 10 * time.Second
}

func (r *play) connect(name string) error {
	conn, err := r.player.Dial(r.ctx)
	if err != nil {
		return err
	}
	r.cur = &peer{conn: conn, in: bufio.NewReader(conn)}
	r.conns[name] = r.cur
	return nil
}

func (r *play) close() {
	for _, c := range r.conns {
		_ = c.conn.Close()
		c.settle()
	}
}

// settle waits for the write under way. The write itself ends by its deadline
// or by the connection's end.
func (c *peer) settle() {
	if c.wrote != nil {
		<-c.wrote
		c.wrote = nil
	}
}

func (r *play) do() (done bool, err error) {
	st := r.step
	if st.kind == send {
		text, err := expand(st.text, r.vars, false)
		if err != nil {
			return false, r.fault(err)
		}
		r.cur.pending = append(r.cur.pending, text...)
		return false, nil
	}
	if err := r.flush(); err != nil {
		return false, err
	}
	switch st.kind {
	case expect:
		return false, r.expect(false)
	case skip:
		return false, r.expect(true)
	case octets:
		return false, r.octets()
	default:
		return st.verb == "end", r.direct()
	}
}

// flush hands what was collected to a writer, so that a server which answers
// while it reads cannot lock up with us.
func (r *play) flush() error {
	c := r.cur
	if len(c.pending) == 0 {
		return nil
	}
	c.settle()
	if c.closed {
		return r.fault(errors.New("the connection is closed"))
	}
	data := c.pending
	c.pending = nil
	c.wrote = make(chan error, 1)
	_ = c.conn.SetWriteDeadline(time.Now().Add(r.timeout()))
	go func(conn net.Conn, wrote chan<- error) {
		_, err := conn.Write(data)
		wrote <- err
	}(c.conn, c.wrote)
	return nil
}

// line reads one line, without its CRLF.
func (r *play) line() (string, error) {
	if r.cur.closed {
		return "", r.fault(errors.New("the connection is closed"))
	}
	_ = r.cur.conn.SetReadDeadline(time.Now().Add(r.timeout()))
	line, err := r.cur.in.ReadString('\n')
	switch {
	case errors.Is(err, io.EOF) && line == "":
		return "", r.mismatch("end of connection")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "", r.mismatch(fmt.Sprintf("nothing for %v (after %q)", r.timeout(), line))
	case err != nil:
		return "", r.mismatch(fmt.Sprintf("%q, then %v", line, err))
	case !strings.HasSuffix(line, "\r\n"):
		return "", r.mismatch(fmt.Sprintf("a line without CRLF: %q", line))
	}
	return line[:len(line)-2], nil
}

func (r *play) expect(skipping bool) error {
	re, err := compile(r.step.text, r.vars)
	if err != nil {
		return r.fault(err)
	}
	for {
		line, err := r.line()
		if err != nil {
			return err
		}
		if match(re, line, r.vars) {
			return nil
		}
		if !skipping {
			return r.mismatch(line)
		}
	}
}

func (r *play) octets() error {
	want, err := expand(r.step.text, r.vars, false)
	if err != nil {
		return r.fault(err)
	}
	got := make([]byte, len(want))
	_ = r.cur.conn.SetReadDeadline(time.Now().Add(r.timeout()))
	n, err := io.ReadFull(r.cur.in, got)
	if string(got[:n]) != want {
		return r.mismatch(fmt.Sprintf("%q (%v)", got[:n], err))
	}
	return nil
}

func (r *play) direct() error {
	st := r.step
	switch st.verb {
	case "connect":
		name := st.text
		if name == "" {
			name = strconv.Itoa(len(r.conns) + 1)
		}
		return r.connect(name)
	case "use":
		c, ok := r.conns[st.text]
		if !ok {
			return r.fault(fmt.Errorf("no connection %q", st.text))
		}
		r.cur = c
	case "starttls", "badtls":
		return r.handshake(st.verb == "badtls")
	case "eof":
		return r.eof()
	case "close":
		r.cur.settle()
		r.cur.closed = true
		return r.cur.conn.Close()
	case "shut":
		return r.shut()
	case "silent":
		return r.silent()
	case "call":
		return r.call()
	}
	return nil
}

func (r *play) handshake(mustFail bool) error {
	r.cur.settle()
	if r.cur.in.Buffered() > 0 {
		return r.mismatch("text before the handshake")
	}
	config := r.player.TLS
	if config == nil {
		config = &tls.Config{InsecureSkipVerify: true}
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout())
	defer cancel()
	_ = r.cur.conn.SetDeadline(time.Time{})
	conn := tls.Client(r.cur.conn, config)
	err := conn.HandshakeContext(ctx)
	switch {
	case err != nil && !mustFail:
		return r.mismatch(err.Error())
	case err == nil && mustFail:
		return r.mismatch("a handshake that went through")
	case err == nil:
		r.cur.conn, r.cur.in = conn, bufio.NewReader(conn)
	}
	return nil
}

func (r *play) eof() error {
	_ = r.cur.conn.SetReadDeadline(time.Now().Add(r.timeout()))
	line, err := r.cur.in.ReadString('\n')
	if line != "" {
		return r.mismatch(strconv.Quote(line))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return r.mismatch("an open connection")
	}
	r.cur.settle()
	r.cur.closed = true
	return nil // a reset is an end, too
}

func (r *play) shut() error {
	r.cur.settle()
	half, ok := r.cur.conn.(interface{ CloseWrite() error })
	if !ok {
		return r.fault(fmt.Errorf("%T has no halves", r.cur.conn))
	}
	return half.CloseWrite()
}

func (r *play) silent() error {
	d, err := time.ParseDuration(r.step.text)
	if err != nil {
		return r.fault(err)
	}
	_ = r.cur.conn.SetReadDeadline(time.Now().Add(d))
	got, err := r.cur.in.Peek(1)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return r.mismatch(fmt.Sprintf("%q (%v)", got, err))
}

func (r *play) call() error {
	name, args, _ := strings.Cut(r.step.text, " ")
	f, ok := r.player.Calls[name]
	if !ok {
		return r.fault(fmt.Errorf("no function %q", name))
	}
	args, err := expand(args, r.vars, false)
	if err == nil {
		err = f(args)
	}
	if err != nil {
		return r.fault(err)
	}
	return nil
}

// finish sees to it that the server said nothing that the transcript does not
// have, as far as that has arrived by now.
func (r *play) finish() error {
	for name, c := range r.conns {
		if n := c.in.Buffered(); n > 0 && !c.closed {
			rest, _ := c.in.Peek(n)
			return &Mismatch{r.script.Name, 0, "no more on connection " + name, strconv.Quote(string(rest))}
		}
	}
	return nil
}

func (r *play) mismatch(got string) error {
	want := r.step.text
	if r.step.kind == direct {
		want = strings.TrimSpace("=== " + r.step.verb + " " + r.step.text)
	}
	return &Mismatch{r.script.Name, r.step.line, want, got}
}

func (r *play) fault(err error) error {
	return fmt.Errorf("%s:%d: %w", r.script.Name, r.step.line, err)
}
