package remote

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/porttest"
	"relay/queue"
	"relay/queue/remote/dane"
	"relay/smtp"
)

// Things a scripted hop does in place of a reply.
const (
	hang    = "hang"    // says nothing until the test ends
	drop    = "drop"    // closes
	reset   = "reset"   // breaks the connection off, without an end
	half    = "half"    // closes inside a reply
	endless = "endless" // never ends a reply
	deaf    = "deaf"    // reads nothing more until the test ends
	garbage = "garbage" // says something that is not SMTP
	gate    = "gate"    // says yes once the gate is closed
)

// nextHop is a scripted SMTP server: by verb, and by "DOT" for the end of the
// data, the replies to give in turn; the last one stays.
type nextHop struct {
	t    *testing.T
	l    net.Listener
	lmtp bool
	ehlo []string // extensions
	cert *tls.Certificate
	// implicit: TLS begins with the first octet.
	implicit bool
	clients  *x509.CertPool // not nil: they show certificates

	mu     sync.Mutex
	say    map[string][]string
	lines  []string
	bodies []string
	chunk  string // of a BDAT message so far
	conns  int
	open   map[net.Conn]bool
	wait   sync.WaitGroup
	gate   chan struct{}
	strays map[string]string // by step, a first reply with more behind it
	gone   chan struct{}     // ends with the test
	met    chan struct{}     // takes a word when the hop has stopped
	over   func(net.Conn)    // not nil: is called with the connection on which the hop has stopped
	late   chan struct{}     // not nil: lines behind the first of a reply to a message wait for it
	came   chan struct{}     // and then this ends
	asked  string            // by the name that TLS was last asked for (SNI)
}

func newHop(t *testing.T, say map[string]string) *nextHop {
	t.Helper()
	return newHopAt(t, porttest.Addr(t, "127.0.0.1"), say)
}

func newHopAt(t *testing.T, addr string, say map[string]string) *nextHop {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	h := &nextHop{
		t: t, l: l, say: map[string][]string{}, gate: make(chan struct{}), gone: make(chan struct{}),
		met: make(chan struct{}, 100), came: make(chan struct{}), open: map[net.Conn]bool{},
		ehlo: []string{"PIPELINING", "8BITMIME", "SIZE 1000000", "ENHANCEDSTATUSCODES"},
	}
	for verb, reply := range say {
		h.say[verb] = strings.Split(reply, "|")
	}
	h.wait.Go(h.serve)
	t.Cleanup(func() {
		l.Close()
		close(h.gone)
		h.mu.Lock()
		for c := range h.open {
			c.Close()
		}
		h.mu.Unlock()
		h.wait.Wait()
	})
	return h
}

func (h *nextHop) tls() *tls.Config {
	c := &tls.Config{Certificates: []tls.Certificate{*h.cert}}
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.asked = hello.ServerName
		return nil, nil
	}
	if h.clients != nil {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, h.clients
	}
	return c
}

func (h *nextHop) port() int { return h.l.Addr().(*net.TCPAddr).Port }

func (h *nextHop) serve() {
	for {
		c, err := h.l.Accept()
		if err != nil {
			return
		}
		h.mu.Lock()
		h.conns++
		h.open[c] = true
		h.mu.Unlock()
		h.wait.Go(func() {
			defer c.Close()
			h.session(c)
		})
	}
}

func (h *nextHop) next(verb, def string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.say[verb]
	if len(all) == 0 {
		return def
	}
	if len(all) > 1 {
		h.say[verb] = all[1:]
	}
	return all[0]
}

// answer writes the reply for a verb; false: the session is over.
func (h *nextHop) answer(c net.Conn, verb, def string) bool {
	r := h.next(verb, def)
	if r == hang || r == endless || r == deaf {
		h.met <- struct{}{}
		if h.over != nil {
			h.over(c)
		}
	}
	switch r {
	case hang:
		_, _ = io.Copy(io.Discard, c)
		return false
	case drop:
		return false
	case deaf:
		<-h.gone
		return false
	case reset:
		breakOff(c)
		return false
	case half:
		fmt.Fprintf(c, "250-half\r\n25")
		return false
	case endless:
		fmt.Fprintf(c, "250-and\r\n250")
		_, _ = io.Copy(io.Discard, c)
		return false
	case gate:
		<-h.gate
		fmt.Fprintf(c, "250 2.0.0 Ok\r\n")
		return true
	case garbage:
		fmt.Fprintf(c, "\x00\xffwhat?\r\n")
		return true
	default:
		if now, then, more := strings.Cut(r, "\n"); more && verb == "DOT" && h.late != nil {
			fmt.Fprintf(c, "%s\r\n", now)
			<-h.late
			defer close(h.came)
			r = then
		}
		fmt.Fprintf(c, "%s\r\n", strings.ReplaceAll(r, "\n", "\r\n"))
		return !strings.HasPrefix(r, "421")
	}
}

// breakOff ends a connection with a reset.
func breakOff(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

// meets reports whether a fault waits at a step that has no reply, and plays it.
func (h *nextHop) meets(c net.Conn, step string) bool {
	what := h.next(step, "")
	if what == "" {
		return false
	}
	h.script("\x00"+step, what)
	h.answer(c, "\x00"+step, "")
	return true
}

func (h *nextHop) session(c net.Conn) {
	h.mu.Lock()
	if h.implicit {
		c = tls.Server(c, h.tls())
	}
	h.mu.Unlock()
	if !h.answer(c, "CONNECT", "220 hop.example ESMTP") {
		return
	}
	in := bufio.NewReader(c)
	rcpts := 0
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		h.mu.Lock()
		h.lines = append(h.lines, line)
		h.mu.Unlock()
		ok := true
		switch verb {
		case "EHLO", "LHLO":
			_, secure := c.(*tls.Conn)
			if secure && h.refuses("TLS "+verb) {
				verb = "TLS " + verb
			}
			step := map[bool]string{true: "TLS EHLO", false: "EHLO"}[secure]
			if r := h.strays[step]; r != "" {
				delete(h.strays, step)
				fmt.Fprintf(c, "%s\r\n", strings.ReplaceAll(r, "\n", "\r\n"))
				break
			}
			ok = h.answer(c, verb, h.hello(secure))
		case "STARTTLS":
			if h.refuses(verb) {
				ok = h.answer(c, verb, "")
			} else if ok = h.answer(c, verb, "220 go"); ok && h.cert != nil {
				if h.meets(c, "HANDSHAKE") {
					return
				}
				s := tls.Server(c, h.tls())
				if s.Handshake() != nil {
					return
				}
				c, in = s, bufio.NewReader(s)
			} else if ok {
				fmt.Fprintf(c, "this is no TLS\r\n")
				return
			}
		case "MAIL":
			rcpts = 0
			ok = h.answer(c, verb, "250 2.1.0 Ok")
		case "RCPT":
			r := h.next(line, "")
			if r == "" {
				r = h.next(verb, "250 2.1.5 Ok")
			}
			if strings.HasPrefix(r, "2") {
				rcpts++
			}
			h.script("\x00", r)
			ok = h.answer(c, "\x00", "")
		case "DATA":
			def := "354 go on"
			if rcpts == 0 {
				def = "554 5.5.1 no valid recipients"
			}
			if ok = h.answer(c, verb, def); !ok || h.next(verb, def)[:1] != "3" {
				break
			}
			var body strings.Builder
			for {
				l, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if l == ".\r\n" {
					break
				}
				if body.Len() == 0 && h.meets(c, "BODY") {
					return
				}
				body.WriteString(l)
			}
			h.mu.Lock()
			h.bodies = append(h.bodies, body.String())
			h.mu.Unlock()
			n := 1
			if h.lmtp {
				n = rcpts
			}
			for range n {
				ok = ok && h.answer(c, "DOT", "250 2.0.0 Ok: queued")
			}
		case "BDAT":
			if h.meets(c, "BODY") {
				return
			}
			body, last, err := chunk(in, line)
			if err != nil {
				return
			}
			h.mu.Lock()
			h.chunk += body
			if last {
				h.bodies, h.chunk = append(h.bodies, h.chunk), ""
			}
			h.mu.Unlock()
			ok = h.answer(c, map[bool]string{true: "DOT", false: verb}[last], "250 2.0.0 Ok")
		case "QUIT":
			h.answer(c, verb, "221 bye")
			return
		default:
			ok = h.answer(c, verb, "250 Ok")
		}
		if !ok {
			return
		}
	}
}

// chunk reads what follows a BDAT command.
func chunk(in io.Reader, line string) (body string, last bool, err error) {
	fields := strings.Fields(line)
	n, err := strconv.Atoi(fields[1])
	if err != nil {
		return "", false, err
	}
	b := make([]byte, n)
	_, err = io.ReadFull(in, b)
	return string(b), len(fields) > 2, err
}

func (h *nextHop) refuses(verb string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.say[verb]) > 0 && h.say[verb][0][0] != '2'
}

func (h *nextHop) script(verb string, replies ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.say[verb] = replies
}

func (h *nextHop) hello(secure bool) string {
	all := []string{"hop.example"}
	for _, e := range h.ehlo {
		if e != "STARTTLS" || !secure {
			all = append(all, e)
		}
	}
	for i := range all {
		if i < len(all)-1 {
			all[i] = "250-" + all[i]
		} else {
			all[i] = "250 " + all[i]
		}
	}
	return strings.Join(all, "\n")
}

func (h *nextHop) said() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.lines, "\n")
}

func (h *nextHop) count() (conns, bodies int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conns, len(h.bodies)
}

// names is a Resolver from maps.
type names struct {
	mx    map[string][]Record
	addrs map[string][]netip.Addr
	err   map[string]error
	// signed: DNSSEC secures the MX records, and no address.
	signed bool
}

func (n names) SecureMX(ctx context.Context, d string) ([]Record, bool, error) {
	all, err := n.MX(ctx, d)
	return all, n.signed, err
}

func (n names) Find(ctx context.Context, h string) (Found, error) {
	addrs, err := n.Addresses(ctx, h)
	return Found{Addrs: addrs}, err
}

func (n names) SecureAlias(context.Context, string) (bool, error) { return false, nil }

func (n names) TLSA(context.Context, string) ([]dane.Record, error) { return nil, ErrNoData }

func (n names) MX(_ context.Context, d string) ([]Record, error) {
	if err := n.err["MX "+d]; err != nil {
		return nil, err
	}
	if r, ok := n.mx[d]; ok {
		return r, nil
	}
	if _, ok := n.addrs[d]; ok {
		return nil, ErrNoData
	}
	return nil, ErrNoName
}

func (n names) Addresses(_ context.Context, h string) ([]netip.Addr, error) {
	if err := n.err[h]; err != nil {
		return nil, err
	}
	if a, ok := n.addrs[h]; ok {
		return a, nil
	}
	return nil, ErrNoName
}

func patience(d time.Duration) smtp.ClientOptions {
	return smtp.ClientOptions{
		GreetingTimeout: d, MailTimeout: d, RcptTimeout: d, DataTimeout: d, BlockTimeout: d, EndTimeout: d,
	}
}

// ifSilent is the patience with a hop: short where the hop keeps it waiting, else longer
// than a busy machine takes.
func ifSilent(silent bool) time.Duration {
	if silent {
		return 2 * time.Second
	}
	return 30 * time.Second
}

func newAgent(t *testing.T, c Config) *Agent {
	t.Helper()
	if c.Hostname == "" {
		c.Hostname = "relay.example.com"
	}
	if c.Resolver == nil {
		c.Resolver = names{}
	}
	if c.Client.MailTimeout == 0 {
		c.Client = patience(30 * time.Second)
	}
	c.ConnectTimeout = 5 * time.Second
	a, err := New(c)
	require.NoError(t, err)
	t.Cleanup(func() { a.Close() })
	return a
}

func job(h *nextHop, to ...string) *queue.Job {
	scheme := "smtp"
	if h.lmtp {
		scheme = "lmtp"
	}
	return jobTo(fmt.Sprintf("%s:127.0.0.1:%d", scheme, h.port()), to...)
}

const message = "Subject: hello\r\n\r\nline\r\n.dot\r\n"

func jobTo(route string, to ...string) *queue.Job {
	j := &queue.Job{ID: queue.ID{1}, Created: time.Now(), Sender: "s@example.net", Size: int64(len(message)), Route: route,
		Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(message)), nil }}
	for i, a := range to {
		j.Recipients = append(j.Recipients, queue.Recipient{N: uint32(i), Address: a})
	}
	return j
}

func deliver(t *testing.T, a *Agent, j *queue.Job) []queue.Verdict {
	t.Helper()
	v := a.Deliver(t.Context(), j)
	require.Len(t, v, len(j.Recipients))
	for i := range v {
		require.Equal(t, queue.Ref{ID: j.ID, Recipient: j.Recipients[i].N}, v[i].Ref)
		require.NotZero(t, v[i].Outcome)
		require.False(t, v[i].At.IsZero())
	}
	return v
}

func TestDelivers(t *testing.T) {
	h := newHop(t, nil)
	a := newAgent(t, Config{})
	for range 3 {
		v := deliver(t, a, job(h, "a@one.example", "b@one.example"))
		for _, x := range v {
			require.Equal(t, queue.Delivered, x.Outcome)
			require.Equal(t, "250 2.0.0 Ok: queued", x.Reply)
			require.Equal(t, fmt.Sprintf("[127.0.0.1]:%d", h.port()), x.Host)
		}
	}
	conns, bodies := h.count()
	require.Equal(t, 1, conns, "the connection was used again")
	require.Equal(t, 3, bodies)
	require.Equal(t, "Subject: hello\r\n\r\nline\r\n..dot\r\n", h.bodies[0])
	require.NotContains(t, h.said(), "RSET")
	require.EqualValues(t, 2, a.Stats().Reused.Load())
	require.NoError(t, a.Close())
	require.Contains(t, h.said(), "QUIT")
}

// TestFaultsAtEveryStep: whatever a hop does, nothing is failed that it did not
// refuse, and nothing hangs.
func TestFaultsAtEveryStep(t *testing.T) {
	for _, step := range []string{"CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "DOT"} {
		for _, what := range []string{
			hang, drop, garbage, "421 4.3.2 shutting down", "451 4.3.0 later", "554 5.7.1 go away", "299 ?", "999 x",
		} {
			t.Run(step+"/"+what, func(t *testing.T) {
				t.Parallel()
				h := newHop(t, map[string]string{step: what})
				if step == "EHLO" && what[0] == '5' {
					h.script("HELO", what)
				}
				a := newAgent(t, Config{Client: patience(ifSilent(what == hang || step+what == "DOT"+garbage))})
				v := deliver(t, a, job(h, "a@one.example"))[0]
				switch {
				case what[0] == '5' && step != "CONNECT" && step != "EHLO":
					require.Equal(t, queue.Failed, v.Outcome)
					require.Equal(t, what, v.Reply)
				case what[0] == '2' && step != "CONNECT" && step != "DATA" && step != "EHLO":
					require.Equal(t, queue.Delivered, v.Outcome, v.Reply) // any 2xx is a yes
				default:
					require.Equal(t, queue.Deferred, v.Outcome, v.Reply)
				}
				require.False(t, v.Untried)
				require.NotEmpty(t, v.Reply)
				if step == "DOT" && (what == hang || what == drop || what == garbage || what == "999 x") {
					require.Contains(t, v.Reply, "may have been delivered")
				}
				if step == "CONNECT" || step == "EHLO" && what[0] != '2' {
					require.True(t, v.NextHop, v.Reply)
				}
			})
		}
	}
}

func TestNobodyThere(t *testing.T) {
	h := newHop(t, nil)
	h.l.Close()
	v := deliver(t, newAgent(t, Config{}), job(h, "a@one.example"))[0]
	require.Equal(t, queue.Deferred, v.Outcome)
	require.True(t, v.NextHop)
	require.Equal(t, "4.4.1 connection refused", v.Reply)
}

func TestRecipientsApart(t *testing.T) {
	h := newHop(t, map[string]string{
		"RCPT TO:<no@x>": "550 5.1.1 no such user", "RCPT TO:<later@x>": "450 4.2.1 busy",
	})
	v := deliver(t, newAgent(t, Config{}), job(h, "yes@x", "no@x", "later@x"))
	require.Equal(t, []queue.Outcome{queue.Delivered, queue.Failed, queue.Deferred},
		[]queue.Outcome{v[0].Outcome, v[1].Outcome, v[2].Outcome})
	require.Equal(t, "550 5.1.1 no such user", v[1].Reply)
	require.Equal(t, "450 4.2.1 busy", v[2].Reply)
	require.False(t, v[2].NextHop)
}

func TestTooManyRecipientsGoOn(t *testing.T) {
	h := newHop(t, map[string]string{"RCPT": "250 ok|250 ok|452 4.5.3 too many|452 4.5.3 too many|250 ok|250 ok"})
	v := deliver(t, newAgent(t, Config{}), job(h, "a@x", "b@x", "c@x", "d@x"))
	for _, x := range v {
		require.Equal(t, queue.Delivered, x.Outcome)
	}
	conns, bodies := h.count()
	require.Equal(t, 1, conns)
	require.Equal(t, 2, bodies)
}

// TestAConnectionThatIsUsedUp: where a host counts the recipients of a connection, a message
// that finds none left goes over a fresh one at once.
func TestAConnectionThatIsUsedUp(t *testing.T) {
	for _, reply := range []string{"452 4.5.3 too many", "552 5.5.3 too many recipients"} {
		h := newHop(t, map[string]string{"RCPT": "250 ok|" + reply + "|250 ok"})
		a := newAgent(t, Config{})
		for range 2 {
			require.Equal(t, queue.Delivered, deliver(t, a, job(h, "a@x"))[0].Outcome)
		}
		conns, bodies := h.count()
		require.Equal(t, []int{2, 2}, []int{conns, bodies}, "connections and messages")
	}
}

func TestRecipientLimits(t *testing.T) {
	h := newHop(t, nil)
	h.ehlo = append(h.ehlo, "LIMITS RCPTMAX=2 MAILMAX=2")
	v := deliver(t, newAgent(t, Config{}), job(h, "a@x", "b@x", "c@x", "d@x", "e@x"))
	for _, x := range v {
		require.Equal(t, queue.Delivered, x.Outcome, x.Reply)
	}
	conns, bodies := h.count()
	require.Equal(t, 2, conns)
	require.Equal(t, 3, bodies)
}

// A 4xx to one of several recipients is said of that one only: the others go on
// over the same connection, and it is not asked for again in this attempt.
func TestLaterForOneRecipientHoldsNobodyBack(t *testing.T) {
	h := newHop(t, map[string]string{"RCPT TO:<later@x>": "450 4.2.1 busy"})
	h.ehlo = append(h.ehlo, "LIMITS RCPTMAX=2")
	v := deliver(t, newAgent(t, Config{}), job(h, "later@x", "b@x", "c@x", "d@x"))
	require.Equal(t, []queue.Outcome{queue.Deferred, queue.Delivered, queue.Delivered, queue.Delivered}, outcomes(v))
	require.Equal(t, "450 4.2.1 busy", v[0].Reply)
	conns, bodies := h.count()
	require.Equal(t, []int{1, 2}, []int{conns, bodies}, "connections and transactions")
	require.Equal(t, 1, strings.Count(h.said(), "RCPT TO:<later@x>"))
}

func TestMessagesPerConnection(t *testing.T) {
	h := newHop(t, nil)
	a := newAgent(t, Config{Messages: 2})
	for range 5 {
		require.Equal(t, queue.Delivered, deliver(t, a, job(h, "a@x"))[0].Outcome)
	}
	conns, _ := h.count()
	require.Equal(t, 3, conns)
}

func TestDeadIdleConnectionIsReplaced(t *testing.T) {
	for _, how := range []string{drop, "421 4.4.2 idle for too long"} {
		h := newHop(t, map[string]string{"MAIL": "250 ok|" + how + "|250 ok"})
		a := newAgent(t, Config{})
		require.Equal(t, queue.Delivered, deliver(t, a, job(h, "a@x"))[0].Outcome)
		require.Equal(t, queue.Delivered, deliver(t, a, job(h, "a@x"))[0].Outcome)
		conns, bodies := h.count()
		require.Equal(t, 2, conns)
		require.Equal(t, 2, bodies)
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	h := newHop(t, nil)
	a := newAgent(t, Config{Idle: 20 * time.Millisecond})
	deliver(t, a, job(h, "a@x"))
	require.Eventually(t, func() bool { return strings.Contains(h.said(), "QUIT") }, time.Minute, 5*time.Millisecond)
}

func TestLMTP(t *testing.T) {
	h := newHop(t, map[string]string{"DOT": "250 2.1.5 one|550 5.2.2 full|451 4.3.0 later"})
	h.lmtp = true
	v := deliver(t, newAgent(t, Config{}), job(h, "a@x", "b@x", "c@x"))
	require.Equal(t, []queue.Outcome{queue.Delivered, queue.Failed, queue.Deferred},
		[]queue.Outcome{v[0].Outcome, v[1].Outcome, v[2].Outcome})
	require.True(t, v[0].Final)
	require.Contains(t, h.said(), "LHLO")
}

// TestRefusedAlone: a verdict says whether the host meant this recipient, or what others share with it.
func TestRefusedAlone(t *testing.T) {
	const no = "550 5.1.1 <s@example.net>: Sender address rejected: user unknown"
	for name, one := range map[string]struct {
		say  map[string]string
		lmtp bool
		want bool
	}{
		"RCPT":            {map[string]string{"RCPT TO:<a@x>": no}, false, true},
		"MAIL":            {map[string]string{"MAIL": no}, false, false},
		"DATA":            {map[string]string{"DATA": no}, false, false},
		"the end":         {map[string]string{"DOT": no}, false, false},
		"LMTP, RCPT":      {map[string]string{"RCPT TO:<a@x>": no}, true, true},
		"LMTP, its reply": {map[string]string{"DOT": no + "|250 two"}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHop(t, one.say)
			h.lmtp = one.lmtp
			v := deliver(t, newAgent(t, Config{}), job(h, "a@x", "b@x"))
			require.Equal(t, queue.Failed, v[0].Outcome, v[0].Reply)
			require.Equal(t, one.want, v[0].ThisOne)
		})
	}
}

func certificate(t *testing.T, name string) (*tls.Certificate, *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	x := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, x, x, &k.PublicKey, k)
	require.NoError(t, err)
	c, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}, pool
}

// mxAgent makes an agent that finds hops by MX: hosts on 127.0.0.x would need
// one port, so every host is h's.
func mxAgent(t *testing.T, c Config, h *nextHop) *Agent {
	c.Port, c.LoopbackHops = h.port(), true
	if c.Resolver == nil {
		c.Resolver = names{
			mx:    map[string][]Record{"x": {{"mx.x", 10}}},
			addrs: map[string][]netip.Addr{"mx.x": {netip.MustParseAddr("127.0.0.1")}}, signed: true,
		}
	}
	return newAgent(t, c)
}

func mxJob(to ...string) *queue.Job {
	j := jobTo("", to...)
	j.Domain = "x"
	return j
}

func TestOpportunisticTLS(t *testing.T) {
	h := newHop(t, nil)
	h.ehlo = append(h.ehlo, "STARTTLS")
	h.cert, _ = certificate(t, "somebody.else.example")
	v := deliver(t, mxAgent(t, Config{}, h), mxJob("a@x"))[0]
	require.Equal(t, queue.Delivered, v.Outcome)
	require.Equal(t, "TLS1.3 TLS_AES_128_GCM_SHA256", v.TLS)
	require.Equal(t, fmt.Sprintf("mx.x [127.0.0.1]:%d", h.port()), v.Host)
}

func TestBrokenTLSGoesInClear(t *testing.T) {
	h := newHop(t, nil)
	h.ehlo = append(h.ehlo, "STARTTLS")
	a := mxAgent(t, Config{}, h)
	for range 2 {
		v := deliver(t, a, mxJob("a@x"))[0]
		require.Equal(t, queue.Delivered, v.Outcome)
		require.Empty(t, v.TLS)
		a.pool.flush()
	}
	conns, _ := h.count()
	require.Equal(t, 3, conns, "the second message did not try TLS again")

	refuses := newHop(t, map[string]string{"STARTTLS": "454 4.7.0 not now"})
	refuses.ehlo = append(refuses.ehlo, "STARTTLS")
	v := deliver(t, mxAgent(t, Config{}, refuses), mxJob("a@x"))[0]
	require.Equal(t, queue.Delivered, v.Outcome)
	conns, _ = refuses.count()
	require.Equal(t, 1, conns)

	v = deliver(t, mxAgent(t, Config{TLS: Required}, h), mxJob("a@x"))[0]
	require.Equal(t, queue.Deferred, v.Outcome)
	require.Contains(t, v.Reply, "4.7.5 TLS failed")

	clear := newHop(t, nil)
	v = deliver(t, mxAgent(t, Config{TLS: Required}, clear), mxJob("a@x"))[0]
	require.Equal(t, queue.Deferred, v.Outcome)
	require.Contains(t, v.Reply, "4.7.4 TLS is required")

	h.cert, _ = certificate(t, "mx.x")
	v = deliver(t, mxAgent(t, Config{TLS: Off}, h), mxJob("a@x"))[0]
	require.Empty(t, v.TLS)
	require.Equal(t, queue.Delivered, v.Outcome)
}

func TestRequireTLS(t *testing.T) {
	with := func(h *nextHop, pool *x509.CertPool) queue.Verdict {
		j := mxJob("a@x")
		j.RequireTLS = true
		return deliver(t, mxAgent(t, Config{Roots: pool}, h), j)[0]
	}
	h := newHop(t, nil)
	require.Equal(t, queue.Failed, with(h, nil).Outcome, "no STARTTLS")
	h.ehlo = append(h.ehlo, "STARTTLS")
	var pool *x509.CertPool
	h.cert, pool = certificate(t, "mx.x")
	v := with(h, pool)
	require.Equal(t, queue.Failed, v.Outcome, "no REQUIRETLS")
	require.Contains(t, v.Reply, "5.7.30")
	h.ehlo = append(h.ehlo, "REQUIRETLS")
	require.Equal(t, queue.Delivered, with(h, pool).Outcome)
	require.Contains(t, h.said(), " REQUIRETLS")
	h.cert, _ = certificate(t, "mx.x")
	require.Equal(t, queue.Deferred, with(h, pool).Outcome, "a certificate nobody knows")
}

// A message that must go over TLS waits where the host has none for the moment.
func TestRequireTLSWaitsForTLS(t *testing.T) {
	h := newHop(t, map[string]string{"STARTTLS": "454 4.7.0 TLS not available|220 go"})
	h.ehlo = append(h.ehlo, "STARTTLS", "REQUIRETLS")
	var pool *x509.CertPool
	h.cert, pool = certificate(t, "mx.x")
	a := mxAgent(t, Config{Roots: pool}, h)
	try := func() queue.Verdict {
		a.pool.flush()
		j := mxJob("a@x")
		j.RequireTLS = true
		return deliver(t, a, j)[0]
	}
	v := try()
	require.Equal(t, queue.Deferred, v.Outcome, v.Reply)
	require.Contains(t, v.Reply, "4.7.4 TLS is required, but the host refused STARTTLS: 454")
	require.Equal(t, queue.Delivered, try().Outcome)
	h.script("EHLO", "250 hop.example")
	for range 3 { // one message more, and its next attempt
		require.Equal(t, queue.Deferred, try().Outcome, "it had it a moment ago")
	}
	a.offered = newRecent(time.Hour, 10) // a day later
	require.Equal(t, queue.Failed, try().Outcome, "it is gone for good")
}

func TestParameters(t *testing.T) {
	h := newHop(t, nil)
	h.ehlo = append(h.ehlo, "DSN", "SMTPUTF8", "MT-PRIORITY", "DELIVERBY")
	j := mxJob("ä@x")
	j.EightBit, j.UTF8, j.Ret, j.EnvID = true, true, "HDRS", "a b"
	j.Priority, j.DeliverBy = -2, &queue.DeliverBy{
		Until: time.Now().Add(1000*time.Second + 500*time.Millisecond), Return: true,
	}
	j.Recipients[0].Notify, j.Recipients[0].Original = queue.NotifySuccess|queue.NotifyFailure, "rfc822;orig@x"
	v := deliver(t, mxAgent(t, Config{}, h), j)[0]
	require.Equal(t, queue.Delivered, v.Outcome)
	require.True(t, v.Passed)
	said := h.said()
	for _, want := range []string{
		"BODY=8BITMIME", "SMTPUTF8", "RET=HDRS", "ENVID=a+20b", "NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;orig@x",
		"MT-PRIORITY=-2", "BY=1000;R", fmt.Sprintf("SIZE=%d", len(message)),
	} {
		require.Contains(t, said, want)
	}

	// A plain host.
	p := newHop(t, nil)
	p.ehlo = nil
	v = deliver(t, mxAgent(t, Config{}, p), j)[0]
	require.Equal(t, queue.Failed, v.Outcome, "it promises no time")
	require.Contains(t, v.Reply, "DELIVERBY")
	j.DeliverBy.Return = false
	require.Equal(t, queue.Failed, deliver(t, mxAgent(t, Config{}, p), j)[0].Outcome, "an address that it can not take")
	j.Recipients[0].Address = "a@x"
	require.Equal(t, queue.Delivered, deliver(t, mxAgent(t, Config{}, p), j)[0].Outcome,
		"the header needs no SMTPUTF8, and 8 bits go as they are")
	require.NotContains(t, p.said(), "BODY")
	j.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("Subject: ä\r\n\r\nx\r\n")), nil }
	require.Equal(t, queue.Failed, deliver(t, mxAgent(t, Config{}, p), j)[0].Outcome, "the header needs it")
	j.UTF8, j.Binary = false, true
	v = deliver(t, mxAgent(t, Config{}, p), j)[0]
	require.Equal(t, queue.Failed, v.Outcome)
	require.True(t, strings.HasPrefix(v.Reply, "5.6.3 "), "no host has said that: %s", v.Reply)
}

func TestTooLarge(t *testing.T) {
	h := newHop(t, nil)
	h.ehlo = []string{"SIZE 5"}
	v := deliver(t, newAgent(t, Config{}), job(h, "a@x"))[0]
	require.Equal(t, queue.Failed, v.Outcome)
	require.Contains(t, v.Reply, "5.3.4")
}

func TestUnreadableMessage(t *testing.T) {
	h := newHop(t, nil)
	a := newAgent(t, Config{})
	j := job(h, "a@x")
	j.Open = func() (io.ReadCloser, error) { return nil, errors.New("disk") }
	v := deliver(t, a, j)[0]
	require.Equal(t, queue.Deferred, v.Outcome)
	require.False(t, v.NextHop)
	j.Open = func() (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(strings.NewReader("Subject: x\r\n\r\n"), broken{})), nil
	}
	v = deliver(t, a, j)[0]
	require.Equal(t, queue.Deferred, v.Outcome)
	require.Contains(t, v.Reply, "could not be read")
	require.False(t, v.NextHop)
	_, bodies := h.count()
	require.Zero(t, bodies)
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("disk") }

func TestFence(t *testing.T) {
	h := newHop(t, nil)
	a := newAgent(t, Config{})
	j := job(h, "a@x")
	j.Live = func() error { return errors.New("no lease") }
	v := deliver(t, a, j)[0]
	require.True(t, v.Untried)
	_, bodies := h.count()
	require.Zero(t, bodies, "no dot without the right to act")

	hung := newHop(t, map[string]string{"MAIL": hang})
	ctx, cancel := context.WithCancel(t.Context())
	c := Config{Client: smtp.ClientOptions{MailTimeout: time.Hour}}
	done := make(chan []queue.Verdict, 1)
	slow := newAgent(t, c)
	go func() { done <- slow.Deliver(ctx, job(hung, "a@x")) }()
	require.Eventually(t, func() bool { return strings.Contains(hung.said(), "MAIL") }, time.Minute, time.Millisecond)
	cancel()
	require.True(t, (<-done)[0].Untried)
}

func TestDotSentBeforeTheEndIsWaitedFor(t *testing.T) {
	h := newHop(t, map[string]string{"DOT": gate})
	ctx, cancel := context.WithCancel(t.Context())
	a := newAgent(t, Config{Client: smtp.ClientOptions{MailTimeout: time.Minute}})
	done := make(chan []queue.Verdict, 1)
	go func() { done <- a.Deliver(ctx, job(h, "a@x")) }()
	require.Eventually(t, func() bool { _, bodies := h.count(); return bodies == 1 }, time.Minute, time.Millisecond)
	cancel()
	close(h.gate)
	v := (<-done)[0]
	require.Equal(t, queue.Delivered, v.Outcome, v.Reply)
}

// A message sent by BDAT arrives octet for octet, and needs no stuffing; DATA has to
// end the last line. Binary mail goes by BDAT or not at all (RFC 3030 §3, §4).
func TestChunking(t *testing.T) {
	large := "Subject: large\r\n\r\n" + strings.Repeat(".0123456789abcdef\r\n", 20000) + "no end of line"
	binary := "Content-Transfer-Encoding: binary\r\n\r\n\x00\r\n.\r\n\n\r." + strings.Repeat("\xff\n", 40000)
	for _, c := range []struct {
		name, body     string
		binary, prefer bool
		ehlo           []string
		by, end        string // the verb, and what it adds
		refused        bool
	}{
		{"by BDAT", message, false, true, []string{"PIPELINING", "CHUNKING"}, "BDAT", "", false},
		{"without pipelining", large, false, true, []string{"CHUNKING"}, "BDAT", "", false},
		{"in several chunks", large, false, true, []string{"PIPELINING", "CHUNKING"}, "BDAT", "", false},
		{"not offered", large, false, true, []string{"PIPELINING"}, "DATA", "\r\n", false},
		{"not preferred", large, false, false, []string{"PIPELINING", "CHUNKING"}, "DATA", "\r\n", false},
		{"an empty one", "", false, true, []string{"PIPELINING", "CHUNKING"}, "BDAT", "", false},
		{"binary", binary, true, false, []string{"PIPELINING", "CHUNKING", "8BITMIME", "BINARYMIME"}, "BDAT", "", false},
		{"binary to one who has only CHUNKING", binary, true, true, []string{"CHUNKING", "8BITMIME"}, "", "", true},
		{"binary to one who has neither", binary, true, true, []string{"8BITMIME"}, "", "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHop(t, nil)
			h.ehlo = c.ehlo
			conf := Config{Client: patience(30 * time.Second)}
			conf.Client.Chunking = c.prefer
			a := newAgent(t, conf)
			j := job(h, "a@example.org")
			j.Binary, j.Size = c.binary, int64(len(c.body))
			j.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(c.body)), nil }
			v := deliver(t, a, j)
			if c.refused {
				require.Equal(t, queue.Failed, v[0].Outcome)
				require.Contains(t, v[0].Reply, "5.6.3")
				require.NotContains(t, h.said(), "MAIL", "nothing is begun")
				return
			}
			require.Equal(t, queue.Delivered, v[0].Outcome, v[0].Reply)
			require.Contains(t, h.said(), "\n"+c.by)
			require.Len(t, h.bodies, 1)
			got := h.bodies[0]
			if c.by == "DATA" {
				got = strings.ReplaceAll("\r\n"+got, "\r\n.", "\r\n")[2:]
			}
			require.True(t, got == c.body+c.end, "%d octets came, of %d", len(got), len(c.body))
		})
	}
}

// A chunk that is refused fails the message, and the connection is not used again.
func TestChunkRefused(t *testing.T) {
	h := newHop(t, map[string]string{"BDAT": "250 2.0.0 Ok|552 5.3.4 too large"})
	h.ehlo = []string{"PIPELINING", "CHUNKING"}
	conf := Config{Client: patience(30 * time.Second)}
	conf.Client.Chunking = true
	j := job(h, "a@example.org")
	body := strings.Repeat(".0123456789abcdef\r\n", 20000)
	j.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
	v := deliver(t, newAgent(t, conf), j)
	require.Equal(t, queue.Failed, v[0].Outcome)
	require.Contains(t, v[0].Reply, "552 5.3.4 too large")
	require.Empty(t, h.bodies)
}
