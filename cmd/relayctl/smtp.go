package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relay/cmd/internal/wording"
	"relay/node/admin"
	"relay/smtp/sasl"
)

// smtpFlags say how a server is spoken to directly.
type smtpFlags struct {
	addr, tls, user, helo string
	insecure              bool
	timeout               time.Duration
}

func (s *smtpFlags) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.addr, "smtp", "", "speak SMTP to `HOST:PORT` instead of using the admin API")
	f.StringVar(&s.tls, "tls", "none", "with --smtp: none, starttls or implicit")
	f.BoolVar(&s.insecure, "insecure", false, "with --smtp: take any certificate")
	f.StringVar(&s.user, "user", "", "with --smtp: log in by AUTH PLAIN; the password as for 'user passwd'")
	f.StringVar(&s.helo, "helo", "", "with --smtp: name in EHLO; default: this machine's")
	f.DurationVar(&s.timeout, "timeout", time.Minute, "with --smtp: longest wait for an answer")
}

func (s *smtpFlags) check(c *cobra.Command) error {
	if s.tls != "none" && s.tls != "starttls" && s.tls != "implicit" {
		return usagef("--tls %q is not none, starttls or implicit", s.tls)
	}
	for _, name := range []string{"tls", "insecure", "user", "helo", "timeout"} {
		if s.addr == "" && c.Flags().Changed(name) {
			return usagef("--%s goes with --smtp", name)
		}
	}
	if s.helo == "" {
		s.helo = "localhost"
		if name, err := os.Hostname(); err == nil && name != "" {
			s.helo = name
		}
	}
	return nil
}

// dialogue is one SMTP connection that can be listened to.
type dialogue struct {
	conn    net.Conn
	text    *textproto.Conn
	timeout time.Duration
	heard   func(line string)
	offers  map[string]bool // EHLO keywords
}

// sendSMTP sends all messages over one connection.
func (a *app) sendSMTP(ctx context.Context, f *sendFlags) error {
	secret := ""
	if f.smtp.user != "" {
		var err error
		if secret, err = f.password.read(a); err != nil {
			return err
		}
	}
	config, err := a.smtpTLS(f)
	if err != nil {
		return err
	}
	heard := func(string) {}
	if f.verbose {
		heard = func(line string) { a.note("%s", clean(line)) }
	}
	d, err := dialSMTP(ctx, f, config, heard)
	if err != nil {
		return err
	}
	defer d.conn.Close()
	// A cancelled context ends whatever the dialogue waits for.
	defer context.AfterFunc(ctx, func() { d.conn.Close() })()
	if err := d.open(ctx, f, config, secret); err != nil {
		return err
	}
	if err := a.sendAll(f, func() (*admin.Receipt, error) { return d.send(f, a.now()) }); err != nil {
		return err
	}
	_, _ = d.command(2, "QUIT")
	return nil
}

func (a *app) smtpTLS(f *sendFlags) (*tls.Config, error) {
	host, _, _ := net.SplitHostPort(hostPort(f.smtp.addr, "25"))
	config := &tls.Config{ServerName: host, InsecureSkipVerify: f.smtp.insecure, MinVersion: tls.VersionTLS12}
	if ca := first(a.link.ca, a.getenv("RELAY_CA")); ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("the CA file can not be read: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM(pem)
	}
	return config, nil
}

func dialSMTP(ctx context.Context, f *sendFlags, config *tls.Config, heard func(string)) (*dialogue, error) {
	dialer := &net.Dialer{Timeout: f.smtp.timeout}
	addr := hostPort(f.smtp.addr, "25")
	var conn net.Conn
	var err error
	if f.smtp.tls == "implicit" {
		conn, err = (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(ctx, "tcp", addr)
	} else {
		conn, err = dialer.DialContext(ctx, "tcp", addr)
	}
	if err != nil {
		return nil, fmt.Errorf("no SMTP server can be reached at %s: %s; check the port and --tls", addr, wording.Net(err))
	}
	heard("* connected to " + addr)
	return newDialogue(conn, f.smtp.timeout, heard), nil
}

func newDialogue(conn net.Conn, timeout time.Duration, heard func(string)) *dialogue {
	return &dialogue{conn: conn, text: textproto.NewConn(conn), timeout: timeout, heard: heard}
}

// greetingWithin is how long a server may take to greet.
const greetingWithin = 15 * time.Second

// greeting waits for the server's first words. A port that speaks TLS from the
// start has none.
func (d *dialogue) greeting() error {
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

// open greets, encrypts and logs in as asked.
func (d *dialogue) open(ctx context.Context, f *sendFlags, config *tls.Config, secret string) error {
	if err := d.greeting(); err != nil {
		return err
	}
	if err := d.ehlo(f.smtp.helo); err != nil {
		return err
	}
	if f.smtp.tls == "starttls" {
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
		if err := d.ehlo(f.smtp.helo); err != nil {
			return err
		}
	}
	if f.smtp.user == "" {
		return nil
	}
	mechanism, response, err := sasl.NewPlainClient(f.smtp.user, secret).Start()
	if err != nil {
		return err
	}
	d.heard("C: AUTH " + mechanism + " ***")
	_, err = d.quietly(2, "AUTH "+mechanism+" "+sasl.EncodeInitial(response))
	return err
}

func (d *dialogue) ehlo(name string) error {
	text, err := d.command(2, "EHLO "+name)
	d.offers = map[string]bool{}
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) > 0 {
			d.offers[strings.ToUpper(words[0])] = true
		}
	}
	return err
}

// send runs one transaction. A refused recipient stands in the receipt.
func (d *dialogue) send(f *sendFlags, now time.Time) (*admin.Receipt, error) {
	message, err := f.message(now)
	if err != nil {
		return nil, err
	}
	if _, err := d.command(2, "MAIL FROM:<"+f.letter.From+">"+d.parameters(f, message)); err != nil {
		return nil, err
	}
	r := &admin.Receipt{Node: d.conn.RemoteAddr().String(), Size: uint64(len(message))}
	taken := 0
	for _, to := range f.letter.To {
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
func (d *dialogue) parameters(f *sendFlags, message []byte) string {
	out := ""
	if d.offers["SIZE"] {
		out += fmt.Sprintf(" SIZE=%d", len(message))
	}
	if d.offers["8BITMIME"] && !ascii(string(message)) {
		out += " BODY=8BITMIME"
	}
	if d.offers["SMTPUTF8"] && !ascii(f.letter.From+strings.Join(f.letter.To, "")) {
		out += " SMTPUTF8"
	}
	return out
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}

// data sends the message behind DATA, with dots stuffed and lines ended CRLF.
func (d *dialogue) data(message []byte) (string, error) {
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

func (d *dialogue) deadline() {
	if d.timeout > 0 {
		_ = d.conn.SetDeadline(time.Now().Add(d.timeout))
	}
}

// command sends a line and wants a reply of the class first.
func (d *dialogue) command(first int, line string) (string, error) {
	if strings.ContainsAny(line, "\r\n\x00") {
		return "", errors.New("an address or name holds a line end")
	}
	d.heard("C: " + line)
	return d.quietly(first, line)
}

func (d *dialogue) quietly(first int, line string) (string, error) {
	d.deadline()
	if err := d.text.PrintfLine("%s", line); err != nil {
		return "", lost(err)
	}
	return d.reply(first)
}

// reply reads one reply, of several lines perhaps.
func (d *dialogue) reply(first int) (string, error) {
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
