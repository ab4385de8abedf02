package smtp

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"relay/smtp/admission"
)

// conn is one client. Everything but the fields under mu belongs to the
// goroutine that runs it.
type conn struct {
	srv    *Server
	cfg    *ServerConfig
	cancel context.CancelFunc
	ctx    context.Context
	raw    net.Conn // as accepted
	net    net.Conn // raw, or TLS on it
	peer   Peer
	direct netip.Addr // of the connection itself, whatever XCLIENT says
	sess   Session
	over   override // by XCLIENT

	in       input
	out      []byte    // replies not yet sent
	outSince time.Time // when the first of them was made

	lines    lineMode
	state    state
	rcpts    int    // accepted in this transaction
	spurned  int    // refused in this transaction
	from     string // sender of the transaction, for refusals
	hasFrom  bool
	to       []string // the first recipients that were accepted, for refusals
	authUser string   // user of the AUTH under way
	verb     string   // of the command under way, in lower case; empty: none yet
	body     BodyType
	count    int // transactions
	taken    int // messages answered 250
	errors   int
	idles    int    // commands that did nothing, since the last message
	failures int    // of AUTH
	quit     bool   // close after the pending replies
	told     bool   // the client knows that we close
	brusque  bool   // close without waiting for it to read why
	held     []byte // the command that broke off a series of chunks, nil: none
	receipt  receipt
	tap      *tap // below TLS; nil: in clear
	tapped   int  // its reads when the 250 was written
	data     message

	mu     sync.Mutex // guards deadlines against Shutdown and cut
	idle   bool       // waits for a command, outside a transaction
	woken  bool       // and was told to end
	hasty  bool       // may be sent away for silence where there are many
	since  time.Time  // waits for the client
	pace   time.Time  // by when more of a stranger's message is due under pressure; zero: any time
	cutOff bool       // cut was called
}

// lineMode is how the client's command lines end; its first line decides.
type lineMode uint8

const (
	linesUnknown lineMode = iota
	linesCRLF
	linesLF
)

// state is where the client is in the protocol.
type state uint8

const (
	stateNew    state = 1 << iota // before HELO, also after STARTTLS
	stateReady                    // between transactions
	stateMail                     // after MAIL
	stateRcpt                     // after MAIL and an accepted RCPT
	stateChunks                   // inside a series of BDAT
)

const (
	anyState      = stateNew | stateReady | stateMail | stateRcpt
	inTransaction = stateMail | stateRcpt | stateChunks
)

// A connection ends without a word for these reasons.
var (
	errShutdown = errors.New("smtp: the server stops")
	errFlood    = errors.New("smtp: a line without end")
)

// errLongLine: the line was longer than allowed, and has been skipped.
const errLongLine = constError("smtp: line too long")

const (
	maxLine     = 4096                   // RFC 5321 has 512, extensions add some hundred
	maxAuthLine = 12288 + 2              // RFC 4954 section 4
	maxSkip     = 1 << 20                // of a longer line is skipped before we hang up
	flushAfter  = time.Second            // replies wait no longer for those behind them
	restOfLine  = 500 * time.Millisecond // between a bare LF and what belongs to its line
)

func newConn(s *Server, raw net.Conn, cancel context.CancelFunc) *conn {
	c := &conn{srv: s, cfg: &s.cfg, raw: raw, net: raw, cancel: cancel, state: stateNew}
	c.in.init(&s.buffers)
	c.out = make([]byte, 0, 512)
	c.data.c = c
	return c
}

// run serves the connection until its end.
func (c *conn) run(ctx context.Context) {
	c.ctx = ctx
	defer func() { _ = c.net.Close() }()
	defer c.in.release()
	defer c.data.release()
	remote, local := addrPort(c.raw.RemoteAddr()), addrPort(c.raw.LocalAddr())
	trusted := c.trusts(remote.Addr())
	c.direct = remote.Addr()
	c.peer = Peer{Session: c.srv.sessionName(), Remote: remote, Local: local, Trusted: trusted}
	c.log("connected")
	defer func() { c.log("disconnected", "messages", c.taken) }()
	who := c.standing()
	if !c.admitted(who) {
		return
	}
	defer c.srv.meters.conns.Leave(remote.Addr(), who)
	if c.cfg.ImplicitTLS && !c.handshake() {
		return
	}
	defer func() {
		if c.sess != nil {
			_ = c.sess.Close()
		}
	}()
	if !c.open() {
		return
	}
	c.srv.stats.Serving.Add(1)
	defer c.srv.stats.Serving.Add(-1)
	c.loop()
}

// standing says how well the client is known so far.
func (c *conn) standing() admission.Standing {
	switch {
	case c.peer.Trusted:
		return admission.Trusted
	case c.cfg.RequireAuth:
		return admission.User
	}
	return admission.Stranger
}

// admitted counts the connection in, or sends it away. If little is left it
// gets no time to read why.
func (c *conn) admitted(who admission.Standing) bool {
	now := time.Now()
	meters := c.srv.meters
	scarce := who != admission.Trusted && c.cfg.Scarce != nil && c.cfg.Scarce(c.raw)
	if scarce {
		meters.conns.Press(now)
	}
	if meters.connect(c.peer.Remote.Addr(), who, now) {
		if !scarce {
			return true
		}
		meters.conns.Leave(c.peer.Remote.Addr(), who)
	}
	c.srv.stats.Turned.Add(1)
	c.brusque = meters.conns.Load(now) == admission.Full
	c.rejectGreeting(&Reply{
		Code: 421, Enhanced: "4.7.0", Text: "Too many connections, try again later", Reason: ReasonConnections,
	})
	return false
}

// recoverPanic keeps one client from taking all others with it. The connection has been
// cut by then, without a last word after who knows what.
func (c *conn) recoverPanic() {
	if p := recover(); p != nil {
		c.srv.stats.Panics.Add(1)
		c.log("error", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	}
}

func (c *conn) trusts(a netip.Addr) bool {
	return c.cfg.Trusted != nil && c.cfg.Trusted(a)
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	ap, _ := netip.ParseAddrPort(a.String()) // zero for what has no IP address
	return ap
}

// open asks the backend for a session and greets.
func (c *conn) open() bool {
	if c.srv.refuses.Load() {
		c.srv.stats.Turned.Add(1)
		c.rejectGreeting(c.goodbye())
		return false
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.CallTimeout)
	defer cancel()
	sess, err := c.cfg.Backend.NewSession(ctx, &c.peer)
	if err != nil {
		r, ok := errors.AsType[*Reply](err)
		if !ok {
			r = &Reply{Code: 421, Enhanced: "4.3.0", Text: "Not now, try again later", Cause: err}
		}
		c.srv.stats.Turned.Add(1)
		c.rejectGreeting(r)
		return false
	}
	c.sess = sess
	if !c.awaitSilence() {
		return false
	}
	if c.leaves() {
		c.srv.stats.Turned.Add(1)
		c.rejectGreeting(c.goodbye())
		return false
	}
	c.put("220 ")
	c.put(c.cfg.Hostname)
	c.put(" ESMTP\r\n")
	return true
}

// awaitSilence waits for the greeting's pause to end without a word from the client.
// A client that talks first speaks no SMTP (RFC 5321 section 3.1): it writes its lines
// without reading what they are answered.
func (c *conn) awaitSilence() bool {
	if c.cfg.GreetPause <= 0 || c.peer.Trusted || c.cfg.XClient != nil && c.cfg.XClient(c.direct) {
		return true
	}
	err := c.await(time.Now().Add(c.cfg.GreetPause))
	if err == nil {
		var n int
		if n, err = c.net.Read(c.in.room()); n > 0 {
			c.srv.stats.Talked.Add(1)
			c.srv.stats.Turned.Add(1)
			c.rejectGreeting(&Reply{
				Code: 554, Enhanced: "5.5.1", Text: c.cfg.Hostname + " You talk before you are greeted", Reason: ReasonEarly,
			})
			return false
		}
	}
	switch {
	case c.ctx.Err() != nil || c.leaves():
		c.rejectGreeting(c.goodbye())
	case errors.Is(err, os.ErrDeadlineExceeded):
		return true
	}
	return false
}

// rejectGreeting sends a reply in the greeting's place: no enhanced code there, for
// none has been announced.
func (c *conn) rejectGreeting(r *Reply) {
	c.refused("connect", "", r, r.Cause)
	if c.cfg.ImplicitTLS && c.peer.TLS == nil {
		return
	}
	c.out = appendReplyText(c.out, r.Code, "", r.Text, false)
	_ = c.flush()
	c.linger()
}

// loop takes one command after the other.
func (c *conn) loop() {
	for !c.quit {
		line := c.held
		c.held = nil
		if line == nil {
			var err error
			if line, err = c.command(); err != nil {
				c.hangUp(err)
				break
			}
			if line == nil {
				continue
			}
		}
		if c.state&inTransaction == 0 && c.leaves() {
			c.turnAway(line)
			break
		}
		c.dispatch(line)
		if err := c.flushLate(); err != nil {
			return
		}
	}
	if c.flush() == nil && !c.told {
		c.linger()
	}
}

// turnAway answers a command that came too late for a server that leaves. A QUIT loses
// nothing by it.
func (c *conn) turnAway(line []byte) {
	v, _ := c.srv.lookup(line)
	if v != nil && v.name == "QUIT" {
		c.hangUp(errShutdown)
		return
	}
	c.verb = v.stage()
	if c.hasFrom {
		c.forgetTransaction()
	}
	c.last(c.goodbye())
}

// linger lets the client read our last words: a close with input unread would
// reset the connection and take them away.
func (c *conn) linger() {
	if c.brusque {
		return
	}
	if half, ok := c.net.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
		return
	}
	until := time.Now().Add(500 * time.Millisecond)
	for read := 0; read < 256<<10; {
		if !c.stays(until) {
			return
		}
		c.in.discard()
		n, err := c.net.Read(c.in.room())
		if err != nil {
			return
		}
		read += n
	}
}

// stays sets the deadline for a read of what is thrown away, unless the
// connection was cut. A stop of the server does not matter here: its 421 must
// not get lost.
func (c *conn) stays(until time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.cutOff && c.net.SetReadDeadline(until) == nil
}

// command reads the next command line and enforces the rules on line ends. A nil
// line without an error has been answered.
func (c *conn) command() ([]byte, error) {
	line, crlf, err := c.line(maxLine, true)
	long := errors.Is(err, errLongLine)
	if err != nil && !long {
		return nil, err
	}
	c.arrived()
	switch {
	case c.state == stateNew && !c.peer.Trusted && long, c.state == stateNew && !long && c.foreign(line):
		c.srv.stats.Turned.Add(1)
		c.last(&Reply{
			Code: 421, Enhanced: "4.7.0", Text: "This is an SMTP server, closing connection", Reason: ReasonForeign,
		})
		return nil, nil
	case long:
		c.fail(500, "5.5.2", "Line too long")
		return nil, nil
	}
	if c.lines == linesUnknown {
		c.lines = linesCRLF
		if !crlf && c.peer.Trusted {
			c.lines = linesLF
		}
	}
	if r := c.misframed(line, crlf); r != nil {
		c.fail(r.Code, r.Enhanced, r.Text)
		return nil, nil
	}
	return line, nil
}

// foreign reports whether a line is of another protocol: a request of HTTP or
// of one of its kin, or a header field. A program that was made to send them to
// us sends the rest of its message all the same, and what is in that would be
// taken for commands.
func (c *conn) foreign(line []byte) bool {
	if v, _ := c.srv.lookup(line); v != nil {
		return false
	}
	words := bytes.Fields(line) // whatever blanks part them
	if len(words) == 0 {
		return false
	}
	switch strings.ToUpper(string(words[0])) {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PRI":
		return true
	}
	if field, _, ok := bytes.Cut(bytes.TrimLeft(line, " \t"), []byte(":")); ok && isToken(field) {
		return true
	}
	return slices.ContainsFunc(words[1:], func(w []byte) bool {
		return bytes.HasPrefix(w, []byte("HTTP/")) || bytes.HasPrefix(w, []byte("RTSP/")) ||
			bytes.HasPrefix(w, []byte("SIP/"))
	})
}

// isToken reports whether b may name a header field.
func isToken(b []byte) bool {
	b = bytes.TrimRight(b, " \t")
	for _, c := range b {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return len(b) > 0
}

// misframed holds the end of a line against what the session's first line has
// set. A CR among LF lines ends the session. The octets that follow a bare LF up to CR
// LF belong to the line (RFC 5321 section 2.3.8), and are dropped with it.
func (c *conn) misframed(line []byte, crlf bool) *Reply {
	switch {
	case c.lines == linesLF && (crlf || bytes.IndexByte(line, '\r') >= 0):
		c.quit = true
		return NewReply(500, "5.5.2", "A CR in a session of LF lines, closing connection")
	case c.lines == linesCRLF && !crlf:
		c.dropLine()
		return NewReply(500, "5.5.2", "Lines must end in CR LF")
	}
	return nil
}

// dropLine drops what is left of a line that had an LF in it. A client that ends
// all its lines so waits for an answer by then: after a moment without input the
// line counts as whole.
func (c *conn) dropLine() {
	for dropped, cr := 0, false; dropped < maxSkip; {
		for i, b := range c.in.pending() {
			if b == '\n' && cr {
				c.in.r += i + 1
				return
			}
			cr = b == '\r'
		}
		dropped += c.in.w - c.in.r
		c.in.discard()
		if c.flush() != nil || c.read(time.Now().Add(restOfLine)) != nil {
			return
		}
	}
	c.quit = true
}

// line reads one line and returns it without its end, and whether that was CRLF.
// It is valid until more is read.
func (c *conn) line(most int, command bool) (line []byte, crlf bool, err error) {
	seen := 0
	for {
		pending := c.in.pending()
		n := bytes.IndexByte(pending[seen:], '\n')
		switch {
		case n >= 0 && seen+n < most:
			line = pending[:seen+n]
			c.in.r += seen + n + 1
			if len(line) > 0 && line[len(line)-1] == '\r' {
				return line[:len(line)-1], true, nil
			}
			return line, false, nil
		case n >= 0 || len(pending) >= most:
			return nil, false, c.skipLine()
		}
		seen = len(pending)
		if seen == len(c.in.buf) {
			c.in.grow()
		}
		if err := c.fill(command); err != nil {
			return nil, false, err
		}
	}
}

// skipLine drops what is left of a line that is too long.
func (c *conn) skipLine() error {
	cr := false
	for skipped := 0; skipped < maxSkip; {
		pending := c.in.pending()
		if n := bytes.IndexByte(pending, '\n'); n >= 0 {
			if n > 0 {
				cr = pending[n-1] == '\r'
			}
			c.in.r += n + 1
			if !cr && (c.lines == linesCRLF || c.lines == linesUnknown && !c.peer.Trusted) {
				c.dropLine()
			}
			return errLongLine
		}
		if n := len(pending); n > 0 {
			cr = pending[n-1] == '\r'
		}
		skipped += len(pending)
		c.in.discard()
		if err := c.fill(true); err != nil {
			return err
		}
	}
	return errFlood
}

// fill sends the pending replies, for the client may wait for them, and blocks
// until more input has arrived. There must be room for it.
func (c *conn) fill(command bool) error {
	if err := c.flush(); err != nil {
		return err
	}
	now := time.Now()
	until := now.Add(c.cfg.CommandTimeout)
	hasty := !c.inner()
	comes := !command || c.data.clock != nil // a message does; commands between its chunks are part of it
	if command {
		if c.in.r == c.in.w {
			c.in.shrink()
		}
	} else {
		until = now.Add(c.cfg.BlockTimeout)
	}
	if comes && c.data.until.Before(until) {
		until = c.data.until
	}
	if hasty {
		if d := c.srv.meters.conns.Load(now).Patience(); d > 0 && until.After(now.Add(d)) {
			until = now.Add(d)
		}
	}
	var pace time.Time
	if hasty && comes && c.srv.meters.holds.limit > 0 {
		pace = c.data.pace()
		if c.srv.meters.holds.pressed() && until.After(pace) {
			until = pace
		}
	}
	c.mu.Lock()
	c.hasty, c.since, c.pace = hasty, now, pace
	c.mu.Unlock()
	err := c.read(until)
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) && c.state&inTransaction == 0 && c.leaves() {
		return errShutdown
	}
	return err
}

// read waits for more input, for which there must be room.
func (c *conn) read(until time.Time) error {
	if err := c.await(until); err != nil {
		return err
	}
	room := c.in.room()
	n, err := c.net.Read(room)
	c.in.w += n
	switch {
	case n > 0:
		return nil
	case err == nil:
		return io.ErrNoProgress
	}
	return err
}

// await sets the deadline for a read, unless the connection is to end.
func (c *conn) await(until time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = c.state&inTransaction == 0
	if c.cutOff || c.idle && (c.woken || c.srv.leaves()) {
		return errShutdown
	}
	return c.net.SetReadDeadline(until)
}

// hurry ends the wait for a client that has been silent since before a time.
func (c *conn) hurry(before time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hasty && c.since.Before(before) {
		c.hasty = false
		_ = c.raw.SetReadDeadline(time.Unix(1, 0))
	}
}

// leaves reports whether the connection is to end between transactions.
func (s *Server) leaves() bool { return s.closing.Load() || s.refuses.Load() }

// leaves reports whether this connection is, also where the server has changed
// its mind since it was told.
func (c *conn) leaves() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.woken || c.srv.leaves()
}

// goodbye is the last reply to a client that may come back, or go elsewhere.
func (c *conn) goodbye() *Reply {
	what := " is shutting down, try again later"
	if c.ctx.Err() == nil && !c.srv.closing.Load() {
		what = " is going out of service, connect again"
	}
	return &Reply{Code: 421, Enhanced: "4.3.2", Text: c.cfg.Hostname + what, Reason: ReasonStopping}
}

// wake makes an idle connection see that the server stops.
func (c *conn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle {
		c.woken = true
		_ = c.raw.SetReadDeadline(time.Unix(1, 0))
	}
}

// cut makes the connection end at once, with a last word if the client takes it.
func (c *conn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cutOff = true
	_ = c.raw.SetReadDeadline(time.Unix(1, 0))
	_ = c.raw.SetWriteDeadline(time.Now().Add(time.Second))
}

// flush sends the pending replies in one write.
func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	c.beforeReplies()
	c.mu.Lock()
	if !c.cutOff {
		_ = c.net.SetWriteDeadline(time.Now().Add(c.cfg.WriteTimeout))
	}
	c.mu.Unlock()
	_, err := c.net.Write(c.out)
	c.out = c.out[:0]
	if cap(c.out) > 4<<10 {
		c.out = make([]byte, 0, 512)
	}
	return err
}

// flushLate sends replies that have waited for too long for a slow command
// behind them.
func (c *conn) flushLate() error {
	if len(c.out) == 0 || c.in.r == c.in.w { // then fill does it
		return nil
	}
	if now := time.Now(); c.outSince.IsZero() {
		c.outSince = now
	} else if now.Sub(c.outSince) > flushAfter {
		c.outSince = time.Time{}
		return c.flush()
	}
	return nil
}

// hangUp says why, where the client can still hear it.
func (c *conn) hangUp(err error) {
	switch {
	case errors.Is(err, errShutdown), c.ctx.Err() != nil:
		r := c.goodbye()
		c.answer(r.Code, r.Enhanced, r.Text)
	case errors.Is(err, errFlood):
		c.srv.stats.Flooded.Add(1)
		c.last(&Reply{Code: 421, Enhanced: "4.7.0", Text: "Line much too long, closing connection", Reason: ReasonProtocol})
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.answer(421, "4.4.2", "Timeout, closing connection")
	}
	c.quit = true
}

// handshake does TLS on the connection as it is.
func (c *conn) handshake() bool {
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.HandshakeTimeout)
	defer cancel()
	c.mu.Lock()
	c.idle = false // wake must not break the handshake off
	if !c.cutOff {
		_ = c.raw.SetDeadline(time.Time{})
	}
	c.mu.Unlock()
	c.tap = &tap{Conn: c.net}
	conn := tls.Server(c.tap, c.cfg.TLS)
	if err := conn.HandshakeContext(ctx); err != nil {
		c.srv.stats.TLSFailed.Add(1)
		c.refused("tls", "", nil, err)
		return false
	}
	c.srv.stats.TLS.Add(1)
	state := conn.ConnectionState()
	c.net, c.peer.TLS = conn, &state
	return true
}

func (c *conn) log(event string, kv ...any) {
	if c.cfg.Log != nil {
		c.cfg.Log(event, append([]any{"session", c.peer.Session, "remote", c.peer.Remote}, kv...)...)
	}
}

// put adds text to the pending replies as it is.
func (c *conn) put(s string) { c.out = append(c.out, s...) }

// answer adds a reply.
func (c *conn) answer(code int, enhanced, text string) {
	r := Reply{Code: code, Enhanced: enhanced, Text: text}
	c.out = appendReply(c.out, &r, c.peer.UTF8)
}

// fail adds a 5xx reply, and counts it.
func (c *conn) fail(code int, enhanced, text string) {
	c.failFor("", code, enhanced, text)
}

// failFor is fail where the command was about a recipient.
func (c *conn) failFor(recipient string, code int, enhanced, text string) {
	r := &Reply{Code: code, Enhanced: enhanced, Text: text}
	c.out = appendReply(c.out, r, c.peer.UTF8)
	c.refused(cmp.Or(c.verb, "command"), recipient, r, nil)
	c.countError()
}

// last adds the reply that the connection ends with.
func (c *conn) last(r *Reply) {
	c.out = appendReply(c.out, r, c.peer.UTF8)
	c.refused(cmp.Or(c.verb, "command"), "", r, nil)
	c.quit = true
}

// say adds the reply that the error of a Session stands for. A 421 is the last one
// (RFC 5321 section 3.8).
func (c *conn) say(err error, in string) *Reply { return c.sayFor("", err, in) }

// sayFor is say where the call was about a recipient.
func (c *conn) sayFor(recipient string, err error, in string) *Reply {
	r := replyOf(err)
	if !r.Positive() {
		c.refused(in, recipient, r, r.Cause)
	}
	c.out = appendReply(c.out, r, c.peer.UTF8)
	c.quit = c.quit || r.Code == 421
	// A mailing list that has gone stale is no attack.
	if !r.Temporary() && !c.peer.Trusted && c.peer.User == "" {
		c.countError()
	}
	return r
}

func (c *conn) countError() {
	c.errors++
	c.srv.stats.Errors.Add(1)
	flooded := !c.peer.Trusted && c.srv.meters.add(c.peer.Remote.Addr(), countErrors, 1) != within
	if (c.errors >= c.cfg.MaxErrors || flooded) && !c.quit {
		c.srv.stats.Flooded.Add(1)
		c.last(&Reply{Code: 421, Enhanced: "4.7.0", Text: "Too many errors, closing connection", Reason: ReasonErrors})
	}
}
