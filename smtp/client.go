package smtp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode"

	"relay/smtp/printable"
	"relay/smtp/sasl"
)

// ClientOptions say how a Client behaves.
type ClientOptions struct {
	Hostname string   // for EHLO; required
	LMTP     bool     // RFC 2033: LHLO, and a reply for each recipient after the data
	Chunking bool     // prefer BDAT over DATA where the server has it
	Without  []string // extensions that count as not announced, in any case of letters
	// Now is the time that DeliverBy.Until is compared with; nil: time.Now.
	Now func() time.Time

	// The time to wait; 0: the time in RFC 5321 section 4.5.3.2. The context of a
	// call bounds it further.
	GreetingTimeout time.Duration // 5 minutes; each of greeting, EHLO, STARTTLS, AUTH
	MailTimeout     time.Duration // 5 minutes
	RcptTimeout     time.Duration // 5 minutes
	DataTimeout     time.Duration // 2 minutes, for the 354
	BlockTimeout    time.Duration // 3 minutes, for each block of the message
	EndTimeout      time.Duration // 10 minutes, for the reply to the message, or to a chunk of it

	// Buffers may be shared by many clients. Nil: the client has its own, which
	// the garbage collector takes while it is idle.
	Buffers *Buffers
}

// Buffers lends what clients need while a message goes through.
type Buffers struct{ pool bufferPool }

// NewBuffers returns an empty store.
func NewBuffers() *Buffers {
	b := &Buffers{}
	b.pool.init()
	return b
}

// Client is one connection to a next hop. It is used by one goroutine at a time,
// Close excepted, which cuts it from anywhere. After an error that is not a
// *Reply the connection is of no use; so it is after a 421.
type Client struct {
	opt  ClientOptions
	conn net.Conn
	wire *wire // below conn; nil: it cannot be asked what has arrived
	in   input
	out  []byte
	ext  map[string]string
	tls  *tls.ConnectionState
	user bool // AUTH went well
	err  error
	fate []fate // of the recipients of the last Send
	odd  int    // lines that are no replies may come in front of the next one
}

// ErrProtocol is wrapped where the other side does not speak SMTP.
const ErrProtocol = constError("smtp: protocol error")

// NewClient waits for the greeting and introduces itself: EHLO, and HELO where
// that is refused. conn is closed when NewClient fails; a refusal is a *Reply.
func NewClient(ctx context.Context, conn net.Conn, o ClientOptions) (*Client, error) {
	o.fill()
	conn = Wire(conn)
	c := &Client{opt: o, conn: conn, wire: wireOf(conn)}
	c.in.init(&o.Buffers.pool)
	c.setTLS()
	err := c.greet(ctx)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

func (o *ClientOptions) fill() {
	def := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	def(&o.GreetingTimeout, 5*time.Minute)
	def(&o.MailTimeout, 5*time.Minute)
	def(&o.RcptTimeout, 5*time.Minute)
	def(&o.DataTimeout, 2*time.Minute)
	def(&o.BlockTimeout, 3*time.Minute)
	def(&o.EndTimeout, 10*time.Minute)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Buffers == nil {
		o.Buffers = NewBuffers()
	}
}

func (c *Client) setTLS() {
	if t, ok := c.conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
		state := t.ConnectionState()
		c.tls = &state
	}
}

// watch makes the end of ctx cut waits short. The returned function ends that.
func (c *Client) watch(ctx context.Context) func() {
	conn, done := c.conn, make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0))
		close(done)
	})
	return func() {
		if !stop() {
			<-done // lest it meets the next call
		}
	}
}

func (c *Client) greet(ctx context.Context) error {
	defer c.watch(ctx)()
	r, err := c.read(ctx, c.opt.GreetingTimeout)
	switch {
	case err != nil:
		return err
	case r.Code != 220:
		return unexpected(r)
	}
	return c.hello(ctx)
}

// unexpected makes a reply an error that a caller can act on: a reply that is neither
// 4xx nor 5xx where a yes was needed counts as passing trouble.
func unexpected(r *Reply) *Reply {
	if r.Code >= 400 {
		return r
	}
	return &Reply{
		Code: 451, Enhanced: "4.5.0", Text: fmt.Sprintf("unexpected reply %d %s", r.Code, r.Text), Cause: ErrProtocol,
	}
}

func (c *Client) hello(ctx context.Context) error {
	verb := "EHLO "
	if c.opt.LMTP {
		verb = "LHLO "
	}
	r, err := c.ask(ctx, c.opt.GreetingTimeout, verb+c.opt.Hostname)
	if err != nil {
		return err
	}
	c.ext = nil
	if r.Code == 250 {
		c.ext = extensions(r.Text)
		for _, name := range c.opt.Without {
			delete(c.ext, strings.ToUpper(name))
		}
		return nil
	}
	if r.Code < 500 || c.opt.LMTP {
		return unexpected(r)
	}
	if r, err = c.ask(ctx, c.opt.GreetingTimeout, "HELO "+c.opt.Hostname); err != nil {
		return err
	}
	if r.Code != 250 {
		return unexpected(r)
	}
	return nil
}

// extensions reads the lines of an EHLO reply after the first.
func extensions(text string) map[string]string {
	ext := map[string]string{}
	lines := strings.Split(text, "\n")
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, " ")
		if old, found := strings.CutPrefix(strings.ToUpper(name), "AUTH="); found { // a form of 1997
			name, value = "AUTH", strings.TrimSpace(old+" "+value)
		}
		name = strings.ToUpper(name)
		if had := ext[name]; had != "" {
			value = had + " " + value
		}
		ext[name] = value
	}
	return ext
}

// Has tells whether the server announced an extension, and with what behind it.
func (c *Client) Has(ext string) (param string, ok bool) {
	param, ok = c.ext[strings.ToUpper(ext)]
	return param, ok
}

// MaxRecipients is how many the server takes in one transaction (RFC 9422); 0
// where it does not say.
func (c *Client) MaxRecipients() int { return c.limit("RCPTMAX=") }

// MaxTransactions is how many the server takes on one connection; 0 where it
// does not say.
func (c *Client) MaxTransactions() int { return c.limit("MAILMAX=") }

func (c *Client) limit(name string) int {
	for word := range strings.FieldsSeq(c.ext["LIMITS"]) {
		if len(word) > len(name) && strings.EqualFold(word[:len(name)], name) {
			n, _ := digits(word[len(name):], 6) // RFC 9422 section 4
			return int(n)
		}
	}
	return 0
}

// TLS returns the state of the connection, if it is encrypted.
func (c *Client) TLS() (tls.ConnectionState, bool) {
	if c.tls == nil {
		return tls.ConnectionState{}, false
	}
	return *c.tls, true
}

// StartTLS asks for TLS, does the handshake, and says EHLO again. A *Reply means
// that the server refused STARTTLS and the connection goes on in clear; after any
// other error it is of no use. ErrHello is wrapped where TLS is on and the server
// refused to be greeted inside it.
func (c *Client) StartTLS(ctx context.Context, config *tls.Config) error {
	if err := c.usable(); err != nil {
		return err
	}
	if c.tls != nil {
		return errors.New("smtp: TLS is on already")
	}
	if _, ok := c.Has("STARTTLS"); !ok {
		return NewReply(454, "4.7.0", "the server does not offer STARTTLS")
	}
	defer c.watch(ctx)()
	r, err := c.ask(ctx, c.opt.GreetingTimeout, "STARTTLS")
	switch {
	case err != nil:
		return err
	case r.Code != 220:
		return unexpected(r)
	case len(c.in.pending()) > 0: // put there by somebody between us
		return c.broken(fmt.Errorf("%w: text before the TLS handshake", ErrProtocol))
	}
	until := time.Now().Add(c.opt.GreetingTimeout)
	if err := c.conn.SetDeadline(until); err != nil {
		return c.broken(err)
	}
	conn := tls.Client(c.conn, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return c.broken(err)
	}
	c.conn = conn
	c.setTLS()
	defer c.watch(ctx)()
	err = c.hello(ctx)
	if r, ok := errors.AsType[*Reply](err); ok {
		return c.broken(fmt.Errorf("%w: %s", ErrHello, r.Error()))
	}
	return err
}

// ErrHello is wrapped by the error of StartTLS where the handshake went well and
// the greeting inside it was refused.
const ErrHello = constError("smtp: EHLO was refused inside TLS")

// Auth logs in. A *Reply means that the server refused; the connection goes on.
func (c *Client) Auth(ctx context.Context, mech sasl.Client) error {
	if err := c.usable(); err != nil {
		return err
	}
	defer c.watch(ctx)()
	name, initial, err := mech.Start()
	if err != nil {
		return err
	}
	line := "AUTH " + name
	late := false
	switch encoded := sasl.EncodeInitial(initial); {
	case initial == nil:
	case len(line)+1+len(encoded) > 510: // RFC 4954 section 4
		late = true
	default:
		line += " " + encoded
	}
	r, err := c.ask(ctx, c.opt.GreetingTimeout, line)
	for steps := 0; err == nil && r.Code == 334 && steps < 2*maxAuthSteps; steps++ {
		response := initial
		if late {
			late = false
		} else if response, err = c.respond(mech, r.Text); err != nil {
			return c.cancelAuth(ctx, err)
		}
		r, err = c.ask(ctx, c.opt.GreetingTimeout, string(sasl.Encode(nil, response)))
	}
	if err != nil {
		return err
	}
	if r.Code != 235 {
		return unexpected(r)
	}
	c.user = true
	return nil
}

func (c *Client) respond(mech sasl.Client, text string) ([]byte, error) {
	challenge, err := sasl.Decode([]byte(strings.TrimSpace(text)))
	if err != nil {
		return nil, err
	}
	return mech.Next(challenge)
}

func (c *Client) cancelAuth(ctx context.Context, cause error) error {
	if _, err := c.ask(ctx, c.opt.GreetingTimeout, "*"); err != nil {
		return err
	}
	return &Reply{Code: 454, Enhanced: "4.7.0", Text: "authentication given up", Cause: cause}
}

// Verify asks whether the server would take mail of the null sender for a recipient, and ends the transaction. The
// reply is that to RCPT, or one to MAIL that is no yes.
func (c *Client) Verify(ctx context.Context, to string) (*Reply, error) {
	if err := c.usable(); err != nil {
		return nil, err
	}
	if strings.ContainsAny(to, "\r\n<>") {
		return nil, errors.New("smtp: an address that no command can carry")
	}
	defer c.watch(ctx)()
	params := ""
	if strings.ContainsFunc(to, func(r rune) bool { return r > unicode.MaxASCII }) {
		if _, ok := c.Has("SMTPUTF8"); !ok {
			return &Reply{Code: 550, Enhanced: "5.6.7", Text: "the host has no SMTPUTF8"}, nil
		}
		params = " SMTPUTF8"
	}
	r, err := c.ask(ctx, c.opt.MailTimeout, "MAIL FROM:<>"+params)
	if err == nil && r.Positive() {
		r, err = c.ask(ctx, c.opt.MailTimeout, "RCPT TO:<"+to+">")
	}
	if err == nil {
		err = c.reset(ctx)
	}
	return r, err
}

// Reset ends a transaction; a check whether the connection lives.
func (c *Client) Reset(ctx context.Context) error {
	if err := c.usable(); err != nil {
		return err
	}
	defer c.watch(ctx)()
	return c.reset(ctx)
}

func (c *Client) reset(ctx context.Context) error {
	r, err := c.ask(ctx, c.opt.MailTimeout, "RSET")
	if err == nil && !r.Positive() {
		err = unexpected(r)
	}
	return err
}

// Quit says goodbye, waits a few seconds for the answer, and closes.
func (c *Client) Quit(ctx context.Context) error {
	defer func() { _ = c.Close() }()
	if err := c.usable(); err != nil {
		return err
	}
	defer c.watch(ctx)()
	_, err := c.ask(ctx, 5*time.Second, "QUIT")
	return err
}

// Close cuts the connection.
func (c *Client) Close() error { return c.conn.Close() }

func (c *Client) usable() error { return c.err }

// broken makes the connection unusable and closes it.
func (c *Client) broken(err error) error {
	if c.err == nil {
		c.err = err
	}
	_ = c.conn.Close()
	return err
}

// ask sends one line and reads its reply.
func (c *Client) ask(ctx context.Context, wait time.Duration, line string) (*Reply, error) {
	if strings.ContainsAny(line, "\r\n\x00") {
		return nil, errors.New("smtp: a line end inside a command")
	}
	c.out = append(append(c.out, line...), '\r', '\n')
	if err := c.flush(ctx, wait); err != nil {
		return nil, err
	}
	return c.read(ctx, wait)
}

// deadline sets the time for what follows. The end of ctx wins over it: it is
// looked at after the deadline was set, and watch comes later than that.
func (c *Client) deadline(ctx context.Context, wait time.Duration) error {
	if err := c.conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// flush sends what has been collected. It is called where every command has its
// reply.
func (c *Client) flush(ctx context.Context, wait time.Duration) error {
	if err := c.deadline(ctx, wait); err != nil {
		return c.broken(err)
	}
	if err := c.quiet(ctx); err != nil {
		return err
	}
	_, err := c.conn.Write(c.out)
	c.out = c.out[:0]
	if cap(c.out) > smallBuffer {
		c.out = nil
	}
	if err != nil {
		return c.broken(c.cause(ctx, err))
	}
	return nil
}

func (c *Client) cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// A reply may be anything. The part of it that is kept is bounded here.
const (
	maxReplyText  = 4096 // octets kept
	maxReplyLines = 512
	maxReplyRead  = 2000     // octets kept of a line
	maxReplySkip  = 64 << 10 // octets of a line behind those, thrown away
)

// read waits for a reply.
func (c *Client) read(ctx context.Context, wait time.Duration) (*Reply, error) {
	if err := c.deadline(ctx, wait); err != nil {
		return nil, c.broken(err)
	}
	return c.reply(ctx)
}

// reply reads one reply. Its last line says which code it has: where lines
// contradict each other, that is what other clients go by.
func (c *Client) reply(ctx context.Context) (*Reply, error) {
	var lines []byte // but the last, parted by \n
	begun := false
	for range maxReplyLines {
		line, err := c.readLine(ctx)
		if err != nil {
			return nil, err
		}
		code, more, rest, ok := replyLine(line)
		if !ok && !begun && c.odd > 0 && (len(line) == 0 || line[0] < '0' || line[0] > '9') {
			c.odd--
			continue
		}
		if !ok {
			return nil, c.broken(fmt.Errorf("%w: not a reply: %.60q", ErrProtocol, line))
		}
		if more || begun {
			lines = append(lines, rest[:min(len(rest), max(0, maxReplyText-len(lines)))]...)
			rest = lines
		}
		if begun = true; more {
			lines = append(lines, '\n')
			continue
		}
		r := &Reply{Code: code}
		r.fill(rest)
		if r.Code == 421 && c.err == nil {
			c.err = r // the server closes: RFC 5321 section 3.8
		}
		return r, nil
	}
	return nil, c.broken(fmt.Errorf("%w: a reply without end", ErrProtocol))
}

// fill takes the text of a reply, and its enhanced code out of it.
func (r *Reply) fill(lines []byte) {
	text := make([]byte, 0, len(lines))
	for n := 0; ; n++ {
		line, rest, more := bytes.Cut(lines, []byte("\n"))
		text = addReplyText(text, r, line, n)
		if !more {
			break
		}
		lines = rest
	}
	r.Text = string(text)
}

// readLine reads one line of a reply. One that is too long is cut; where its end
// is too far away to look for, nothing more can be read from this connection.
func (c *Client) readLine(ctx context.Context) ([]byte, error) {
	var kept []byte // the beginning of a line that is too long
	skipped := 0
	for seen := 0; ; {
		pending := c.in.pending()
		if n := bytes.IndexByte(pending[seen:], '\n'); n >= 0 {
			line := pending[:seen+n]
			c.in.r += seen + n + 1
			if kept != nil {
				line = kept
			}
			return bytes.TrimSuffix(line, []byte("\r")), nil
		}
		if seen = len(pending); seen > maxReplyRead {
			if kept == nil {
				kept = bytes.Clone(pending[:maxReplyRead])
			}
			skipped, seen = skipped+seen, 0
			c.in.discard()
		}
		if skipped > maxReplySkip {
			_ = c.broken(fmt.Errorf("%w: a reply line without end", ErrProtocol))
			return kept, nil
		}
		n, err := c.conn.Read(c.in.room())
		c.in.w += n
		if n == 0 && err != nil {
			return nil, c.broken(c.cause(ctx, err))
		}
	}
}

// replyLine takes the parts of "250-text".
func replyLine(line []byte) (code int, more bool, text []byte, ok bool) {
	if len(line) < 3 {
		return 0, false, nil, false
	}
	for _, d := range line[:3] {
		if d < '0' || d > '9' {
			return 0, false, nil, false
		}
		code = code*10 + int(d-'0')
	}
	if code < 200 || code > 599 {
		return 0, false, nil, false
	}
	if len(line) == 3 {
		return code, false, nil, true
	}
	return code, line[3] == '-', line[4:], line[3] == '-' || line[3] == ' ' || line[3] == '\t'
}

// addReplyText adds a line's text, cleaned, without its enhanced code. The first
// one that fits the reply's code is the reply's.
func addReplyText(text []byte, r *Reply, line []byte, n int) []byte {
	if n > 0 {
		text = append(text, '\n')
	}
	if e := enhancedCode(line, r.Code); e > 0 {
		if r.Enhanced == "" {
			r.Enhanced = string(line[:e])
		}
		if string(line[:e]) == r.Enhanced {
			line = bytes.TrimPrefix(line[e:], []byte(" "))
		}
	}
	if len(text)+len(line) > maxReplyText {
		line = line[:max(0, min(len(line), maxReplyText-len(text)))]
	}
	return append(text, printable.Text(strings.ReplaceAll(string(line), "\t", " "), len(line))...)
}

// enhancedCode returns the length of the enhanced code that line begins with; 0
// where there is none that fits the reply.
func enhancedCode(line []byte, code int) int {
	word, _, _ := bytes.Cut(line, []byte(" "))
	parts := strings.Split(string(word[:min(len(word), 10)]), ".")
	if len(word) > 9 || len(parts) != 3 || parts[0] != strconv.Itoa(code/100) {
		return 0
	}
	for _, p := range parts[1:] {
		if _, ok := digits(p, 3); !ok {
			return 0
		}
	}
	return len(word)
}
