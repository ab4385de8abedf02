package pop3

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"relay/smtp/admission"
)

const (
	inputSize = 2 << 10
	// maxResponse bounds a line of an AUTH exchange. RFC 5034 §4 takes it out of
	// the limit for commands.
	maxResponse  = 12288
	handshake    = 30 * time.Second
	drainGrace   = 2 * time.Second        // of silence, at a stop
	lastWords    = 250 * time.Millisecond // to tell a client why it is cut
	deadlineSlop = 8                      // the write deadline is renewed at this fraction
)

var (
	errTooLong = errors.New("pop3: line too long")
	errCut     = errors.New("pop3: session cut")
	past       = time.Unix(1, 0)
)

// reason is why the server cuts a connection. words win over text.
type reason struct {
	text  text
	words string
	code  string // empty: SYS/TEMP
}

// conn is one connection. Its own goroutine does all work. Two others may reach
// in, through cut and drain only: the one that watches the maildrop's lock, and
// whoever stops the server or takes it out of service.
type conn struct {
	srv    *Server
	group  *group
	ctx    context.Context // ends when the connection is cut
	cancel context.CancelFunc
	raw    net.Conn // below TLS
	nc     net.Conn
	peer   Peer
	host   netip.Addr // peer's network, as far as limits go
	stamp  string     // APOP's

	in   []byte // read but not consumed: in[r:w]
	r, w int

	block   *[blockSize]byte
	out     []byte // in block; what is not written yet
	outErr  error
	renewed time.Time // when the write deadline was set
	partial bool      // inside a multi-line reply
	stuff   stuffer

	lang    lang
	state   state
	utf8    bool
	closing bool   // nothing more will be read
	user    string // of the last USER
	bad     int    // commands refused before login
	idle    int    // commands before login that are none
	fails   int    // logins
	*session

	mu       sync.Mutex
	dead     *reason       // cut
	grace    time.Duration // how long it may be silent while it comes to its end; 0: for as long as ever
	ending   text          // why it does
	watches  uint64        // numbers the maildrops of this connection
	watching bool          // the last of them may still be lost
	locked   bool          // holds a maildrop
	since    time.Time     // waits for a client that is not logged in; zero: has not yet
	waits    func()        // ends the wait for the server to be ready; nil: there is none
}

func newConn(ctx context.Context, g *group, nc net.Conn) *conn {
	c := &conn{srv: g.srv, group: g, raw: nc, nc: nc, state: authorization}
	// The end of Serve's context goes through cut, which lets a commit finish.
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return c
}

// run serves the connection to its end.
func (c *conn) run() {
	defer c.end()
	defer c.recoverPanic()
	c.peer = Peer{
		Session: rand.Text()[:12],
		Remote:  addrPort(c.raw.RemoteAddr()), // a PROXY listener may wait here
		Local:   addrPort(c.raw.LocalAddr()),
	}
	ip := c.peer.Remote.Addr()
	c.peer.Trusted = c.srv.cfg.Trusted != nil && c.srv.cfg.Trusted(ip)
	c.host = network(ip)
	c.log("connected")
	defer c.log("disconnected")
	who := admission.User
	if c.exempt() {
		who = admission.Trusted
	}
	if !c.srv.admit(c, who) {
		c.refused(Refusal{Stage: "connect", Reason: ReasonConnections})
		if !c.srv.cfg.ImplicitTLS {
			c.err("SYS/TEMP", tTooMany)
			_ = c.flush()
		}
		return
	}
	defer c.srv.counter.Leave(ip, who)
	if c.srv.cfg.ImplicitTLS && !c.secure() {
		return
	}
	if c.srv.refuses() {
		c.refused(Refusal{Stage: "connect", Reason: ReasonStopping})
		c.err("SYS/TEMP", tOutOfService)
		c.closing = true
		_ = c.flush()
		return
	}
	if err := c.ready(); c.isCut() {
		return
	} else if err != nil {
		c.refused(Refusal{Stage: "connect", Reason: ReasonNotReady, Cause: err})
		c.err("SYS/TEMP", tNotReady)
		c.closing = true
		_ = c.flush()
		return
	}
	c.group.speak(c)
}

// ready waits for the server to be of use to a client, and says why it is not.
func (c *conn) ready() error {
	if c.srv.cfg.Ready == nil || c.srv.ready.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, readyTime)
	defer cancel()
	c.mu.Lock()
	if c.waits = cancel; !c.peer.Trusted {
		c.since = time.Now() // it makes room where many wait, like a silent client
	}
	c.mu.Unlock()
	err := c.srv.cfg.Ready(ctx)
	c.mu.Lock()
	c.since, c.waits = time.Time{}, nil
	c.mu.Unlock()
	if err == nil {
		c.srv.ready.Store(true)
	}
	return err
}

// readyTime is how long a client waits at most for the greeting of a server that is not
// ready: old ones hang up after 15 s.
const readyTime = 10 * time.Second

// exempt reports whether the limits per host do not hold for the peer.
func (c *conn) exempt() bool {
	exempt := c.srv.cfg.Limits.Exempt
	return exempt != nil && exempt(c.peer.Remote.Addr())
}

// recoverPanic keeps one broken session from taking the others with it.
func (c *conn) recoverPanic() {
	if r := recover(); r != nil {
		c.partial = true // no last words after who knows what
		c.srv.stats.Panics.Add(1)
		err := fmt.Errorf("panic: %v", r)
		c.log("panic", "error", err)
		c.refused(Refusal{Stage: "panic", Reason: ReasonPanic, Cause: err, Stack: string(debug.Stack())})
	}
}

// end gives everything back, the lock first.
func (c *conn) end() {
	c.leaveMaildrop()
	c.farewell()
	c.linger()
	_ = c.nc.Close()
	c.release()
	c.cancel()
}

// farewell tells a client why it is cut, where that can be told: not inside a
// multi-line reply, which has to look broken.
func (c *conn) farewell() {
	c.mu.Lock()
	dead := c.dead
	c.mu.Unlock()
	if dead == nil || c.partial || c.outErr != nil {
		return
	}
	// Answers that are complete go first, or the last words would pass for one.
	_ = c.raw.SetWriteDeadline(time.Now().Add(lastWords))
	if len(c.out) > 0 {
		if _, err := c.nc.Write(c.out); err != nil {
			return
		}
		c.out = c.out[:0]
	}
	if c.closing {
		return
	}
	if dead.words != "" {
		c.say(append(append(c.line(), "-ERR [SYS/TEMP] "...), oneLine(dead.words)...))
	} else {
		c.err(cmp.Or(dead.code, "SYS/TEMP"), dead.text)
	}
	_, _ = c.nc.Write(c.out)
	c.out = c.out[:0]
}

// linger lets a client read its last answer although it has sent more than was
// read: closing a socket with unread input would throw the answer away.
func (c *conn) linger() {
	half, ok := c.raw.(interface{ CloseWrite() error })
	if !ok || !c.closing || c.outErr != nil || c.r == c.w || half.CloseWrite() != nil {
		return
	}
	_ = c.raw.SetReadDeadline(time.Now().Add(lastWords))
	for end := time.Now().Add(lastWords); time.Now().Before(end); {
		if _, err := c.raw.Read(c.in); err != nil {
			return
		}
	}
}

func oneLine(s string) string {
	b := []byte(s)
	for i := range b {
		if b[i] < ' ' || b[i] == 0x7f {
			b[i] = ' '
		}
	}
	return string(b[:min(len(b), 400)])
}

func (c *conn) servePOP3() {
	c.greet()
	for !c.closing && c.outErr == nil && !c.isCut() {
		line, err := c.readLine(maxCommand)
		switch {
		case err == errTooLong:
			c.badCommand(tTooLong)
		case err != nil:
			c.hangUp(err)
			return
		default:
			c.dispatch(line)
		}
	}
	_ = c.flush()
}

func (c *conn) greet() {
	line := append(c.line(), "+OK "...)
	line = appendText(line, tReady, c.lang, c.srv.cfg.Hostname)
	if c.srv.on&APOP != 0 {
		c.stamp = "<" + rand.Text() + "." + strconv.FormatInt(time.Now().UnixNano(), 36) + "@" + c.srv.cfg.Hostname + ">"
		line = append(append(line, ' '), c.stamp...)
	}
	c.say(line)
}

// hangUp notes why reading ended. RFC 1939 §3: an autologout says nothing.
func (c *conn) hangUp(err error) {
	switch {
	case c.isCut():
	case errors.Is(err, os.ErrDeadlineExceeded) && c.ends():
		c.cutEnding()
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.srv.stats.Autologouts.Add(1)
		c.log("autologout")
	case c.session != nil && !errors.Is(err, io.EOF):
		c.log("connection lost", "error", err)
	}
}

// idled counts commands before login, and reports whether there are too many of
// them. Logins that fail have a bound of their own.
func (c *conn) idled(word keyword) bool {
	if c.state != authorization || c.peer.Trusted || word == key("PASS") || word == key("QUIT") {
		return false
	}
	c.idle++
	return c.idle > c.srv.cfg.Limits.Idle
}

// dispatch runs one command line.
func (c *conn) dispatch(line []byte) {
	word, arg, raw, ok := parseCommand(line)
	cmd := c.srv.commands[word]
	if !ok || cmd == nil || cmd.ext != 0 && c.srv.on&cmd.ext == 0 {
		c.badCommand(c.asleepOr(tUnknown))
		return
	}
	if cmd.want == rest {
		arg = raw
	} else if word != key("PASS") {
		// RFC 1939 §7: PASS comes immediately after USER.
		c.user = ""
	}
	switch {
	case cmd.in&c.state == 0:
		c.badCommand(c.asleepOr(tNotNow))
	case c.idled(word):
		c.refused(Refusal{Stage: "command", Reason: ReasonIdle})
		c.err("SYS/TEMP", tTooManyErrors)
		c.closing = true
	case cmd.want == nothing && len(arg) > 0, (cmd.want == something || cmd.want == rest) && len(arg) == 0:
		c.badCommand(tSyntax)
	default:
		cmd.run(c, arg)
	}
}

func (c *conn) asleepOr(t text) text {
	if c.state == sleeping {
		return tAsleep
	}
	return t
}

// badCommand answers a command that could not be understood. Before login there is
// an end to patience.
func (c *conn) badCommand(t text) {
	c.user = ""
	c.err("", t)
	if c.state != authorization {
		return
	}
	if c.bad++; c.bad >= c.srv.cfg.Limits.Errors {
		c.refused(Refusal{Stage: "command", Reason: ReasonErrors})
		c.err("", tTooManyErrors)
		c.closing = true
	}
}

// readLine returns the next line without its CRLF or LF. It is valid until the
// next call. A line of more than max octets is skipped to its end and reported
// as errTooLong. Replies that were written are flushed before the client is waited
// for, and only then, so that answers to pipelined commands leave together.
func (c *conn) readLine(max int) ([]byte, error) {
	seen, long, armed := c.r, false, false
	for {
		if i := bytes.IndexByte(c.in[seen:c.w], '\n'); i >= 0 {
			line := c.in[c.r : seen+i]
			c.r = seen + i + 1
			if long || len(line)+1 > max {
				return nil, errTooLong
			}
			return bytes.TrimSuffix(line, []byte("\r")), nil
		}
		long = long || c.w-c.r >= max
		c.room(long, max)
		seen = c.w
		if !armed {
			if err := c.flush(); err != nil {
				return nil, err
			}
			c.release()
			c.setRead(c.idleLimit())
			armed = true
		}
		n, err := c.nc.Read(c.in[c.w:])
		c.w += n
		if n == 0 && err != nil {
			return nil, err
		}
	}
}

// room makes sure that the input buffer can take something.
func (c *conn) room(long bool, max int) {
	switch {
	case c.in == nil:
		c.in = make([]byte, inputSize)
	case long || c.r == c.w:
		c.r, c.w = 0, 0
		if len(c.in) > inputSize && max <= inputSize {
			c.in = make([]byte, inputSize)
		}
	case c.w == len(c.in) && c.r > 0:
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
	case c.w == len(c.in):
		c.in = append(c.in, make([]byte, len(c.in))...)
	}
}

// idleLimit is how long the client may be silent.
func (c *conn) idleLimit() time.Duration {
	if c.state == sleeping {
		return c.srv.cfg.SleepLogout
	}
	return c.srv.cfg.AutoLogout
}

func (c *conn) setRead(d time.Duration) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since = (time.Time{}); c.state == authorization && !c.peer.Trusted {
		c.since = now
		if most := c.srv.counter.Load(now).Patience(); most > 0 {
			d = min(d, most)
		}
	}
	switch {
	case c.dead != nil:
		_ = c.raw.SetReadDeadline(past)
		return
	case c.grace > 0 && c.locked:
		d = min(d, c.grace)
	case c.grace > 0:
		d = 0
	}
	_ = c.raw.SetReadDeadline(now.Add(d))
}

// hurry ends the wait for a client that has been silent since before a time and
// is not logged in.
func (c *conn) hurry(before time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.since.IsZero() && c.since.Before(before) && c.dead == nil {
		c.since = time.Time{}
		_ = c.raw.SetReadDeadline(past)
		if c.waits != nil {
			c.waits()
		}
	}
}

// cut ends the connection from outside: its goroutine wakes up, says why, and
// gives everything back.
func (c *conn) cut(why reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cutLocked(why)
}

func (c *conn) cutLocked(why reason) {
	if c.dead != nil {
		return
	}
	c.dead = &why
	c.cancel()
	_ = c.raw.SetReadDeadline(past)
	_ = c.raw.SetWriteDeadline(time.Now().Add(lastWords))
}

// drain asks the connection to come to its end, and says why. A connection that
// holds no maildrop does so at once, the others when they have been silent for
// so long.
func (c *conn) drain(grace time.Duration, why text) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.grace > 0 {
		grace = min(grace, c.grace)
	}
	c.grace, c.ending = grace, why
	if !c.locked {
		c.cutLocked(reason{text: why})
	} else if c.dead == nil {
		_ = c.raw.SetReadDeadline(time.Now().Add(grace))
	}
}

func (c *conn) isCut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead != nil
}

// ends reports whether the connection was asked to come to its end.
func (c *conn) ends() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.grace > 0
}

// cutEnding cuts a connection that was asked to come to its end.
func (c *conn) cutEnding() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cutLocked(reason{text: c.ending})
}

// stls begins TLS (RFC 2595 §4). Everything that came before the handshake is
// thrown away, what the client said as well as what it had already sent.
func (c *conn) stls(_ []byte) {
	switch {
	case c.peer.TLS != nil:
		c.err("", tTLSOn)
		return
	case c.srv.cfg.TLS == nil:
		c.err("", tNoTLS)
		return
	case c.utf8: // RFC 6856 §2.1
		c.err("", tTLSAfterUTF8)
		return
	}
	c.ok(tBeginTLS)
	if c.flush() != nil {
		return
	}
	c.r, c.w, c.in = 0, 0, nil
	c.user, c.lang, c.bad = "", english, 0
	if !c.secure() {
		c.closing = true
	}
}

// secure does the server's part of a TLS handshake.
func (c *conn) secure() bool {
	c.setRead(handshake)
	c.mu.Lock()
	if c.dead == nil {
		_ = c.raw.SetWriteDeadline(time.Now().Add(handshake))
	}
	c.mu.Unlock()
	tc := tls.Server(c.raw, c.srv.cfg.TLS)
	if err := tc.HandshakeContext(c.ctx); err != nil {
		c.srv.stats.TLSFailures.Add(1)
		c.log("tls failed", "error", err)
		c.refused(Refusal{Stage: "tls", Reason: ReasonTLS, Cause: err})
		c.outErr = err
		return false
	}
	c.nc, c.renewed = tc, time.Time{}
	st := tc.ConnectionState()
	c.peer.TLS = &st
	return true
}

func (c *conn) log(event string, kv ...any) {
	if c.srv.cfg.Log == nil {
		return
	}
	all := append(make([]any, 0, 6+len(kv)), "session", c.peer.Session, "remote", c.peer.Remote.String())
	if c.session != nil {
		all = append(all, "user", c.session.user)
	}
	c.srv.cfg.Log(event, append(all, kv...)...)
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	if a == nil {
		return netip.AddrPort{}
	}
	ap, _ := netip.ParseAddrPort(a.String())
	return ap
}

// network is what limits count as one client: an address, of IPv6 the /64.
func network(ip netip.Addr) netip.Addr {
	if ip.Is6() {
		if p, err := ip.WithZone("").Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return ip
}
