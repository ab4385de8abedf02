package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
)

// Idle POP3 sessions share accounts: a password is hashed once for each, and a
// shared mailbox takes many sessions.
const (
	idleAccounts = 100
	idleInBox    = 100 // messages that an idle session has listed
)

// idleKind is how far idle POP3 connections have come before they fall silent.
type idleKind struct {
	name  string
	tls   bool
	login bool
}

var idleKinds = []idleKind{
	{name: "greeted"},
	{name: "logged in", login: true},
	{name: "greeted, TLS", tls: true},
	{name: "logged in, TLS", tls: true, login: true},
}

// idlePOP3 says what n idle POP3 connections to one node cost: in memory, and to
// the sessions of others beside them. Each kind meets a cluster of its own, so
// that none finds room that another has left.
func (b *bench) idlePOP3(ctx context.Context, out io.Writer, n int) error {
	w := tabwriter.NewWriter(out, 2, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%d idle POP3 connections\tlive heap and stack\tresident\tsessions of others, alone\tbeside\t\n", n)
	for i, kind := range idleKinds {
		if i > 0 {
			if err := b.fresh(ctx); err != nil {
				return err
			}
		}
		if err := b.idleRow(ctx, w, kind, n); err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
	}
	return w.Flush()
}

func (b *bench) idleRow(ctx context.Context, w io.Writer, kind idleKind, n int) error {
	c := b.cluster
	if err := errors.Join(c.fill(ctx), c.fillShared(ctx)); err != nil {
		return err
	}
	others := func() (float64, error) {
		return popLogins(ctx, func(i int) string { return c.port(i%c.nodes+1, 10) },
			func(i int) string { return fmt.Sprintf("bench%d@example.test", i) }, 25)
	}
	if _, err := others(); err != nil { // so that the heap has its size
		return err
	}
	alone, err := others()
	if err != nil {
		return err
	}
	before, err := b.memory()
	if err != nil {
		return err
	}
	idle := make([]*idler, n)
	defer func() {
		for _, one := range idle {
			if one != nil {
				_ = one.conn.Close()
			}
		}
	}()
	if err := each(ctx, 50, n, func(i int) (err error) {
		idle[i], err = c.idler(ctx, kind, i)
		return err
	}); err != nil {
		return err
	}
	after, err := b.memory()
	if err != nil {
		return err
	}
	beside, err := others()
	if err != nil {
		return err
	}
	one := func(a, b int64) float64 { return float64(b-a) / float64(n) / 1024 }
	fmt.Fprintf(w, "%s\t%.1f KiB\t%.1f KiB\t%.0f/s\t%.0f/s\t\n", kind.name, one(before.live, after.live),
		one(before.resident, after.resident), alone, beside)
	fmt.Fprintf(b.errs,
		"%s: live %.1f, resident %.1f KiB each; resident %d MiB in all; others %.0f/s alone, %.0f/s beside\n",
		kind.name, one(before.live, after.live), one(before.resident, after.resident), after.resident>>20, alone, beside)
	// All of them are still there and are served.
	return each(ctx, 50, n, func(i int) error { return idle[i].say("QUIT") })
}

// fresh replaces the cluster by a new one.
func (b *bench) fresh(ctx context.Context) error {
	b.cluster.stop()
	b.cluster.filled = false
	if err := os.RemoveAll(b.cluster.dir); err != nil {
		return err
	}
	return b.cluster.start(ctx)
}

// fillShared makes the accounts of idle sessions and their mail.
func (c *cluster) fillShared(ctx context.Context) error {
	var rcpt strings.Builder
	for i := range idleAccounts {
		name := fmt.Sprintf("idle%d@example.test", i)
		if err := c.call(http.MethodPost, "/v1/users", `{"address":"`+name+`","password":"secret"}`); err != nil {
			return err
		}
		if err := c.call(http.MethodPatch, "/v1/users/"+name, `{"shared":true}`); err != nil {
			return err
		}
		fmt.Fprintf(&rcpt, "RCPT TO:<%s>\r\n", name)
	}
	s, err := newSender(ctx, c.smtp()[0])
	if err != nil {
		return err
	}
	defer s.conn.Close()
	codes := []int{250}
	for range idleAccounts {
		codes = append(codes, 250)
	}
	codes = append(codes, 354)
	for range idleInBox {
		if err := s.say("MAIL FROM:<bench@bench.example>\r\n"+rcpt.String()+"DATA\r\n", codes...); err != nil {
			return err
		}
		if err := s.say("Subject: idle\r\n\r\nidle\r\n.\r\n", 250); err != nil {
			return err
		}
	}
	return nil
}

// idler is an idle connection. It buffers nothing: ten thousand of them are
// cheap here, too.
type idler struct {
	conn net.Conn
	line [512]byte
}

// sessions holds TLS sessions, so that most handshakes are short.
var sessions = sync.OnceValue(func() *tls.Config {
	// loopback, made a moment ago
	return &tls.Config{InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
})

func (c *cluster) idler(ctx context.Context, kind idleKind, i int) (*idler, error) {
	port := 10
	if kind.tls {
		port = 95
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", c.port(1, port))
	if err != nil {
		return nil, err
	}
	if kind.tls {
		conn = tls.Client(conn, sessions())
	}
	one := &idler{conn: conn}
	err = one.hear()
	if err == nil && kind.login {
		if err = one.say(fmt.Sprintf("USER idle%d@example.test", i%idleAccounts)); err == nil {
			err = one.say("PASS secret")
		}
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return one, nil
}

func (i *idler) say(line string) error {
	if _, err := io.WriteString(i.conn, line+"\r\n"); err != nil {
		return err
	}
	return i.hear()
}

// hear reads one line: the server sends no other before it is asked again.
func (i *idler) hear() error {
	for n := 0; n < len(i.line); {
		m, err := i.conn.Read(i.line[n:])
		if err != nil {
			return err
		}
		if n += m; i.line[n-1] != '\n' {
			continue
		}
		if line := string(i.line[:n]); !strings.HasPrefix(line, "+OK") {
			return fmt.Errorf("server says %q", line)
		}
		return nil
	}
	return errors.New("the line has no end")
}
