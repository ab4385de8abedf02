package haproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/timetest"
	"relay/node/admin"
	"relay/node/nodetest"
	"relay/pop3"
)

// public is the load of a rolling restart, and what came of it.
type public struct {
	ctx   context.Context
	front map[string]string // by service

	mu       sync.Mutex
	requests map[string]int // by service
	ended    int            // open connections that heard 421 between two transactions
	longest  time.Duration
	faults   []string
}

func (p *public) note(service string, began time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests[service]++
	p.longest = max(p.longest, time.Since(began))
	if err != nil && len(p.faults) < 20 {
		p.faults = append(p.faults,
			fmt.Sprintf("%s %s, after %s: %v", time.Now().Format("05.000"), service, time.Since(began), err))
	}
}

// sawAnEnd reports whether an open connection has ended between two messages.
func (p *public) sawAnEnd() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended > 0
}

// inTLS is what clients of a service begin with; nil: in clear.
func inTLS(service string) *tls.Config {
	if service == "submissions" || service == "pop3s" {
		return &tls.Config{InsecureSkipVerify: true}
	}
	return nil
}

// dial opens a connection through the proxy, says EHLO, and logs in for submission.
func (p *public) dial(service string) (*textproto.Conn, error) {
	conn, err := net.DialTimeout("tcp", p.front[service], 20*time.Second)
	if err != nil {
		return nil, err
	}
	if config := inTLS(service); config != nil {
		conn = tls.Client(conn, config)
	}
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	c := textproto.NewConn(conn)
	if _, _, err = c.ReadResponse(220); err == nil {
		err = say(c, 250, "EHLO client.test")
	}
	if err == nil && service != "smtp" {
		err = say(c, 235, "AUTH PLAIN AGFsaWNlQGV4YW1wbGUudGVzdABzZWNyZXQ=") // alice
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

func mailFrom(service string) string {
	if service == "smtp" {
		return "MAIL FROM:<a@far.example>"
	}
	return "MAIL FROM:<alice@example.test>"
}

// rest is a transaction behind its MAIL.
func rest(c *textproto.Conn, to, name string) error {
	err := say(c, 250, "RCPT TO:<"+to+">")
	if err == nil {
		err = say(c, 354, "DATA")
	}
	if err == nil {
		err = say(c, 250, "From: alice@example.test\r\nSubject: "+name+"\r\n\r\n"+name+"\r\n.")
	}
	return err
}

// fresh sends one message over a connection of its own.
func (p *public) fresh(service string, n int) {
	began := time.Now()
	c, err := p.dial(service)
	if err == nil {
		if err = say(c, 250, mailFrom(service)); err == nil {
			err = rest(c, "alice@example.test", fmt.Sprint(service, "-fresh", n))
		}
		_ = c.Close()
	}
	p.note(service, began, err)
}

// stay sends the next message over a connection that stays open, and returns that;
// nil where the server has ended it, which it may between two messages.
func (p *public) stay(service string, c *textproto.Conn, n int) *textproto.Conn {
	began := time.Now()
	var err error
	if c == nil {
		if c, err = p.dial(service); err != nil {
			p.note(service, began, err)
			return nil
		}
	}
	err = say(c, 250, mailFrom(service))
	if no, ok := errors.AsType[*textproto.Error](err); ok && no.Code == 421 {
		_ = c.Close()
		p.mu.Lock()
		p.ended++
		p.mu.Unlock()
		return nil
	}
	if err == nil {
		err = rest(c, "bob@example.test", fmt.Sprint(service, "-stay", n))
	}
	p.note(service, began, err)
	if err != nil {
		_ = c.Close()
		return nil
	}
	return c
}

// read opens a mailbox, looks at it so many times, and leaves it.
func (p *public) read(service, user string, looks int) {
	think := time.NewTicker(lookEvery)
	defer think.Stop()
	began := time.Now()
	m, err := pop3.Dial(p.ctx, p.front[service], inTLS(service))
	if err == nil {
		err = m.Login(p.ctx, user, "secret")
		for n := 0; n < looks && err == nil; n++ {
			p.note(service, began, nil)
			<-think.C
			began = time.Now()
			_, _, err = m.Stat(p.ctx)
		}
		if err == nil {
			err = m.Quit(p.ctx)
		}
		_ = m.Close()
	}
	p.note(service, began, err)
}

// lookEvery is how long a reader thinks between two commands.
const lookEvery = 100 * time.Millisecond

// crowd has clients of all services at work until stop is called.
func crowd(ctx context.Context, front map[string]string) (p *public, stop func()) {
	p = &public{ctx: ctx, front: front, requests: map[string]int{}}
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
	for _, service := range []string{"smtp", "submissions"} {
		work(func(n int) { p.fresh(service, n) })
		for range 3 { // the proxy gives each node one of them
			var c *textproto.Conn
			work(func(n int) { c = p.stay(service, c, n) })
		}
	}
	for user, service := range map[string]string{"u1": "pop3", "u2": "pop3s"} {
		work(func(int) { p.read(service, user, 1) })
	}
	for user, service := range map[string]string{"u3": "pop3", "u4": "pop3s"} { // for four seconds each
		work(func(int) { p.read(service, user, 40) })
	}
	return p, func() { close(over); all.Wait() }
}

// TestRollingRestart: three nodes are stopped and started again, one after the
// other, with a drain before and without, behind the example and under load. Nobody
// who connects is refused, and open connections end between two messages. Without
// RELAY_E2E_LONG it is one node, or as many as it takes until a connection has ended.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("haproxy")
	if err != nil {
		t.Skip("haproxy is not installed")
	}
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	for name, drains := range map[string]bool{"with drain": true, "without drain": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			roll(t, program, drains)
		})
	}
}

func roll(t *testing.T, program string, drains bool) {
	const notice = 4 * time.Second
	configure, addrs := listeners(t)
	c := nodetest.New(t, nodetest.Options{
		Tuning: nodetest.Steady(), Notice: notice, Grace: 15 * time.Second, Configure: configure,
	})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	binds := started(ctx, t, program, c, addrs)
	front := &nodetest.Member{SMTP: binds["smtp"], POP3: binds["pop3"]}
	for _, user := range []string{"u1", "u2", "u3", "u4"} {
		one := admin.UserAdd{Address: user + "@example.test", Password: "secret"}
		require.NoError(t, c.Nodes[0].Client().AddUser(ctx, admin.By{Why: "test"}, one))
	}
	c.Eventually(time.Minute, "no mail through the proxy", func() bool {
		_, err := front.Send(ctx, "a@far.example", "alice@example.test", nodetest.Letter("first"))
		return err == nil
	})
	began := time.Now()
	p, stop := crowd(ctx, binds)
	for i, m := range c.Nodes {
		if i > 0 && !timetest.Long() && p.sawAnEnd() {
			break
		}
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
	t.Logf("%v requests in %s, %d refused or broken, %d open connections ended between messages, longest wait %s",
		p.requests, time.Since(began).Round(time.Second), len(p.faults), p.ended, p.longest.Round(time.Millisecond))
	require.Empty(t, p.faults)
	require.NotZero(t, p.ended)
	for _, service := range []string{"smtp", "submissions", "pop3", "pop3s"} {
		require.Greater(t, p.requests[service], 50, service)
	}
	c.Verify()
}

// drained takes a node out of service and waits until it is safe to stop.
func drained(t *testing.T, ctx context.Context, c *nodetest.Cluster, at *admin.Client, m *nodetest.Member,
	notice time.Duration) {
	_, err := at.Drain(ctx, admin.By{Who: "test", Why: "a new kernel"}, m.ID, admin.DrainOptions{Notice: notice})
	require.NoError(t, err)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	c.Eventually(time.Minute, m.ID+" is not drained", func() bool {
		<-tick.C
		s, err := at.Status(ctx)
		return err == nil && slices.ContainsFunc(s.Nodes, func(n admin.Node) bool { return n.ID == m.ID && n.Drained })
	})
}

func undrain(ctx context.Context, c *nodetest.Cluster, at *admin.Client, m *nodetest.Member) {
	c.Eventually(time.Minute, m.ID+" stays drained", func() bool {
		_, err := at.Drain(ctx, admin.By{Who: "test"}, m.ID, admin.DrainOptions{Off: true})
		return err == nil
	})
}

// settled returns when all nodes are up and the proxy has had the time to see it:
// twice, a second apart.
func settled(c *nodetest.Cluster) {
	c.WaitHealthy()
	until := time.Now().Add(4 * time.Second)
	c.Eventually(time.Minute, "", func() bool { return time.Now().After(until) })
}
