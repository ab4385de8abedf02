package e2e

import (
	"fmt"
	"io"
	"net"
	"net/smtp"
	"net/textproto"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A small client of each protocol, so that something is tested where nothing
// is installed.

// send submits a message over plain SMTP; lines of the message end in CRLF.
func send(addr, from string, to []string, message string) error {
	c, err := smtp.Dial(addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Mail(from); err != nil {
		return err
	}
	for _, rcpt := range to {
		if err := c.Rcpt(rcpt); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, message); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return c.Quit()
}

// pop3 is one POP3 session.
type pop3 struct {
	t    *testing.T
	conn net.Conn
	text *textproto.Conn
}

func login(t *testing.T, addr, user, password string) *pop3 {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	p := &pop3{t, conn, textproto.NewConn(conn)}
	p.ok()
	p.say("USER " + user)
	p.say("PASS " + password)
	return p
}

func (p *pop3) ok() string {
	p.t.Helper()
	line, err := p.text.ReadLine()
	require.NoError(p.t, err)
	require.True(p.t, strings.HasPrefix(line, "+OK"), line)
	return line
}

func (p *pop3) say(command string) string {
	p.t.Helper()
	require.NoError(p.t, p.text.PrintfLine("%s", command))
	return p.ok()
}

// count returns how many messages STAT tells of.
func (p *pop3) count() (n int) {
	p.t.Helper()
	_, err := fmt.Sscanf(p.say("STAT"), "+OK %d", &n)
	require.NoError(p.t, err)
	return n
}

// retr returns a message with LF line ends.
func (p *pop3) retr(n int) string {
	p.t.Helper()
	p.say(fmt.Sprintf("RETR %d", n))
	data, err := p.text.ReadDotBytes()
	require.NoError(p.t, err)
	return string(data)
}

func (p *pop3) quit() {
	p.t.Helper()
	p.say("QUIT")
	_ = p.conn.Close()
}

func lf(text string) string { return strings.ReplaceAll(text, "\r\n", "\n") }
