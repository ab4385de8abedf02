package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"regexp"
	"strings"
	"time"
)

// client is one SMTP session that keeps what the server says. Every step has
// the patience it was made with.
type client struct {
	conn     net.Conn
	text     *textproto.Reader
	out      *bufio.Writer
	patience time.Duration
}

// refused is a reply that was not the one hoped for.
type refused struct {
	code int
	text string
}

func (r *refused) Error() string { return fmt.Sprintf("%d %s", r.code, r.text) }

func dialSMTP(addr string, patience time.Duration) (*client, error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	return greeted(conn, patience)
}

// greeted is a client on a connection, behind EHLO.
func greeted(conn net.Conn, patience time.Duration) (*client, error) {
	c := &client{conn, textproto.NewReader(bufio.NewReader(conn)), bufio.NewWriterSize(conn, 64<<10), patience}
	_, err := c.reply(220)
	if err == nil {
		_, err = c.say(250, "EHLO client.example.org")
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *client) close() { _ = c.conn.Close() }

func (c *client) reply(want int) (string, error) {
	_ = c.conn.SetDeadline(time.Now().Add(c.patience))
	code, text, err := c.text.ReadResponse(0)
	if err != nil {
		return "", err
	}
	if code != want {
		return text, &refused{code, text}
	}
	return text, nil
}

func (c *client) say(want int, line string) (string, error) {
	_ = c.conn.SetDeadline(time.Now().Add(c.patience))
	_, _ = c.out.WriteString(line + "\r\n")
	if err := c.out.Flush(); err != nil {
		return "", err
	}
	return c.reply(want)
}

// begin goes as far as DATA's 354.
func (c *client) begin(from string, to []string) error {
	if _, err := c.say(250, "MAIL FROM:<"+from+">"); err != nil {
		return err
	}
	for _, rcpt := range to {
		if _, err := c.say(250, "RCPT TO:<"+rcpt+">"); err != nil {
			return err
		}
	}
	_, err := c.say(354, "DATA")
	return err
}

// finish sends the message, whose lines end in CRLF, and returns the id in the
// 250.
func (c *client) finish(message io.Reader) (string, error) {
	_ = c.conn.SetDeadline(time.Now().Add(max(c.patience, time.Minute)))
	w := textproto.NewWriter(c.out).DotWriter()
	_, err := io.Copy(w, message)
	if err = errors.Join(err, w.Close()); err != nil {
		return "", err
	}
	text, err := c.reply(250)
	if err != nil {
		return "", err
	}
	id := queueID.FindString(text)
	if id == "" {
		return "", fmt.Errorf("no id in %q", text)
	}
	return id, nil
}

func (c *client) send(from string, to []string, message string) (string, error) {
	if err := c.begin(from, to); err != nil {
		return "", err
	}
	return c.finish(strings.NewReader(message))
}

var queueID = regexp.MustCompile(`\b01[0-9A-HJKMNP-TV-Z]{24}\b`)

// idOf returns the queue id in the topmost Received field of a stored copy.
func idOf(message string) string {
	at := strings.Index(message, "Received: ")
	if at < 0 {
		return ""
	}
	return queueID.FindString(message[at:])
}

// mailbox is one POP3 session whose refusals are answers, not failures.
type mailbox struct {
	conn net.Conn
	text *textproto.Reader
}

// open logs in. A refusal comes back as the error.
func open(addr, user, password string) (*mailbox, error) {
	conn, err := net.DialTimeout("tcp", addr, 15*time.Second)
	if err != nil {
		return nil, err
	}
	m := &mailbox{conn, textproto.NewReader(bufio.NewReaderSize(conn, 64<<10))}
	if _, err = m.reply(); err == nil {
		if _, err = m.say("USER " + user); err == nil {
			_, err = m.say("PASS " + password)
		}
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return m, nil
}

func (m *mailbox) close() { _ = m.conn.Close() }

func (m *mailbox) reply() (string, error) {
	_ = m.conn.SetDeadline(time.Now().Add(20 * time.Second))
	line, err := m.text.ReadLine()
	if err == nil && !strings.HasPrefix(line, "+OK") {
		err = fmt.Errorf("%s", line)
	}
	return line, err
}

func (m *mailbox) say(command string) (string, error) {
	_ = m.conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(m.conn, command+"\r\n"); err != nil {
		return "", err
	}
	return m.reply()
}

func (m *mailbox) count() (n int, err error) {
	line, err := m.say("STAT")
	if err == nil {
		_, err = fmt.Sscanf(line, "+OK %d", &n)
	}
	return n, err
}

// retr returns a message with LF line ends.
func (m *mailbox) retr(n int) (string, error) {
	if _, err := m.say("RETR " + itoa(n)); err != nil {
		return "", err
	}
	data, err := m.text.ReadDotBytes()
	return string(data), err
}
