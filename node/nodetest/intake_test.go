package nodetest

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/node/config"
	"relay/smtp"
)

// strangerTo begins a dialogue from an address that is not trusted.
func strangerTo(t *testing.T, addr string) *talk {
	t.Helper()
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	conn, err := from.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Skipf("this system has no 127.0.0.9: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(3 * time.Minute))
	return &talk{t, conn, textproto.NewConn(conn)}
}

// raw sends octets as they are.
func (d *talk) raw(octets string) {
	d.t.Helper()
	_, err := io.WriteString(d.conn, octets)
	require.NoError(d.t, err)
}

func (d *talk) closed() {
	d.t.Helper()
	_, err := d.tp.ReadLine()
	require.ErrorIs(d.t, err, io.EOF)
}

// cutter stands between a client and a node and drops the connection when the
// node has answered the message: the 250 is lost on the way.
type cutter struct {
	addr string
	said chan string // what the client was not told
}

func newCutter(t *testing.T, node string) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cutter{addr: l.Addr().String(), said: make(chan string, 1)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { c.serve(conn, node) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return c
}

func (c *cutter) serve(client net.Conn, node string) {
	defer client.Close()
	server, err := net.Dial("tcp", node)
	if err != nil {
		return
	}
	var up sync.WaitGroup
	up.Go(func() { _, _ = io.Copy(server, client) })
	defer up.Wait()
	defer client.Close()
	defer server.Close()
	in := bufio.NewReader(server)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		if strings.Contains(line, "queued as") {
			c.said <- strings.TrimSpace(line)
			return
		}
		if _, err := io.WriteString(client, line); err != nil {
			return
		}
	}
}

// TestLostReply: the connection dies after the message was committed and before
// the client hears of it, or at some moment after the final dot; the client comes
// again at another node (RFC 1047). There is one copy, under the first id.
func TestLostReply(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 3})
	envelope := []string{"C: MAIL FROM:<s@far.example>", "S: 250", "C: RCPT TO:<alice@example.test>", "S: 250",
		"C: RCPT TO:<x@near.example>", "S: 250"}
	t.Run("between the commit and its reply", func(t *testing.T) {
		cut := newCutter(t, c.Nodes[0].SMTP)
		text := letter("lost")
		d := talkTo(t, cut.addr)
		d.play(append(envelope, text[:len(text)-1]...)...) // the 250 never comes
		d.closed()
		first := idOf(<-cut.said)
		require.Len(t, first, 26)
		again := idOf(talkTo(t, c.Nodes[1].SMTP).play(append(envelope, text...)...))
		require.Equal(t, first, again)
		third := idOf(talkTo(t, c.Nodes[2].SMTP).play(append(envelope, text...)...))
		require.Equal(t, first, third)
	})
	t.Run("by BDAT, sent again by DATA", func(t *testing.T) {
		cut := newCutter(t, c.Nodes[2].SMTP)
		body := "Subject: chunk\r\nMessage-ID: <chunk@test>\r\n\r\ntext\r\n"
		d := talkTo(t, cut.addr)
		d.play(envelope...)
		d.raw(fmt.Sprintf("BDAT %d LAST\r\n%s", len(body), body))
		d.closed()
		again := talkTo(t, c.Nodes[0].SMTP).play(append(envelope, "C: DATA", "S: 354", "M: Subject: chunk",
			"M: Message-ID: <chunk@test>", "M: ", "M: text", "M: .", "S: 250")...)
		require.Equal(t, idOf(<-cut.said), idOf(again))
	})
	t.Run("at once after the dot", func(t *testing.T) {
		for n := range 10 {
			text := letter(fmt.Sprint("cut", n))
			d := talkTo(t, c.Nodes[n%3].SMTP)
			d.play(append(envelope, text[:len(text)-1]...)...)
			_ = d.conn.Close()
			talkTo(t, c.Nodes[(n+1)%3].SMTP).play(append(envelope, text...)...)
		}
	})
	require.NoError(t, c.Sink.Wait(within(t, 3*time.Minute), 12))
	subjects := map[string]int{}
	for _, m := range c.inbox("alice@example.test") {
		subjects[SubjectOf(m)]++
	}
	require.Len(t, subjects, 12)
	for name, n := range subjects {
		require.Equal(t, 1, n, name)
	}
	require.Len(t, c.Sink.Got(), 12)
	c.Verify()
}

// hop is a next hop that can do without extensions, and keeps what comes.
type hop struct {
	addr string
	mu   sync.Mutex
	got  map[string]string // message by recipient
}

func newHop(t *testing.T, without smtp.Extension) *hop {
	h := &hop{got: map[string]string{}}
	s, err := smtp.NewServer(smtp.ServerConfig{
		Hostname: "hop.test", Backend: h, Trusted: func(netip.Addr) bool { return true }, Without: without,
	})
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })
	return h
}

func (h *hop) message(to string) (string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, ok := h.got[to]
	return m, ok
}

// NewSession implements smtp.Backend.
func (h *hop) NewSession(context.Context, *smtp.Peer) (smtp.Session, error) {
	return &hopSession{hop: h}, nil
}

type hopSession struct {
	hop *hop
	to  []string
}

func (s *hopSession) Mail(context.Context, string, *smtp.MailOptions) error { s.to = nil; return nil }

func (s *hopSession) Rcpt(_ context.Context, to string, _ *smtp.RcptOptions) error {
	s.to = append(s.to, to)
	return nil
}

func (s *hopSession) Data(_ context.Context, r io.Reader) (string, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	s.hop.mu.Lock()
	defer s.hop.mu.Unlock()
	for _, to := range s.to {
		s.hop.got[to] = string(b)
	}
	return "x", nil
}

func (s *hopSession) Reset()       {}
func (s *hopSession) Close() error { return nil }

// chunks is a message as BDAT commands of the given sizes, taken in turn.
func chunks(text string, last int, sizes ...int) string {
	var b strings.Builder
	for i := 0; len(text) > last; i++ {
		n := min(sizes[i%len(sizes)], len(text)-last)
		fmt.Fprintf(&b, "BDAT %d\r\n%s", n, text[:n])
		text = text[n:]
	}
	fmt.Fprintf(&b, "bdat %d last\r\n%s", len(text), text)
	return b.String()
}

// TestBDATPassesUnchanged: the same message by BDAT, in chunks of odd sizes,
// relayed to next hops with and without CHUNKING arrives octet for octet; binary
// mail does, or is returned to its sender, where the next hop lacks BINARYMIME.
func TestBDATPassesUnchanged(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	ctx := within(t, 3*time.Minute)
	api, by := c.Nodes[0].Client(), admin.By{Why: "test"}
	full, lines, plain := newHop(t, 0), newHop(t, smtp.ExtBinaryMIME), newHop(t, smtp.ExtChunking)
	hops := map[string]*hop{"full.example": full, "lines.example": lines, "plain.example": plain}
	for domain, h := range hops {
		require.NoError(t, api.SetRoute(ctx, by, admin.Route{Domain: domain, Target: "smtp:" + h.addr}))
	}
	head := "From: alice@example.test\r\nSubject: s\r\nMessage-ID: <%s@test>\r\n\r\n"
	text := head + ".\r\n..dots\r\n.\r\n\r\nQUIT\r\n\xff\x80 8-bit\r\n" + strings.Repeat("long ", 300) + "\r\n"
	large := text + strings.Repeat(".0123456789abcdef0123456789abcdef0123456789abcdef\r\n", 12000) // over spool.MaxInline
	binary := head + "\x00\r\n.\r\n\n\r.\n" + strings.Repeat("\xff\x00\r\n", 100) + "\r"
	send := func(name, body, param string, last int, sizes ...int) string {
		d := talkTo(t, c.Nodes[0].SMTP)
		d.play("C: MAIL FROM:<alice@example.test>"+param, "S: 250")
		for domain := range hops {
			d.play("C: RCPT TO:<"+name+"@"+domain+">", "S: 250")
		}
		wire := chunks(body, last, sizes...)
		go func() { _, _ = io.WriteString(d.conn, wire+"NOOP\r\n") }()
		n := strings.Count(strings.ToUpper(wire), "BDAT ")
		for range n - 1 {
			d.play("S: 250 2.0.0 Chunk received")
		}
		id := idOf(d.play("S: 250 2.0.0 Ok: queued as"))
		d.play("S: 250", "C: QUIT", "S: 221")
		return id
	}
	arrives := func(h *hop, to, body string) {
		t.Helper()
		c.Eventually(time.Minute, to+" did not get it", func() bool { _, ok := h.message(to); return ok })
		got, _ := h.message(to)
		require.True(t, strings.HasPrefix(got, "Received: from client.test"))
		require.True(t, strings.HasSuffix(got, "\r\n"+body), "%s: %d octets of %d", to, len(got), len(body))
	}
	for _, m := range []struct {
		name, body string
		last       int
		sizes      []int
	}{
		{"whole", text, 1 << 20, []int{1}},
		{"bytes", text, 0, []int{1}},
		{"odd", text, 3, []int{0, 2, 7, 1, 0, 61}},
		{"large", large, 0, []int{1000, 1, 70000}},
	} {
		t.Run(m.name, func(t *testing.T) {
			body := strings.Replace(m.body, "%s", m.name, 1)
			send(m.name, body, " BODY=8BITMIME", m.last, m.sizes...)
			for domain, h := range hops {
				arrives(h, m.name+"@"+domain, body)
			}
		})
	}
	t.Run("an unended last line", func(t *testing.T) {
		body := strings.Replace(head, "%s", "unended", 1) + "no end"
		send("unended", body, "", 0, 5)
		arrives(full, "unended@full.example", body)
		arrives(lines, "unended@lines.example", body)
		arrives(plain, "unended@plain.example", body+"\r\n") // DATA has no other way
	})
	t.Run("binary", func(t *testing.T) {
		body := strings.Replace(binary, "%s", "binary", 1)
		id := send("binary", body, " BODY=BINARYMIME", 2, 3, 0, 100)
		arrives(full, "binary@full.example", body)
		for _, domain := range []string{"lines.example", "plain.example"} {
			c.Eventually(time.Minute, "no bounce for "+domain, func() bool {
				return slices.ContainsFunc(c.inbox("alice@example.test"), func(s string) bool {
					return strings.Contains(s, "binary@"+domain) && strings.Contains(s, "5.6.3") &&
						strings.Contains(s, "Action: failed")
				})
			})
			_, came := hops[domain].message("binary@" + domain)
			require.False(t, came)
		}
		trace, err := api.Trace(ctx, id)
		require.NoError(t, err)
		require.NotEmpty(t, trace.Events)
	})
	c.Verify()
}

// TestStrangers: what a node answers who is neither trusted nor logged in.
func TestStrangers(t *testing.T) {
	t.Parallel()
	c, port := relay(t, nil)
	ctx := within(t, 3*time.Minute)
	addr := c.Nodes[0].SMTP
	greet := []string{"S: 220 n1.example.test ESMTP", "C: EHLO liar.example", "S: 250"}

	t.Run("nobody relays", func(t *testing.T) {
		d := strangerTo(t, addr)
		d.play(greet...)
		d.play("C: MAIL FROM:<eve@else.example>", "S: 250")
		for _, to := range []string{
			"x@far.example", "alice%far.example@example.test", "x%far.example@example.test", "far.example!x@example.test",
			`"x@far.example"@example.test`, "@example.test:x@far.example",
		} {
			d.play("C: RCPT TO:<"+to+">", "S: 550 5.7.1 Relaying denied")
		}
		d.play("C: RCPT TO:<nobody@example.test>", "S: 550 5.1.1", "C: RCPT TO:<alice>", "S: 501 5.1.3",
			"C: RCPT TO:<@one.example,@two.example:alice@example.test>", "S: 250", "C: RSET", "S: 250")
	})
	t.Run("what is not for strangers", func(t *testing.T) {
		d := strangerTo(t, addr)
		d.play(greet...)
		d.play("C: MAIL FROM:<eve>", "S: 501 5.1.7", "C: MAIL FROM:eve@else.example", "S: 501 5.1.7", "C: VRFY alice",
			"S: 252", "C: EXPN alice", "S: 502",
			loginAlice, "S: 538", "C: XCLIENT ADDR=127.0.0.1", "S: 500", "C: TURN", "S: 502")
		d = strangerTo(t, port)
		d.play(greet...)
		d.play("C: MAIL FROM:<alice@example.test>", "S: 530 5.7.0", loginAlice, "S: 538")
	})
	t.Run("line ends", func(t *testing.T) {
		d := strangerTo(t, addr)
		d.raw("EHLO c\n")
		d.play("S: 220", "S: 500 5.5.2")
		d.play("C: EHLO c", "S: 250")
		for i, body := range []string{"a\n.\n", "a\n.\r\n", "a\r.\r", "a\r\n.\n", "a\r\n.\r", "bare\n"} {
			d.play("C: MAIL FROM:<eve@else.example>", "S: 250", "C: RCPT TO:<alice@example.test>", "S: 250", "C: DATA", "S: 354")
			d.raw(fmt.Sprintf("Subject: smuggled%d\r\n\r\n%sMAIL FROM:<x@y.example>\r\n.\r\nNOOP\r\n", i, body))
			d.play("S: 550 5.6.0", "S: 250 2.0.0 Ok")
		}
		require.Empty(t, c.inbox("alice@example.test"))
	})
	t.Run("a trusted client of bare LF that hangs up", func(t *testing.T) {
		conn, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		_, err = io.WriteString(conn,
			"HELO old\nMAIL FROM: <bob@example.test>\nRCPT TO: alice@example.test\nDATA\nSubject: old program\n\n..one\n.\n")
		require.NoError(t, err)
		in := textproto.NewConn(conn)
		for _, code := range []int{220, 250, 250, 250, 354, 250} {
			_, _, err := in.ReadResponse(code)
			require.NoError(t, err)
		}
		require.NoError(t, conn.Close())
		all := c.inbox("alice@example.test")
		require.True(t, strings.HasSuffix(all[len(all)-1], "Subject: old program\r\n\r\n.one\r\n"), all[len(all)-1])
	})
	t.Run("nothing of theirs is believed, nothing is mended but the gap", func(t *testing.T) {
		d := strangerTo(t, addr)
		d.play("S: 220", "C: EHLO [192.0.2.1] (evil)", "S: 250", "C: STARTTLS", "S: 220")
		conn := tls.Client(d.conn, &tls.Config{InsecureSkipVerify: true})
		require.NoError(t, conn.Handshake())
		d.conn, d.tp = conn, textproto.NewConn(conn)
		d.play("C: EHLO [192.0.2.1] (evil)", "S: 250", "C: MAIL FROM:<>", "S: 250", "C: RCPT TO:<Alice+tag@Example.Test>",
			"S: 250", "C: DATA", "S: 354")
		id := idOf(d.play("M: Subject: gap", "M: this is text", "M: .", "S: 250"))
		all := c.inbox("alice@example.test")
		got := all[len(all)-1]
		require.True(t, strings.HasSuffix(got, "\r\nSubject: gap\r\n\r\nthis is text\r\n"), got)
		require.True(t, strings.HasPrefix(got, "Return-Path: <>\r\nDelivered-To: alice@example.test\r\n"+
			"Authentication-Results: n1.example.test;\r\n\tspf=none smtp.helo=\"[192.0.2.1]??evil?\";\r\n\tdkim=none;\r\n"+
			"\tdmarc=permerror reason=\"no author's domain\"\r\n"+
			"Received: from "), got)
		require.Contains(t, got, "([127.0.0.9])\r\n\tby n1.example.test with ESMTPS id "+id+"\r\n\t(TLS 1.3 ")
		require.NotContains(t, got, "(evil)")
		for _, field := range []string{"\r\nDate: ", "\r\nMessage-ID: ", "\r\nFrom: "} {
			require.NotContains(t, got, field)
		}
		trace, err := c.Nodes[0].Client().Trace(ctx, id)
		require.NoError(t, err)
		require.Contains(t, trace.Events[0].TLS, "TLS 1.3", "%+v", trace.Events[0])
	})
	t.Run("postmaster", func(t *testing.T) {
		require.NoError(t, c.Nodes[0].Client().SetAlias(ctx, admin.By{Why: "test"},
			admin.Alias{Address: "postmaster@example.test", Targets: []string{"alice"}}))
		d := strangerTo(t, addr)
		d.play(greet...)
		d.play(append([]string{"C: MAIL FROM:<eve@else.example>", "S: 250", "C: RCPT TO:<Postmaster>", "S: 250"},
			letter("help")...)...)
	})
}

// TestAnnouncedSizeMeetsTheQuota: RCPT says what would only come out after DATA.
func TestAnnouncedSizeMeetsTheQuota(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	ctx := within(t, 3*time.Minute)
	quota := uint64(5000)
	require.NoError(t,
		c.Nodes[0].Client().SetUser(ctx, admin.By{Why: "test"}, "bob@example.test", admin.UserSet{QuotaBytes: &quota}))
	d := talkTo(t, c.Nodes[0].SMTP)
	d.play("C: MAIL FROM:<s@else.example> SIZE=6000", "S: 250", "C: RCPT TO:<bob@example.test>", "S: 452 4.2.2",
		"C: RCPT TO:<alice@example.test>", "S: 250", "C: RSET", "S: 250",
		"C: MAIL FROM:<s@else.example> SIZE=4000", "S: 250", "C: RCPT TO:<bob@example.test>", "S: 250", "C: RSET", "S: 250",
		"C: MAIL FROM:<s@else.example> SIZE=999999999", "S: 552 5.3.4")
}

// TestFullDiskIsNotFilled: below the watermark nothing is taken in, and reading goes on.
func TestFullDiskIsNotFilled(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: Quick(), Nodes: 1})
	c.Nodes[0].MustSend("bob@example.test", "alice@example.test", Letter("before"))
	c.Nodes[0].Stop()
	c.Nodes[0].conf.Storage.MinFree = config.Size(1) << 60
	c.Nodes[0].Start()
	c.Nodes[0].WaitReady()
	d := talkTo(t, c.Nodes[0].SMTP)
	c.Eventually(time.Minute, "mail is taken", func() bool {
		require.NoError(t, d.tp.PrintfLine("MAIL FROM:<bob@example.test>"))
		code, text, err := d.tp.ReadResponse(0)
		require.NoError(t, err)
		if code == 250 {
			d.play("C: RSET", "S: 250")
			return false
		}
		require.Equal(t, 452, code)
		require.Contains(t, text, "4.3.1")
		return true
	})
	require.Len(t, c.inbox("alice@example.test"), 1)
}

// TestFullSpoolIsNotFilled: the same for bounds on messages and octets.
func TestFullSpoolIsNotFilled(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1, Configure: func(_ int, conf *config.Config) {
		conf.Storage.MaxMessages, conf.Storage.MaxBytes = 2, 100*config.KB
	}})
	d := talkTo(t, c.Nodes[0].SMTP)
	from := []string{"C: MAIL FROM:<bob@example.test>", "S: 250", "C: RCPT TO:<alice@example.test>", "S: 250"}
	d.play(append(from, letter("one")...)...)
	d.play("C: MAIL FROM:<bob@example.test> SIZE=102400", "S: 452 4.3.1")
	d.play(append(from, letter("two")...)...)
	d.play("C: MAIL FROM:<bob@example.test>", "S: 452 4.3.1")
	ctx := within(t, 3*time.Minute)
	p, err := c.Nodes[0].Login(ctx, "alice@example.test")
	require.NoError(t, err)
	require.NoError(t, p.Dele(ctx, 1))
	require.NoError(t, p.Quit(ctx))
	d.play("C: MAIL FROM:<bob@example.test>", "S: 250", "C: RSET", "S: 250")
}

// TestLimitsAreOfTheNode: listeners count together.
func TestLimitsAreOfTheNode(t *testing.T) {
	t.Parallel()
	c, port := relay(t, func(conf *config.Config) { conf.Limits.ConnectionsPerClient, conf.Limits.ErrorsPerMinute = 2, 2 })
	a, b := strangerTo(t, c.Nodes[0].SMTP), strangerTo(t, port)
	a.play("S: 220")
	b.play("S: 220")
	strangerTo(t, port).play("S: 421")
	a.play("C: FROB", "S: 500")
	b.play("C: FROB", "S: 500", "C: FROB", "S: 500", "S: 421 4.7.0")
}

// TestStopLetsTransactionsEnd: a node that is told to stop answers for the message
// under way, and says 421 to the rest.
func TestStopLetsTransactionsEnd(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: Quick(), Nodes: 1})
	busy, idle := talkTo(t, c.Nodes[0].SMTP), talkTo(t, c.Nodes[0].SMTP)
	busy.play("C: MAIL FROM:<bob@example.test>", "S: 250", "C: RCPT TO:<alice@example.test>", "S: 250", "C: DATA",
		"S: 354", "M: Subject: last", "M: ")
	done := make(chan struct{})
	go func() { defer close(done); c.Nodes[0].Stop() }()
	idle.play("S: 421 4.3.2")
	idle.closed()
	id := idOf(busy.play("M: text", "M: .", "S: 250"))
	require.Len(t, id, 26)
	busy.play("S: 421 4.3.2")
	busy.closed()
	<-done
	c.Nodes[0].Start()
	c.Nodes[0].WaitReady()
	require.Contains(t, c.inbox("alice@example.test")[0], id)
}

// TestAliasLeadsOutOfSMTPUTF8: a message that needed SMTPUTF8 for its recipient's
// address only goes on to an address that does not, by a hop without it.
func TestAliasLeadsOutOfSMTPUTF8(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	ctx := within(t, 3*time.Minute)
	api, by := c.Nodes[0].Client(), admin.By{Why: "test"}
	h := newHop(t, smtp.ExtSMTPUTF8)
	require.NoError(t, api.SetRoute(ctx, by, admin.Route{Domain: "plain.example", Target: "smtp:" + h.addr}))
	require.NoError(t,
		api.SetAlias(ctx, by, admin.Alias{Address: "jürgen@example.test", Targets: []string{"j@plain.example"}}))
	d := talkTo(t, c.Nodes[0].SMTP)
	d.play(append([]string{
		"C: MAIL FROM:<s@else.example> SMTPUTF8", "S: 250", "C: RCPT TO:<jürgen@example.test>", "S: 250",
	}, letter("out")...)...)
	c.Eventually(time.Minute, "it did not arrive", func() bool { _, ok := h.message("j@plain.example"); return ok })
	id := idOf(d.play(append([]string{
		"C: MAIL FROM:<s@else.example> SMTPUTF8", "S: 250", "C: RCPT TO:<jürgen@plain.example>", "S: 250",
	}, letter("in")...)...))
	c.Eventually(time.Minute, "it was not refused", func() bool {
		trace, err := api.Trace(ctx, id)
		return err == nil && strings.Contains(fmt.Sprint(trace.Events), "5.6.7")
	})
}
