package remote

import (
	"cmp"
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/queue"
)

// faultCase is a fault that one hop has at one step of a conversation.
type faultCase struct {
	step, what     string
	bdat, stepwise bool // by BDAT, without PIPELINING
	secure, reused bool // inside TLS, on a connection that had been used
	once           bool // the fault does not come again
	backup         bool // there is a second MX host, which is well
	cancel         bool // the node's right to act ends when the hop has stopped
	one, two       *nextHop
	agent          *Agent
	verdicts       []queue.Verdict
	refused        int // messages, with the fault
	got, took      int // whole messages at the first hop and at the second
}

func (c *faultCase) String() string {
	words := []string{c.step, c.what}
	for word, on := range map[string]bool{"BDAT": c.bdat, "stepwise": c.stepwise, "TLS": c.secure, "reused": c.reused,
		"once": c.once, "backup": c.backup, "cancel": c.cancel} {
		if on {
			words = append(words, word)
		}
	}
	slices.Sort(words[2:])
	return strings.Join(words, " ")
}

// sense reports whether such a case exists.
func (c *faultCase) sense() bool {
	early := slices.Contains([]string{"CONNECT", "EHLO", "STARTTLS", "HANDSHAKE", "TLS EHLO"}, c.step)
	silent := c.what == hang || c.what == endless || c.what == deaf
	switch {
	case c.once && c.backup,
		testing.Short() && (c.secure && !strings.Contains("STARTTLS TLS EHLO HANDSHAKE DOT", c.step) || c.bdat && c.stepwise):
		return false
	case early && c.reused, c.step == "DATA" && c.bdat, c.step == "BDAT" && (!c.bdat || c.reused):
		return false // by BDAT goes what is the first on its connection
	case !c.secure && slices.Contains([]string{"STARTTLS", "HANDSHAKE", "TLS EHLO"}, c.step):
		return false
	case c.what == deaf && c.step != "BODY", c.step == "BODY" && (c.what == hang || c.what == endless || c.what == half):
		return false // the end of the message may be on its way already
	}
	return !c.cancel || silent && !c.backup && !c.once
}

func (c *faultCase) prepare(t *testing.T) {
	say := map[string]string{"RCPT TO:<b@x.example>": "550 5.1.1 no such user"}
	c.one, c.two = twoHops(t, say, say)
	if !c.backup {
		c.two.l.Close()
	}
	ehlo := []string{"8BITMIME"}
	if !c.stepwise {
		ehlo = append(ehlo, "PIPELINING")
	}
	if c.bdat {
		ehlo = append(ehlo, "CHUNKING")
	}
	c.one.ehlo, c.two.ehlo = slices.Clone(ehlo), slices.Clone(ehlo)
	if c.secure {
		c.one.ehlo = append(c.one.ehlo, "STARTTLS")
		c.one.cert, _ = certificate(t, "mx0.x.example")
	}
	conf := Config{Client: patience(20 * time.Second), Idle: time.Minute}
	conf.Client.Chunking = c.bdat
	c.agent = mxOf(t, conf, c.one.port(), mx23...)
	if !c.cancel {
		var w waits
		c.agent.wrap, c.one.over = w.wrap, w.end
	}
}

// waits cuts the deadlines short of connections whose hop has stopped, so that no test
// waits for them. A client that sets no deadline waits on.
type waits struct {
	mu    sync.Mutex
	conns map[string]*shortConn // by the client's address
	over  map[string]bool
}

// rest is how much longer a client waits: for what its hop said before it stopped.
const rest = 50 * time.Millisecond

// shortConn is a client's connection. It has the methods of a *net.TCPConn, its socket's too.
type shortConn struct {
	*net.TCPConn
	mu    sync.Mutex
	over  bool // the hop has stopped
	until time.Time
}

// wrap is Agent.wrap.
func (w *waits) wrap(c net.Conn) net.Conn {
	at := c.LocalAddr().String()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conns == nil {
		w.conns = map[string]*shortConn{}
	}
	w.conns[at] = &shortConn{TCPConn: c.(*net.TCPConn), over: w.over[at]}
	return w.conns[at]
}

// end is nextHop.over. The hop may stop before its client knows that it is connected.
func (w *waits) end(c net.Conn) {
	at := c.RemoteAddr().String()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over == nil {
		w.over = map[string]bool{}
	}
	w.over[at] = true
	if c := w.conns[at]; c != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.over = true
		if until := c.until; !until.IsZero() {
			_ = c.set(until)
		}
	}
}

func (c *shortConn) SetDeadline(until time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = until
	return c.set(until)
}

func (c *shortConn) set(until time.Time) error {
	if soon := time.Now().Add(rest); c.over && until.After(soon) {
		until = soon
	}
	return c.TCPConn.SetDeadline(until)
}

// job is a message. If the hop stops amid it, it is more than the buffers
// between two sockets hold, when that happens.
func (c *faultCase) job() *queue.Job {
	line := strings.Repeat("0123456789abcdef0123456789abcde\r\n", 1000)
	large := 0 // attempts
	if c.step == "BODY" {
		if large = 1; c.reused && !c.once {
			large = 2
		}
	}
	j := xJob("a@x.example", "b@x.example", "c@x.example")
	j.Open = func() (io.ReadCloser, error) {
		times := 3
		if large > 0 {
			times = 500
		}
		large--
		var parts []io.Reader
		for range times {
			parts = append(parts, strings.NewReader(line))
		}
		return io.NopCloser(io.MultiReader(parts...)), nil
	}
	return j
}

// play delivers one message past the fault. It is called on another goroutine
// than the test's.
func (c *faultCase) play(ctx context.Context) {
	before := 0
	if c.reused {
		if v := c.agent.Deliver(ctx, xJob("a@x.example")); v[0].Outcome != queue.Delivered {
			panic(v[0].Reply)
		}
		before = 1
	}
	replies := []string{c.what}
	if c.once {
		replies = append(replies, map[string]string{
			"DATA": "354 go on", "HANDSHAKE": "", "BODY": "", "TLS EHLO": "250 hop.example",
		}[c.step])
	}
	step := c.step
	if step == "RCPT3" {
		step = "RCPT TO:<c@x.example>"
	}
	c.one.script(step, replies...)
	if c.once && slices.Contains([]string{"CONNECT", "EHLO", "STARTTLS", "MAIL", "RCPT", "RCPT3", "BDAT", "DOT"}, c.step) {
		c.one.script(step, c.what, cmp.Or(map[string]string{
			"CONNECT": "220 hop.example", "EHLO": c.one.hello(false), "STARTTLS": "220 go",
		}[c.step], "250 2.0.0 Ok"))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.cancel {
		go func() {
			<-c.one.met
			cancel()
		}()
	}
	c.verdicts = c.agent.Deliver(ctx, c.job())
	_, c.got = c.one.count()
	c.got -= before
	if c.refused = c.got; c.once {
		c.refused = 1
	}
	_, c.took = c.two.count()
}

// check: nothing is delivered or bounced that the hop did not take or refuse, nothing
// is delivered twice, and only what went out to its end may have been delivered.
func (c *faultCase) check(t *testing.T) {
	t.Helper()
	a, b := c.verdicts[0], c.verdicts[1]
	require.Equal(t, a.Outcome, c.verdicts[2].Outcome)
	maybe := strings.Contains(a.Reply, "may have been delivered")
	over := c.step == "DOT"
	require.Equal(t, c.step == "DOT" && c.what[0] != '4', maybe, a.Reply)
	require.NotContains(t, b.Reply, "may have been")
	require.NotEqual(t, queue.Delivered, b.Outcome)
	if b.Outcome == queue.Failed {
		require.Equal(t, "550 5.1.1 no such user", b.Reply)
	}
	told := c.what[0] == '4' // that the hop wants to hear no more
	if over && told {
		c.got -= c.refused
	}
	if a.Outcome == queue.Delivered {
		require.Equal(t, 1, c.got+c.took, "whole messages")
		require.False(t, over && !told)
	} else {
		require.Equal(t, queue.Deferred, a.Outcome, a.Reply)
		require.NotContains(t, a.Reply, "550")
		require.Equal(t, over && !told, c.got+c.took == 1, "whole messages")
	}
	if c.cancel {
		require.Equal(t, !over, a.Untried, "%+v", a)
		return
	}
	require.False(t, a.Untried)
	fallback := c.step == "HANDSHAKE" || (c.step == "STARTTLS" || c.step == "TLS EHLO") && !told // clear text
	wants := (c.backup || c.once && c.reused || fallback) && (!over || told)
	require.Equal(t, wants, a.Outcome == queue.Delivered, "%s: %s", a.Host, a.Reply)
	if wants && !fallback {
		require.Equal(t, queue.Failed, b.Outcome, b.Reply)
	}
}

// TestFaultTable: a hop that closes, resets, stops or is cut off inside a reply, at
// every step, in every way in which a message is sent.
func TestFaultTable(t *testing.T) {
	t.Parallel()
	turns := make(chan struct{}, 100) // cases that run at a time, of some thousand
	whats := []string{hang, drop, reset, half, endless, deaf, "421 4.3.2 shutting down"}
	for _, step := range []string{
		"CONNECT", "EHLO", "STARTTLS", "HANDSHAKE", "TLS EHLO", "MAIL", "RCPT", "RCPT3", "DATA", "BODY", "BDAT", "DOT",
	} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			var wait sync.WaitGroup
			var all []*faultCase
			for n := range len(whats) * 128 {
				c := &faultCase{
					step: step, what: whats[n>>7], bdat: n&1 > 0, stepwise: n&2 > 0, secure: n&4 > 0, reused: n&8 > 0, once: n&16 > 0,
					backup: n&32 > 0, cancel: n&64 > 0,
				}
				if c.sense() {
					c.prepare(t)
					all = append(all, c)
					wait.Go(func() {
						turns <- struct{}{}
						defer func() { <-turns }()
						c.play(t.Context())
					})
				}
			}
			wait.Wait()
			for _, c := range all {
				t.Run(c.String(), func(t *testing.T) { c.check(t) })
			}
		})
	}
}
