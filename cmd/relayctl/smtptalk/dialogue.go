// Package smtptalk hands mail to an SMTP server and lets its user read along.
package smtptalk

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"time"

	"relay/cmd/internal/wording"
	"relay/node/admin"
	"relay/smtp/sasl"
)

// Server says which server is spoken to, and how.
type Server struct {
	Addr    string        // HOST:PORT
	TLS     string        // none, starttls or implicit
	User    string        // logs in by AUTH PLAIN; empty: nobody does
	Helo    string        // the name in EHLO
	Timeout time.Duration // longest wait for an answer; 0: for ever
}

// Dialogue is one SMTP connection that can be listened to.
type Dialogue struct {
	conn    net.Conn
	text    *textproto.Conn
	timeout time.Duration
	heard   func(line string)
	offers  map[string]bool // EHLO keywords
}

// Dial connects to a server; heard is called with each line that is said. Command and reply lines
// may hold what a stranger's server chose.
func Dial(ctx context.Context, s Server, config *tls.Config, heard func(string)) (*Dialogue, error) {
	dialer := &net.Dialer{Timeout: s.Timeout}
	var conn net.Conn
	var err error
	if s.TLS == "implicit" {
		conn, err = (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(ctx, "tcp", s.Addr)
	} else {
		conn, err = dialer.DialContext(ctx, "tcp", s.Addr)
	}
	if err != nil {
		return nil, fmt.Errorf("no SMTP server can be reached at %s: %s; check the port and --tls", s.Addr, wording.Net(err))
	}
	heard("* connected to " + s.Addr)
	return newDialogue(conn, s.Timeout, heard), nil
}

func newDialogue(conn net.Conn, timeout time.Duration, heard func(string)) *Dialogue {
	return &Dialogue{conn: conn, text: textproto.NewConn(conn), timeout: timeout, heard: heard}
}

// greetingWithin is how long a server may take to greet.
const greetingWithin = 15 * time.Second

// greeting waits for the server's first words. A port that speaks TLS from the
// start has none.
func (d *Dialogue) greeting() error {
	whole := d.timeout
	if whole <= 0 || whole > greetingWithin {
		d.timeout = greetingWithin
	}
	_, err := d.reply(2)
	d.timeout = whole
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return errors.New("the server does not greet: a port that begins with TLS, such as 465, wants --tls implicit")
	}
	return err
}

// Open greets, encrypts and logs in as asked; secret is the password of s.User. An error says what the
// server answered, or that the connection is lost.
func (d *Dialogue) Open(ctx context.Context, s Server, config *tls.Config, secret string) error {
	if err := d.greeting(); err != nil {
		return err
	}
	if err := d.ehlo(s.Helo); err != nil {
		return err
	}
	if s.TLS == "starttls" {
		if _, err := d.command(2, "STARTTLS"); err != nil {
			return err
		}
		conn := tls.Client(d.conn, config)
		if err := conn.HandshakeContext(ctx); err != nil {
			return fmt.Errorf("TLS failed: %s", wording.Net(err))
		}
		d.conn, d.text = conn, textproto.NewConn(conn)
		d.heard("* " + tls.VersionName(conn.ConnectionState().Version) + " " +
			tls.CipherSuiteName(conn.ConnectionState().CipherSuite))
		if err := d.ehlo(s.Helo); err != nil {
			return err
		}
	}
	if s.User == "" {
		return nil
	}
	mechanism, response, err := sasl.NewPlainClient(s.User, secret).Start()
	if err != nil {
		return err
	}
	d.heard("C: AUTH " + mechanism + " ***")
	_, err = d.quietly(2, "AUTH "+mechanism+" "+sasl.EncodeInitial(response))
	return err
}

func (d *Dialogue) ehlo(name string) error {
	text, err := d.command(2, "EHLO "+name)
	d.offers = map[string]bool{}
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) > 0 {
			d.offers[strings.ToUpper(words[0])] = true
		}
	}
	return err
}

// Send runs one transaction. A refused recipient stands in the receipt; an error says that nobody gets the
// message.
func (d *Dialogue) Send(from string, to []string, message []byte) (*admin.Receipt, error) {
	if _, err := d.command(2, "MAIL FROM:<"+from+">"+d.parameters(from, to, message)); err != nil {
		return nil, err
	}
	r := &admin.Receipt{Node: d.conn.RemoteAddr().String(), Size: uint64(len(message))}
	taken := 0
	for _, to := range to {
		text, err := d.command(2, "RCPT TO:<"+to+">")
		var refused *smtpRefusal
		switch {
		case err == nil:
			taken++
		case errors.As(err, &refused):
			text = refused.reply()
		default:
			return nil, err
		}
		r.Recipients = append(r.Recipients, admin.ReceiptRecipient{Address: to, Accepted: err == nil, Reply: text})
	}
	if taken == 0 {
		_, _ = d.command(2, "RSET")
		return nil, fmt.Errorf("every recipient was refused: %s", r.Recipients[0].Reply)
	}
	if _, err := d.command(3, "DATA"); err != nil {
		return nil, err
	}
	text, err := d.data(message)
	r.ID = queuedAs(text)
	return r, err
}

// parameters of MAIL: what the message needs and the server offers.
func (d *Dialogue) parameters(from string, to []string, message []byte) string {
	out := ""
	if d.offers["SIZE"] {
		out += fmt.Sprintf(" SIZE=%d", len(message))
	}
	if d.offers["8BITMIME"] && !ascii(string(message)) {
		out += " BODY=8BITMIME"
	}
	if d.offers["SMTPUTF8"] && !ascii(from+strings.Join(to, "")) {
		out += " SMTPUTF8"
	}
	return out
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}

// data sends the message behind DATA, with dots stuffed and lines ended CRLF.
func (d *Dialogue) data(message []byte) (string, error) {
	d.heard(fmt.Sprintf("C: (%d octets of message)", len(message)))
	d.deadline()
	w := d.text.DotWriter()
	if _, err := w.Write(message); err != nil {
		return "", lost(err)
	}
	if err := w.Close(); err != nil {
		return "", lost(err)
	}
	d.heard("C: .")
	return d.reply(2)
}

// queuedAs finds the id that a server names in its last reply.
func queuedAs(reply string) string {
	words := strings.Fields(reply)
	for i, w := range words {
		if i > 0 && strings.EqualFold(words[i-1], "as") {
			return strings.Trim(w, ".,;<>")
		}
	}
	for _, w := range words {
		if w = strings.Trim(w, ".,;<>"); len(w) == 26 && !strings.Contains(w, ".") {
			return w
		}
	}
	return ""
}

// Close ends the connection, and whatever waits for it.
func (d *Dialogue) Close() { d.conn.Close() }

// Quit says goodbye.
func (d *Dialogue) Quit() { _, _ = d.command(2, "QUIT") }

func (d *Dialogue) deadline() {
	if d.timeout > 0 {
		_ = d.conn.SetDeadline(time.Now().Add(d.timeout))
	}
}

// command sends a line and wants a reply of the class first.
func (d *Dialogue) command(first int, line string) (string, error) {
	if strings.ContainsAny(line, "\r\n\x00") {
		return "", errors.New("an address or name holds a line end")
	}
	d.heard("C: " + line)
	return d.quietly(first, line)
}

func (d *Dialogue) quietly(first int, line string) (string, error) {
	d.deadline()
	if err := d.text.PrintfLine("%s", line); err != nil {
		return "", lost(err)
	}
	return d.reply(first)
}

// reply reads one reply, of several lines perhaps.
func (d *Dialogue) reply(first int) (string, error) {
	d.deadline()
	code, text, err := d.text.ReadResponse(first)
	var refused *textproto.Error
	switch {
	case errors.As(err, &refused):
		code, text, err = refused.Code, refused.Msg, &smtpRefusal{refused.Code, refused.Msg}
	case err != nil:
		return "", lost(err)
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		mark := "-"
		if i == len(lines)-1 {
			mark = " "
		}
		d.heard(fmt.Sprintf("S: %d%s%s", code, mark, line))
	}
	return text, err
}

// smtpRefusal is a reply that was not hoped for.
type smtpRefusal struct {
	code int
	text string
}

func (e *smtpRefusal) reply() string { return fmt.Sprintf("%d %s", e.code, e.text) }

func (e *smtpRefusal) Error() string { return "the server answers " + e.reply() }

func lost(err error) error { return &lostError{err} }

// lostError says that the dialogue can't go on.
type lostError struct{ cause error }

func (e *lostError) Unwrap() error { return e.cause }

func (e *lostError) Error() string {
	return "the connection to the server was lost: " + wording.Net(e.cause) + "; try again, or another node"
}
