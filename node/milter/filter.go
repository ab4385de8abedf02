package milter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	wire "github.com/emersion/go-milter"
	"go.uber.org/zap"

	"relay/smtp"
	"relay/smtp/printable"
)

// Options describe one filter.
type Options struct {
	Address string        // inet:HOST:PORT or unix:PATH
	Timeout time.Duration // of each of its answers
	Accept  bool          // what can not be filtered passes; else it is answered 451
	Host    string        // of this node: macros j and {daemon_name}
	Version string        // macro v
	Log     *zap.Logger
}

// Filter is one content filter. Its methods may be called concurrently.
type Filter struct {
	o       Options
	network string
	address string
	old     atomic.Bool // it speaks version 2 of the protocol
	Stats   Stats
}

// Stats count what a filter said.
type Stats struct {
	Messages atomic.Int64 // filtered to their end
	Refused  atomic.Int64 // commands and messages, for good or for now
	Discards atomic.Int64
	Failed   atomic.Int64 // could not be asked
}

// ParseAddress splits inet:HOST:PORT or unix:PATH.
func ParseAddress(text string) (network, address string, err error) {
	kind, rest, _ := strings.Cut(text, ":")
	switch {
	case kind == "unix" && strings.HasPrefix(rest, "/"):
		return "unix", rest, nil
	case kind == "inet":
		host, port, err := net.SplitHostPort(rest)
		if n, e := strconv.Atoi(port); err == nil && e == nil && n > 0 && n < 1<<16 && host != "" {
			return "tcp", rest, nil
		}
	}
	return "", "", fmt.Errorf("%q is neither inet:HOST:PORT nor unix:/PATH", text)
}

// New makes a filter. Nothing is connected before the first message.
func New(o Options) (*Filter, error) {
	network, address, err := ParseAddress(o.Address)
	if err != nil {
		return nil, err
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	return &Filter{o: o, network: network, address: address}, nil
}

// Address is as it was configured.
func (f *Filter) Address() string { return f.o.Address }

// Client is who hands a message in.
type Client struct {
	Session  string
	Remote   netip.AddrPort
	Name     string // of the host; empty: not known
	Helo     string
	User     string // empty: not logged in
	TLS      string // version, empty: in clear
	Cipher   string
	Listener string
}

// These are the actions that we let filters take, and the steps that they may ask to
// be spared. Version 2 knows the first six bits of the one and the first seven of the
// other.
const (
	actions = wire.OptAddHeader | wire.OptChangeBody | wire.OptAddRcpt | wire.OptRemoveRcpt | wire.OptChangeHeader |
		wire.OptQuarantine
	spared = wire.OptNoConnect | wire.OptNoHelo | wire.OptNoMailFrom | wire.OptNoRcptTo | wire.OptNoBody |
		wire.OptNoHeaders | wire.OptNoEOH
	more = wire.OptNoHeaderReply | wire.OptNoUnknown | wire.OptNoData | wire.OptNoConnReply | wire.OptNoHeloReply |
		wire.OptNoMailReply | wire.OptNoRcptReply | wire.OptNoDataReply | wire.OptNoUnknownReply | wire.OptNoEOHReply |
		wire.OptNoBodyReply | wire.OptHeaderLeadingSpace
)

// dialogue is one connection to a filter, about one message.
type dialogue struct {
	*Filter
	conn   *bounded
	wire   *wire.ClientSession
	silent bool // it has said what it had to say, or could not be asked
}

// bounded is a connection that gives up where a filter says too much at once: the
// library keeps all of an answer.
type bounded struct {
	net.Conn
	left int
}

// maxAnswer is how much a filter may say to one question, beside a new body.
const maxAnswer = 1 << 20

var errAnswer = errors.New("it says too much")

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errAnswer
	}
	n, err := b.Conn.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// dialer gives the library a connection and keeps it: the library leaves one
// open where the negotiation fails.
type dialer struct {
	ctx  context.Context
	conn *bounded
}

func (d *dialer) Dial(network, address string) (conn net.Conn, err error) {
	var plain net.Dialer
	if conn, err = plain.DialContext(d.ctx, network, address); err != nil {
		return nil, err
	}
	d.conn = &bounded{conn, maxAnswer}
	return d.conn, nil
}

// open connects and negotiates.
func (f *Filter) open(ctx context.Context) (*dialogue, error) {
	d, err := f.negotiate(ctx, f.old.Load())
	if errors.Is(err, wire.ErrUnsupportedMilterVersion) && !f.old.Load() {
		if d, err = f.negotiate(ctx, true); err == nil {
			f.old.Store(true)
		}
	}
	return d, err
}

func (f *Filter) negotiate(ctx context.Context, old bool) (*dialogue, error) {
	ctx, cancel := context.WithTimeout(ctx, f.o.Timeout)
	defer cancel()
	spare := spared | more
	if old {
		spare = spared
	}
	by := &dialer{ctx: ctx}
	s, err := wire.NewClientWithOptions(f.network, f.address, wire.ClientOptions{
		Dialer: by, ReadTimeout: f.o.Timeout, WriteTimeout: f.o.Timeout, ActionMask: actions, ProtocolMask: spare,
	}).Session()
	if err != nil {
		if by.conn != nil {
			_ = by.conn.Close()
		}
		return nil, err
	}
	return &dialogue{Filter: f, conn: by.conn, wire: s}, nil
}

// close ends the dialogue. polite says goodbye first, which a filter that did
// not answer is not owed.
func (d *dialogue) close(polite bool) {
	if polite {
		_ = d.wire.Close()
	}
	_ = d.conn.Close()
}

// do has one thing asked; the connection is cut when ctx ends.
func (d *dialogue) do(ctx context.Context, ask func() (*wire.Action, error)) (*wire.Action, error) {
	defer context.AfterFunc(ctx, func() { _ = d.conn.Close() })()
	d.conn.left = maxAnswer
	a, err := ask()
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return a, err
}

// stage is where in a message an answer is given.
type stage string

const (
	atCommand stage = "Command"
	atMessage stage = "Message"
)

// judge says what an answer means; discard is a message to be taken and thrown
// away.
func (d *dialogue) judge(a *wire.Action, at stage) (discard bool, err error) {
	var r *smtp.Reply
	switch a.Code {
	case wire.ActAccept:
		d.silent = true
	case wire.ActDiscard:
		d.silent = true
		d.Stats.Discards.Add(1)
		return true, nil
	case wire.ActReject:
		r = smtp.NewReply(550, "5.7.1", string(at)+" rejected")
	case wire.ActTempFail:
		r = smtp.NewReply(451, "4.7.1", "Service unavailable, try again later")
	case wire.ActReplyCode:
		r = replyOf(a.SMTPCode, a.SMTPText)
	}
	if r == nil {
		return false, nil
	}
	r.Reason = "filter"
	return false, r
}

// replyOf is the reply a filter chose. A reply that is no refusal becomes a temporary
// one, and so does 421: closing the connection is ours to decide.
func replyOf(code int, text string) *smtp.Reply {
	if code/100 != 4 && code/100 != 5 || code == 421 {
		code = 451
	}
	r := &smtp.Reply{Code: code, Enhanced: fmt.Sprintf("%d.7.1", code/100)}
	text = strings.ReplaceAll(text, "%%", "%")
	if class, rest, ok := strings.Cut(text, " "); ok && enhanced(class, code) {
		r.Enhanced, text = class, rest
	}
	r.Text = oneLine(text)
	return r
}

// enhanced recognises a status code of RFC 3463 of the class of a reply.
func enhanced(s string, code int) bool {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || parts[0] != strconv.Itoa(code/100) {
		return false
	}
	for _, p := range parts[1:] {
		if n, err := strconv.Atoi(p); err != nil || n < 0 || n > 999 {
			return false
		}
	}
	return true
}

// oneLine makes a foreign text one line.
func oneLine(s string) string {
	return printable.Text(strings.NewReplacer("\r", " ", "\n", " ", "\t", " ").Replace(strings.TrimSpace(s)), 400)
}
