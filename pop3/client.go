package pop3

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"relay/smtp/sasl"
)

// ReplyError is a -ERR.
type ReplyError struct {
	Code string // response code in upper case, "IN-USE" or "SYS/TEMP"; may be empty
	Text string
}

func (e *ReplyError) Error() string {
	if e.Code == "" {
		return "pop3: " + e.Text
	}
	return "pop3: [" + e.Code + "] " + e.Text
}

// ErrProtocol says that a server did not answer in the protocol's terms. The
// connection is of no use any more.
var ErrProtocol = errors.New("pop3: not a POP3 reply")

// Client is the client side of one connection. One goroutine at a time uses it.
// After any error that is not a *ReplyError it can only be closed.
type Client struct {
	// Greeting is the text of the server's greeting.
	Greeting string

	nc net.Conn
	r  *bufio.Reader
	w  *bufio.Writer
}

// Dial connects, with TLS from the beginning where config is not nil, and waits
// for the greeting.
func Dial(ctx context.Context, addr string, config *tls.Config) (*Client, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if config != nil {
		tc := tls.Client(nc, withName(config, addr))
		if err := tc.HandshakeContext(ctx); err != nil {
			_ = nc.Close()
			return nil, err
		}
		nc = tc
	}
	c, err := NewClient(ctx, nc)
	if err != nil {
		_ = nc.Close()
	}
	return c, err
}

func withName(config *tls.Config, addr string) *tls.Config {
	if config.ServerName != "" || config.InsecureSkipVerify {
		return config
	}
	config = config.Clone()
	config.ServerName, _, _ = net.SplitHostPort(addr)
	return config
}

// NewClient waits for the greeting on a connection. The client owns the
// connection, except after an error.
func NewClient(ctx context.Context, nc net.Conn) (*Client, error) {
	c := &Client{nc: nc, r: bufio.NewReaderSize(nc, 16<<10), w: bufio.NewWriterSize(nc, 4<<10)}
	defer c.within(ctx)()
	var err error
	c.Greeting, err = c.Reply()
	return c, err
}

// within makes reads and writes end with ctx. The function returned undoes it.
func (c *Client) within(ctx context.Context) func() {
	if ctx.Done() == nil {
		return func() {}
	}
	nc := c.nc
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	return func() {
		if stop() {
			_ = nc.SetDeadline(time.Time{})
		}
	}
}

// Close closes the connection without QUIT, which deletes nothing.
func (c *Client) Close() error { return c.nc.Close() }

// Send queues a command line. It is written with the next read or Flush, so
// that commands can be pipelined.
func (c *Client) Send(line string) error {
	_, _ = c.w.WriteString(line)
	_, err := c.w.WriteString("\r\n")
	return err
}

// Flush writes what Send has queued.
func (c *Client) Flush() error { return c.w.Flush() }

// Reply reads one status line: the text behind +OK, or a *ReplyError.
func (c *Client) Reply() (string, error) {
	line, err := c.replyLine()
	return string(line), err
}

func (c *Client) replyLine() ([]byte, error) {
	line, err := c.readLine()
	if err != nil {
		return nil, err
	}
	if rest, ok := bytes.CutPrefix(line, []byte("+OK")); ok && (len(rest) == 0 || rest[0] == ' ') {
		return bytes.TrimPrefix(rest, []byte(" ")), nil
	}
	if rest, ok := bytes.CutPrefix(line, []byte("-ERR")); ok {
		return nil, replyError(strings.TrimPrefix(string(rest), " "))
	}
	return nil, fmt.Errorf("%w: %.80q", ErrProtocol, line)
}

func replyError(text string) *ReplyError {
	if strings.HasPrefix(text, "[") {
		if code, rest, ok := strings.Cut(text[1:], "]"); ok {
			return &ReplyError{Code: strings.ToUpper(code), Text: strings.TrimPrefix(rest, " ")}
		}
	}
	return &ReplyError{Text: text}
}

// readLine returns a line without its end, valid until the next read.
func (c *Client) readLine() ([]byte, error) {
	if c.w.Buffered() > 0 {
		if err := c.w.Flush(); err != nil {
			return nil, err
		}
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		if err == io.EOF && len(line) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}

// Lines reads the lines of a multi-line reply, unstuffed and without their
// ends, up to the final dot. A line is valid during the call only.
func (c *Client) Lines(each func(line []byte)) error {
	for {
		line, err := c.readLine()
		if err != nil {
			return err
		}
		if len(line) > 0 && line[0] == '.' {
			if line = line[1:]; len(line) == 0 {
				return nil
			}
		}
		each(line)
	}
}

// Body copies a multi-line reply to w, unstuffed, with its line ends, and
// returns its octets. Lines may be of any length.
func (c *Client) Body(w io.Writer) (n int64, err error) {
	bol := true
	for {
		part, err := c.r.ReadSlice('\n')
		if err != nil && err != bufio.ErrBufferFull {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
		if bol && part[0] == '.' {
			if string(part) == ".\r\n" || string(part) == ".\n" {
				return n, nil
			}
			part = part[1:]
		}
		bol = err == nil
		m, werr := w.Write(part)
		n += int64(m)
		if werr != nil {
			return n, werr
		}
	}
}

// Command sends a line and returns the text of its one-line reply.
func (c *Client) Command(ctx context.Context, line string) (string, error) {
	defer c.within(ctx)()
	if err := c.Send(line); err != nil {
		return "", err
	}
	return c.Reply()
}

func (c *Client) multi(ctx context.Context, line string, each func([]byte)) error {
	defer c.within(ctx)()
	if err := c.Send(line); err != nil {
		return err
	}
	if _, err := c.replyLine(); err != nil {
		return err
	}
	return c.Lines(each)
}

// StartTLS goes over to TLS.
func (c *Client) StartTLS(ctx context.Context, config *tls.Config) error {
	if _, err := c.Command(ctx, "STLS"); err != nil {
		return err
	}
	if c.r.Buffered() > 0 {
		return fmt.Errorf("%w: text before the handshake", ErrProtocol)
	}
	tc := tls.Client(c.nc, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		return err
	}
	c.nc = tc
	c.r.Reset(tc)
	c.w.Reset(tc)
	return nil
}

// TLS returns the state of the connection's TLS, nil where it is in clear.
func (c *Client) TLS() *tls.ConnectionState {
	tc, ok := c.nc.(*tls.Conn)
	if !ok {
		return nil
	}
	st := tc.ConnectionState()
	return &st
}

// Capa returns the capabilities with their arguments, by tag in upper case.
func (c *Client) Capa(ctx context.Context) (map[string][]string, error) {
	all := map[string][]string{}
	err := c.multi(ctx, "CAPA", func(line []byte) {
		if f := strings.Fields(string(line)); len(f) > 0 {
			all[strings.ToUpper(f[0])] = f[1:]
		}
	})
	return all, err
}

// Login logs in with USER and PASS.
func (c *Client) Login(ctx context.Context, user, secret string) error {
	if strings.ContainsAny(user+secret, "\r\n") {
		return errors.New("pop3: a line end in a user name or secret")
	}
	if _, err := c.Command(ctx, "USER "+user); err != nil {
		return err
	}
	_, err := c.Command(ctx, "PASS "+secret)
	return err
}

// Auth logs in with a SASL mechanism (RFC 5034).
func (c *Client) Auth(ctx context.Context, mechanism sasl.Client) error {
	name, first, err := mechanism.Start()
	if err != nil {
		return err
	}
	line := "AUTH " + name
	if first != nil {
		text := sasl.EncodeInitial(first)
		if len(line)+1+len(text)+2 <= maxCommand {
			line += " " + text
			first = nil
		}
	}
	defer c.within(ctx)()
	if err := c.Send(line); err != nil {
		return err
	}
	for {
		reply, err := c.readLine()
		if err != nil {
			return err
		}
		text, ok := bytes.CutPrefix(reply, []byte("+ "))
		if !ok {
			return c.authEnd(reply)
		}
		if err := c.respond(mechanism, text, first); err != nil {
			return err
		}
		first = nil
	}
}

func (c *Client) authEnd(reply []byte) error {
	switch {
	case bytes.HasPrefix(reply, []byte("+OK")):
		return nil
	case bytes.HasPrefix(reply, []byte("-ERR")):
		return replyError(strings.TrimPrefix(string(reply[4:]), " "))
	}
	return fmt.Errorf("%w: %.80q", ErrProtocol, reply)
}

// respond answers a challenge; with first, where the initial response did not
// fit into the command.
func (c *Client) respond(mechanism sasl.Client, text, first []byte) error {
	if first != nil {
		return c.Send(sasl.EncodeInitial(first))
	}
	challenge, err := sasl.DecodeInitial(text)
	if err == nil {
		var response []byte
		if response, err = mechanism.Next(challenge); err == nil {
			return c.Send(string(sasl.Encode(nil, response)))
		}
	}
	if sent := c.Send("*"); sent == nil {
		_, _ = c.Reply()
	}
	return err
}

// Stat returns the number of messages and their octets.
func (c *Client) Stat(ctx context.Context) (messages int, octets int64, err error) {
	text, err := c.Command(ctx, "STAT")
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscanf(text, "%d %d", &messages, &octets); err != nil {
		return 0, 0, fmt.Errorf("%w: STAT: %.80q", ErrProtocol, text)
	}
	return messages, octets, nil
}

// List calls each with number and size of every message.
func (c *Client) List(ctx context.Context, each func(n int, size int64)) error {
	return c.multi(ctx, "LIST", func(line []byte) {
		num, size, _ := bytes.Cut(line, []byte(" "))
		n, _ := parseNumber(num)
		octets, _ := parseNumber(size)
		each(n, int64(octets))
	})
}

// UIDL calls each with number and unique id of every message. uid is valid
// during the call only.
func (c *Client) UIDL(ctx context.Context, each func(n int, uid []byte)) error {
	return c.multi(ctx, "UIDL", func(line []byte) {
		num, uid, _ := bytes.Cut(line, []byte(" "))
		n, _ := parseNumber(num)
		each(n, uid)
	})
}

// Retr copies message n to w and returns its octets.
func (c *Client) Retr(ctx context.Context, n int, w io.Writer) (int64, error) {
	return c.RetrUID(ctx, strconv.Itoa(n), w)
}

// RetrUID is Retr for a message reference, such as "UID:…".
func (c *Client) RetrUID(ctx context.Context, ref string, w io.Writer) (int64, error) {
	return c.body(ctx, "RETR "+ref, w)
}

// Top copies the header of message n and so many lines of its body to w.
func (c *Client) Top(ctx context.Context, n, lines int, w io.Writer) (int64, error) {
	return c.body(ctx, "TOP "+strconv.Itoa(n)+" "+strconv.Itoa(lines), w)
}

func (c *Client) body(ctx context.Context, line string, w io.Writer) (int64, error) {
	defer c.within(ctx)()
	if err := c.Send(line); err != nil {
		return 0, err
	}
	if _, err := c.replyLine(); err != nil {
		return 0, err
	}
	return c.Body(w)
}

// RetrPipelined retrieves the messages from first to last with at most window
// commands under way, and copies each to the writer that to returns for it.
func (c *Client) RetrPipelined(ctx context.Context, first, last, window int, to func(n int) io.Writer) error {
	defer c.within(ctx)()
	sent := first
	line := make([]byte, 0, 32)
	for n := first; n <= last; n++ {
		if sent == n || sent-n <= window/2 {
			for ; sent <= last && sent < n+max(window, 1); sent++ {
				line = strconv.AppendInt(append(line[:0], "RETR "...), int64(sent), 10)
				if _, err := c.w.Write(append(line, '\r', '\n')); err != nil {
					return err
				}
			}
		}
		if _, err := c.replyLine(); err != nil {
			return err
		}
		if _, err := c.Body(to(n)); err != nil {
			return err
		}
	}
	return nil
}

// Dele marks message n.
func (c *Client) Dele(ctx context.Context, n int) error {
	_, err := c.Command(ctx, "DELE "+strconv.Itoa(n))
	return err
}

// Deli deletes message n at once.
func (c *Client) Deli(ctx context.Context, n int) error {
	_, err := c.Command(ctx, "DELI "+strconv.Itoa(n))
	return err
}

// Reset takes back all marks.
func (c *Client) Reset(ctx context.Context) error {
	_, err := c.Command(ctx, "RSET")
	return err
}

// Noop does nothing, but keeps the session alive.
func (c *Client) Noop(ctx context.Context) error {
	_, err := c.Command(ctx, "NOOP")
	return err
}

// Sleep commits the deletions and gives up the maildrop until Wake.
func (c *Client) Sleep(ctx context.Context) error {
	_, err := c.Command(ctx, "SLEE")
	return err
}

// Wake takes the maildrop again and reports whether there is new mail.
func (c *Client) Wake(ctx context.Context) (news bool, err error) {
	text, err := c.Command(ctx, "WAKE")
	return strings.HasPrefix(strings.ToUpper(text), "[ACTIVITY/NEW]"), err
}

// Quit commits the deletions and closes the connection. The deletions are done
// where it returns nil.
func (c *Client) Quit(ctx context.Context) error {
	_, err := c.Command(ctx, "QUIT")
	_ = c.nc.Close() // the server does the same; either may be first
	return err
}
