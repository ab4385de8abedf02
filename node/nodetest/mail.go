package nodetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"relay/pop3"
)

// Letter makes a small message whose body names it.
func Letter(name string) string {
	return "From: sender@far.example\r\nSubject: " + name + "\r\nMessage-ID: <" + name + "@test>\r\n\r\n" + name + "\r\n"
}

// Sender is one SMTP connection to a node.
type Sender struct {
	conn net.Conn
	tp   *textproto.Conn
}

// Dial opens an SMTP connection to a node and says EHLO.
func (m *Member) Dial(ctx context.Context) (*Sender, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", m.SMTP)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	s := &Sender{conn, textproto.NewConn(conn)}
	if _, _, err := s.tp.ReadResponse(220); err != nil {
		s.Close()
		return nil, err
	}
	if _, err := s.say(250, "EHLO client.test"); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Sender) say(code int, line string) (string, error) {
	if err := s.tp.PrintfLine("%s", line); err != nil {
		return "", err
	}
	_, text, err := s.tp.ReadResponse(code)
	return text, err
}

// Send hands in one message and returns its id. An error that is a
// *textproto.Error is the server's answer; any other leaves it open whether
// the message was taken.
func (s *Sender) Send(from, to, message string) (string, error) {
	if _, err := s.say(250, "MAIL FROM:<"+from+">"); err != nil {
		return "", err
	}
	if _, err := s.say(250, "RCPT TO:<"+to+">"); err != nil {
		return "", err
	}
	if _, err := s.say(354, "DATA"); err != nil {
		return "", err
	}
	w := s.tp.DotWriter()
	if _, err := w.Write([]byte(strings.ReplaceAll(message, "\r\n", "\n"))); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	_, text, err := s.tp.ReadResponse(250)
	if err != nil {
		return "", err
	}
	return text[strings.LastIndexByte(text, ' ')+1:], nil
}

// Close drops the connection.
func (s *Sender) Close() { _ = s.conn.Close() }

// Send hands one message to a node over a connection of its own.
func (m *Member) Send(ctx context.Context, from, to, message string) (string, error) {
	s, err := m.Dial(ctx)
	if err != nil {
		return "", err
	}
	defer s.Close()
	return s.Send(from, to, message)
}

// MustSend is Send where nothing may go wrong. In a cluster whose nodes die (Quick) it asks
// a node again that has put it off, as senders do.
func (m *Member) MustSend(from, to, message string) string {
	m.c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var id string
	var err error
	poll(time.Minute, func() bool {
		id, err = m.Send(ctx, from, to, message)
		later, ok := errors.AsType[*textproto.Error](err)
		return err == nil || m.c.o.Tuning != Quick() || !ok || later.Code/100 != 4
	})
	require.NoError(m.c.t, err)
	return id
}

// Login opens a maildrop at a node.
func (m *Member) Login(ctx context.Context, user string) (*pop3.Client, error) {
	return m.LoginWith(ctx, user, "secret")
}

// LoginWith is Login with another password.
func (m *Member) LoginWith(ctx context.Context, user, password string) (*pop3.Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", m.POP3)
	if err != nil {
		return nil, err
	}
	c, err := pop3.NewClient(ctx, conn)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	if err := c.Login(ctx, user, password); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Subjects returns what a maildrop holds, by the Subject of each message.
func (m *Member) Subjects(user string) (map[string]int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c, err := m.Login(ctx, user)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	n, _, err := c.Stat(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]int{}
	for i := range n {
		var b strings.Builder
		if _, err := c.Retr(ctx, i+1, &b); err != nil {
			return nil, err
		}
		found[SubjectOf(b.String())]++
	}
	return found, c.Quit(ctx)
}

// SubjectOf cuts the Subject out of a message.
func SubjectOf(message string) string {
	_, rest, ok := strings.Cut(message, "\nSubject: ")
	if !ok {
		return ""
	}
	subject, _, _ := strings.Cut(rest, "\r\n")
	return subject
}

// IsTemporary reports whether a server answered with a 4xx.
func IsTemporary(err error) bool {
	var e *textproto.Error
	return errors.As(err, &e) && e.Code/100 == 4
}

func (m *Member) String() string { return fmt.Sprintf("%s (%s)", m.ID, m.SMTP) }
