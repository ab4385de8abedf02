package haproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/textproto"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/node/config"
	"relay/node/nodetest"
)

// public is the load of a rolling restart, and what came of it.
type public struct {
	ctx   context.Context
	front *nodetest.Member

	mu       sync.Mutex
	requests int
	ended    int // open connections that heard 421 between two transactions
	longest  time.Duration
	faults   []string
}

func (p *public) note(began time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	p.longest = max(p.longest, time.Since(began))
	if err != nil && len(p.faults) < 20 {
		p.faults = append(p.faults, fmt.Sprintf("%s, after %s: %v", time.Now().Format("05.000"), time.Since(began), err))
	}
}

// dial opens a connection through the proxy and says EHLO.
func (p *public) dial() (*textproto.Conn, error) {
	conn, err := net.DialTimeout("tcp", p.front.SMTP, 20*time.Second)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	c := textproto.NewConn(conn)
	if _, _, err = c.ReadResponse(220); err == nil {
		err = say(c, 250, "EHLO client.test")
	}
	if err != nil {
		_ = c.Close()
	}
	return c, err
}

func say(c *textproto.Conn, code int, line string) error {
	if err := c.PrintfLine("%s", line); err != nil {
		return err
	}
	_, _, err := c.ReadResponse(code)
	return err
}

// rest is a transaction behind its MAIL.
func rest(c *textproto.Conn, to, name string) error {
	err := say(c, 250, "RCPT TO:<"+to+">")
	if err == nil {
		err = say(c, 354, "DATA")
	}
	if err == nil {
		err = say(c, 250, "Subject: "+name+"\r\n\r\n"+name+"\r\n.")
	}
	return err
}

// fresh sends one message over a connection of its own.
func (p *public) fresh(n int) {
	began := time.Now()
	c, err := p.dial()
	if err == nil {
		if err = say(c, 250, "MAIL FROM:<a@far.example>"); err == nil {
			err = rest(c, "alice@example.test", fmt.Sprint("fresh", n))
		}
		_ = c.Close()
	}
	p.note(began, err)
}

// stay sends the next message over a connection that stays open, and returns that;
// nil where the server has ended it, which it may between two messages.
func (p *public) stay(c *textproto.Conn, n int) *textproto.Conn {
	began := time.Now()
	var err error
	if c == nil {
		if c, err = p.dial(); err != nil {
			p.note(began, err)
			return nil
		}
	}
	err = say(c, 250, "MAIL FROM:<a@far.example>")
	if no, ok := errors.AsType[*textproto.Error](err); ok && no.Code == 421 {
		_ = c.Close()
		p.mu.Lock()
		p.ended++
		p.mu.Unlock()
		return nil
	}
	if err == nil {
		err = rest(c, "bob@example.test", fmt.Sprint("stay", n))
	}
	p.note(began, err)
	if err != nil {
		_ = c.Close()
		return nil
	}
	return c
}

// read opens a mailbox, looks at it, and leaves it.
func (p *public) read(user string) {
	began := time.Now()
	m, err := p.front.Login(p.ctx, user)
	if err == nil {
		if _, _, err = m.Stat(p.ctx); err == nil {
			err = m.Quit(p.ctx)
		}
		_ = m.Close()
	}
	p.note(began, err)
}

// crowd has clients at work until stop is called.
func crowd(ctx context.Context, front *nodetest.Member) (p *public, stop func()) {
	p = &public{ctx: ctx, front: front}
	over := make(chan struct{})
	var all sync.WaitGroup
	work := func(step func(n int)) {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				select {
				case <-over:
					return
				case <-time.After(30 * time.Millisecond):
				}
				step(n)
			}
		})
	}
	for range 2 {
		work(p.fresh)
		var c *textproto.Conn
		work(func(n int) { c = p.stay(c, n) })
	}
	for _, user := range []string{"alice", "bob"} {
		work(func(int) { p.read(user) })
	}
	return p, func() { close(over); all.Wait() }
}

// TestRollingRestart: three nodes are stopped and started again, one after the
// other, with a drain before and without, behind the example and under load. Nobody
// who connects is refused, and open connections end between two messages.
func TestRollingRestart(t *testing.T) {
	program, err := exec.LookPath("haproxy")
	if err != nil {
		t.Skip("haproxy is not installed")
	}
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	const notice = 4 * time.Second
	c := nodetest.New(t, nodetest.Options{Notice: notice, Grace: 15 * time.Second, Configure: func(_ int, conf *config.Config) {
		from := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
		conf.SMTP[0].ProxyProtocol, conf.POP3[0].ProxyProtocol = from, from
	}})
	binds := map[string]string{}
	for _, service := range []string{"smtp", "submission", "submissions", "pop3", "pop3s"} {
		binds[service] = free(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	proxy := exec.CommandContext(ctx, program, "-db", "-f", example(t, c, binds))
	proxy.Stderr = os.Stderr
	require.NoError(t, proxy.Start())
	t.Cleanup(func() { _ = proxy.Process.Kill(); _ = proxy.Wait() })
	front := &nodetest.Member{SMTP: binds["smtp"], POP3: binds["pop3"]}
	c.Eventually(10*time.Second, "no mail through the proxy", func() bool {
		_, err := front.Send(ctx, "a@far.example", "alice@example.test", nodetest.Letter("first"))
		return err == nil
	})
	for _, drains := range []bool{true, false} {
		began := time.Now()
		p, stop := crowd(ctx, front)
		for i, m := range c.Nodes {
			at := c.Nodes[(i+1)%3].Client()
			if drains {
				drained(t, ctx, c, at, m, notice)
			}
			m.Stop()
			m.Start()
			if drains {
				undrain(ctx, c, at, m)
			}
			at.Close()
			m.WaitReady()
			settled(c)
		}
		stop()
		t.Logf("with drain: %t; %d requests in %s, %d refused or broken, %d open connections ended between messages, longest wait %s",
			drains, p.requests, time.Since(began).Round(time.Second), len(p.faults), p.ended, p.longest.Round(time.Millisecond))
		require.Empty(t, p.faults)
		require.NotZero(t, p.ended)
		require.Greater(t, p.requests, 200)
	}
	c.Verify()
}

// drained takes a node out of service and waits until it is safe to stop.
func drained(t *testing.T, ctx context.Context, c *nodetest.Cluster, at *admin.Client, m *nodetest.Member, notice time.Duration) {
	_, err := at.Drain(ctx, admin.By{Who: "test", Why: "a new kernel"}, m.ID, admin.DrainOptions{Notice: notice})
	require.NoError(t, err)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	c.Eventually(60*time.Second, m.ID+" is not drained", func() bool {
		<-tick.C
		s, err := at.Status(ctx)
		return err == nil && slices.ContainsFunc(s.Nodes, func(n admin.Node) bool { return n.ID == m.ID && n.Drained })
	})
}

func undrain(ctx context.Context, c *nodetest.Cluster, at *admin.Client, m *nodetest.Member) {
	c.Eventually(20*time.Second, m.ID+" stays drained", func() bool {
		_, err := at.Drain(ctx, admin.By{Who: "test"}, m.ID, admin.DrainOptions{Off: true})
		return err == nil
	})
}

// settled returns when all nodes are up and the proxy has had the time to see it:
// twice, a second apart.
func settled(c *nodetest.Cluster) {
	c.WaitHealthy()
	until := time.Now().Add(4 * time.Second)
	c.Eventually(10*time.Second, "", func() bool { return time.Now().After(until) })
}
