package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/porttest"
)

// balance runs HAProxy with the example configuration before the nodes, and
// returns where it takes SMTP and POP3.
func balance(t *testing.T, d *Dev) (smtp, pop3 string) {
	program, err := exec.LookPath("haproxy")
	if err != nil {
		t.Skip("haproxy is not installed")
	}
	data, err := os.ReadFile("../haproxy/haproxy.cfg")
	require.NoError(t, err)
	text := strings.Replace(string(data), "send-proxy-v2 ", "", 1)  // the nodes of a dev cluster expect none
	text = strings.Replace(text, "maxconn 20000", "maxconn 100", 1) // within the limits of a test
	ports := map[string]string{}
	for service, port := range map[string]string{
		"smtp": "25", "submission": "587", "submissions": "465", "pop3": "110", "pop3s": "995",
	} {
		ports[service] = porttest.Addr(t, "127.0.0.1")
		text = strings.Replace(text, "bind :"+port+"\n", "bind "+ports[service]+"\n", 1)
		at := map[string]int{
			"smtp": SMTP, "submission": Submission, "submissions": Submissions, "pop3": POP3, "pop3s": POP3S,
		}[service]
		for node := 1; node <= 3; node++ {
			text = strings.Replace(text, fmt.Sprintf("10.0.0.1%d:%s check port 7181", node, port),
				fmt.Sprintf("%s check port %s", d.Addr(node, at), d.Port(node, Admin)), 1)
		}
	}
	require.NotRegexp(t, regexp.MustCompile(`(?m)^[^#\n]*10\.0\.0\.1`), text)
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	proxy := exec.CommandContext(t.Context(), program, "-db", "-f", path)
	proxy.Stderr = os.Stderr
	require.NoError(t, proxy.Start())
	t.Cleanup(func() { _ = proxy.Process.Kill(); _ = proxy.Wait() })
	d.Await(20*time.Second, "mail through the proxy", func() bool {
		c, err := dialSMTP(ports["smtp"], 5*time.Second)
		if err != nil {
			return false
		}
		defer c.close()
		_, err = c.send("a@example.test", []string{"alice@example.test"}, message("first"))
		return err == nil
	})
	return ports["smtp"], ports["pop3"]
}

// public is the load of a rolling restart, and what came of it.
type public struct {
	mu       sync.Mutex
	requests int
	ended    int // open connections that heard 421 between two transactions
	longest  time.Duration
	faults   []string
	ids      map[string]bool
}

func (p *public) note(began time.Time, id string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	p.longest = max(p.longest, time.Since(began))
	if id != "" {
		p.ids[id] = true
	}
	if err != nil && len(p.faults) < 20 {
		p.faults = append(p.faults, fmt.Sprintf("%s, after %s: %v", time.Now().Format("05.000"), time.Since(began), err))
	}
}

// fresh sends one message over a connection of its own.
func (p *public) fresh(addr string, n int) {
	began := time.Now()
	c, err := dialSMTP(addr, 20*time.Second)
	id := ""
	if err == nil {
		id, err = c.send("a@example.test", []string{"alice@example.test"}, message(fmt.Sprintf("fresh-%d", n)))
		c.close()
	}
	p.note(began, id, err)
}

// stay sends the next message over a connection that stays open, and returns that;
// nil where the server has ended it, which it may between two messages.
func (p *public) stay(c *client, addr string, n int) *client {
	began := time.Now()
	if c == nil {
		var err error
		if c, err = dialSMTP(addr, 20*time.Second); err != nil {
			p.note(began, "", err)
			return nil
		}
	}
	_, err := c.say(250, "MAIL FROM:<a@example.test>")
	if no := new(refused); errors.As(err, &no) && no.code == 421 {
		c.close()
		p.mu.Lock()
		p.ended++
		p.mu.Unlock()
		return nil
	}
	id := ""
	for _, step := range []struct {
		code int
		line string
	}{{250, "RCPT TO:<bob@example.test>"}, {354, "DATA"}} {
		if err == nil {
			_, err = c.say(step.code, step.line)
		}
	}
	if err == nil {
		id, err = c.finish(strings.NewReader(message(fmt.Sprintf("stay-%d", n))))
	}
	p.note(began, id, err)
	if err != nil {
		c.close()
		return nil
	}
	return c
}

// read opens a mailbox, looks at it, and leaves it.
func (p *public) read(addr, user string) {
	began := time.Now()
	m, err := open(addr, user, "secret")
	if err == nil {
		if _, err = m.say("STAT"); err == nil {
			_, err = m.say("QUIT")
		}
		m.close()
	}
	p.note(began, "", err)
}

// crowd has clients at work until stop is called.
func crowd(d *Dev, smtp, pop3 string) (p *public, stop func()) {
	p = &public{ids: map[string]bool{}}
	over := make(chan struct{})
	var all sync.WaitGroup
	work := func(step func(n int)) {
		all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-over:
					return
				case <-time.After(20 * time.Millisecond):
				}
				step(n)
			}
		})
	}
	for range 4 {
		work(func(n int) { p.fresh(smtp, n) })
		var c *client
		work(func(n int) { c = p.stay(c, smtp, n) })
	}
	for _, user := range []string{"alice", "bob"} {
		work(func(int) { p.read(pop3, user) })
	}
	return p, func() { close(over); all.Wait() }
}

// TestRollingRestartBehindHAProxy: three nodes are stopped and started again, one after the
// other, with a drain before and without, behind HAProxy and under load. Nobody who
// connects is refused; open connections end between two messages.
func TestRollingRestartBehindHAProxy(t *testing.T) {
	d := Start(t, "--restart-after", "1s")
	smtp, pop3 := balance(t, d)
	for _, drains := range []bool{true, false} {
		began := time.Now()
		p, stop := crowd(d, smtp, pop3)
		for node := 1; node <= 3; node++ {
			id, old := fmt.Sprintf("n%d", node), d.PID(node)
			if drains {
				said := d.Ctl("node", "drain", id, "--wait")
				require.Contains(t, said, "safe to stop")
			}
			require.NoError(t, syscall.Kill(old, syscall.SIGTERM))
			d.Await(45*time.Second, "n is started again", func() bool {
				_, err := os.Stat(filepath.Join(d.Dir, id, "relayd.pid")) // away while nothing runs
				return err == nil && d.PID(node) != old
			})
			if drains {
				d.Await(20*time.Second, "the drain ends", func() bool {
					_, err := d.Try("", filepath.Join(d.bin, "relayctl"), "node", "undrain", id)
					return err == nil
				})
			}
			d.ready(node, 30*time.Second)
			d.healthy(60 * time.Second)
			pause(d, 3*time.Second) // until the proxy has seen it twice
		}
		stop()
		t.Logf("with drain: %v; %d requests in %s, %d faults, %d connections ended between messages, longest wait %s",
			drains, p.requests, seconds(time.Since(began)), len(p.faults), p.ended, p.longest.Round(time.Millisecond))
		require.Empty(t, p.faults)
		require.NotZero(t, p.ended)
		require.Greater(t, p.requests, 500)
	}
	d.verify()
}
