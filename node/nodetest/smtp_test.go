package nodetest

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/node/config"
	"relay/smtp"
	"relay/smtp/sasl"
)

// talk is a dialogue with a node's SMTP port: lines that begin with "C: " are
// said, those with "S: " must be the beginning of what comes back. Lines behind
// "C: DATA" that begin with "M: " are the message.
type talk struct {
	t    *testing.T
	conn net.Conn
	tp   *textproto.Conn
}

func talkTo(t *testing.T, addr string) *talk {
	t.Helper()
	var d *talk
	greeting := ""
	poll(time.Minute, func() bool { // a node without a majority, on a busy machine, is asked again
		conn, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(3 * time.Minute))
		d = &talk{t, conn, textproto.NewConn(conn)}
		greeting, err = d.tp.ReadLine()
		require.NoError(t, err)
		return !strings.Contains(greeting, "no majority of the cluster in reach")
	})
	require.Equal(t, "220", greeting[:3], greeting)
	d.play("C: EHLO client.test", "S: 250")
	return d
}

// play plays lines and returns the last reply.
func (d *talk) play(lines ...string) string {
	d.t.Helper()
	last := ""
	for _, line := range lines {
		text := line[3:]
		if line[:3] != "S: " {
			require.NoError(d.t, d.tp.PrintfLine("%s", text))
			continue
		}
		code, reply, err := d.tp.ReadResponse(0)
		require.NoError(d.t, err, "waiting for %q", text)
		last = fmt.Sprintf("%d %s", code, reply)
		require.True(d.t, strings.HasPrefix(last, text), "want %q, got %q", text, last)
	}
	return last
}

func (d *talk) startTLS() {
	d.t.Helper()
	d.play("C: STARTTLS", "S: 220")
	conn := tls.Client(d.conn, &tls.Config{InsecureSkipVerify: true})
	require.NoError(d.t, conn.Handshake())
	d.conn, d.tp = conn, textproto.NewConn(conn)
	d.play("C: EHLO client.test", "S: 250")
}

const loginAlice = "C: AUTH PLAIN AGFsaWNlQGV4YW1wbGUudGVzdABzZWNyZXQ=" // alice@example.test, secret

// letter is a message for play.
func letter(subject string) []string {
	return []string{
		"C: DATA", "S: 354", "M: From: alice@example.test", "M: Subject: " + subject, "M: Message-ID: <" + subject + "@test>",
		"M: ", "M: text", "M: .", "S: 250",
	}
}

func idOf(reply string) string {
	_, id, _ := strings.Cut(reply, "queued as ")
	return id
}

// relay starts one node with a submission port beside the other.
func relay(t *testing.T, more func(*config.Config)) (*Cluster, string) {
	submission := freeAddr(t)
	c := New(t, Options{Nodes: 1, Configure: func(_ int, conf *config.Config) {
		conf.SMTP[0].VRFY = true
		s := config.NewSMTP()
		s.Listen, s.Role, s.BounceUnknown = submission, config.RoleSubmission, true
		conf.SMTP = append(conf.SMTP, s)
		if more != nil {
			more(conf)
		}
	}})
	return c, submission
}

func (c *Cluster) inbox(user string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	p, err := c.Nodes[0].Login(ctx, user)
	require.NoError(c.t, err)
	defer func() { _ = p.Quit(ctx) }()
	var list []int
	require.NoError(c.t, p.List(ctx, func(n int, _ int64) { list = append(list, n) }))
	var all []string
	for _, n := range list {
		var b bytes.Buffer
		_, err := p.Retr(ctx, n, &b)
		require.NoError(c.t, err)
		all = append(all, b.String())
	}
	return all
}

func TestSubmissionExtensions(t *testing.T) {
	t.Parallel()
	// On a busy machine the clocks are in doubt for a moment: then nothing is given up until the next attempt.
	c, port := relay(t, func(conf *config.Config) { conf.Delivery.RetryFirst = config.Duration(time.Second) })
	ctx := within(t, 3*time.Minute)
	api := c.Nodes[0].Client()
	by := admin.By{Why: "test"}

	d := talkTo(t, port)
	d.play("C: MAIL FROM:<alice@example.test>", "S: 530 5.7.0", loginAlice, "S: 235")

	t.Run("a message for later waits, and says until when", func(t *testing.T) {
		id := idOf(d.play(append([]string{
			"C: MAIL FROM:<alice@example.test> HOLDFOR=3600 MT-PRIORITY=3", "S: 250", "C: RCPT TO:<x@far.example>", "S: 250",
		}, letter("later")...)...))
		m, err := api.Message(ctx, id)
		require.NoError(t, err)
		require.EqualValues(t, "queued", m.Recipients[0].State)
		next := m.Recipients[0].NextAttempt
		require.WithinDuration(t, time.Now().Add(time.Hour), next.Time, time.Minute)
		require.WithinDuration(t, time.Now().Add(time.Hour+5*24*time.Hour), m.Expires.Time, time.Minute)
		trace, err := api.Trace(ctx, id)
		require.NoError(t, err)
		require.Contains(t, trace.Events[0].Detail, "held until ")
		require.Contains(t, trace.Events[0].Detail, "priority 3")
		require.Empty(t, c.Sink.Got())
	})
	t.Run("a bound of time ends in a bounce", func(t *testing.T) {
		c.Sink.Answer(func(string) error { return smtp.NewReply(450, "4.2.0", "later") })
		defer c.Sink.Answer(nil)
		d.play(append([]string{"C: MAIL FROM:<alice@example.test> BY=1;R", "S: 250", "C: RCPT TO:<y@far.example>", "S: 250"},
			letter("soon")...)...)
		c.Eventually(time.Minute, "no bounce", func() bool {
			return slices.ContainsFunc(c.inbox("alice@example.test"), func(s string) bool {
				return strings.Contains(s, "<y@far.example>") && strings.Contains(s, "Action: failed")
			})
		})
	})
	t.Run("success at a mailbox is reported where asked for", func(t *testing.T) {
		d.play(append([]string{"C: MAIL FROM:<alice@example.test> RET=HDRS ENVID=QQ314", "S: 250",
			"C: RCPT TO:<bob@example.test> NOTIFY=SUCCESS ORCPT=rfc822;Bob@example.test", "S: 250"}, letter("success")...)...)
		all := c.inbox("alice@example.test")
		report := all[len(all)-1]
		require.Contains(t, report, "Action: delivered")
		require.Contains(t, report, "Original-Envelope-Id: QQ314")
		require.Contains(t, report, "Original-Recipient: rfc822; Bob@example.test")
		require.Contains(t, report, "Return-Path: <>")
	})
	t.Run("unknown users are accepted and bounced", func(t *testing.T) {
		id := idOf(d.play(append([]string{
			"C: MAIL FROM:<alice@example.test>", "S: 250", "C: RCPT TO:<nobody@example.test>", "S: 250",
		}, letter("unknown")...)...))
		require.NotEmpty(t, id)
		all := c.inbox("alice@example.test")
		require.Contains(t, all[len(all)-1], "Subject: ERROR - Your email was not sent")
		require.Contains(t, all[len(all)-1], "Status: 5.1.1")
		d.play("C: MAIL FROM:<>", "S: 250", "C: RCPT TO:<nobody@example.test>", "S: 550 5.1.1", "C: RSET", "S: 250")
	})
	t.Run("headers are added where they are missing", func(t *testing.T) {
		d.play("C: MAIL FROM:<alice@example.test>", "S: 250", "C: RCPT TO:<bob@example.test>", "S: 250",
			"C: DATA", "S: 354", "M: Subject: bare", "M: ", "M: text", "M: .", "S: 250")
		all := c.inbox("bob@example.test")
		for _, field := range []string{"\r\nDate: ", "\r\nMessage-ID: <", "\r\nFrom: <alice@example.test>"} {
			require.Contains(t, all[len(all)-1], field)
		}
	})
	t.Run("a sender is one's own", func(t *testing.T) {
		d.play("C: MAIL FROM:<bob@example.test>", "S: 550 5.7.1", "C: MAIL FROM:<Alice+tag@Example.TEST>", "S: 250",
			"C: RSET", "S: 250")
	})
	t.Run("a day's limit", func(t *testing.T) {
		two := uint64(2)
		require.NoError(t, api.AddUser(ctx, by, admin.UserAdd{Address: "carol@example.test", Password: "secret"}))
		require.NoError(t, api.SetUser(ctx, by, "carol@example.test", admin.UserSet{SendLimitDay: &two}))
		d := talkTo(t, port)
		d.play("C: AUTH PLAIN AGNhcm9sQGV4YW1wbGUudGVzdABzZWNyZXQ=", "S: 235", "C: MAIL FROM:<carol@example.test>", "S: 250",
			"C: RCPT TO:<alice@example.test>", "S: 250", "C: RCPT TO:<bob@example.test>", "S: 250",
			"C: RCPT TO:<x@far.example>", "S: 450 4.7.1")
		d.play("C: DATA", "S: 354", "M: From: carol@example.test", "M: ", "M: text", "M: .", "S: 250")
		d.play("C: MAIL FROM:<carol@example.test>", "S: 250", "C: RCPT TO:<bob@example.test>", "S: 450 4.7.1")
	})
	t.Run("SCRAM", func(t *testing.T) {
		for _, secure := range []bool{false, true} {
			conn, err := net.Dial("tcp", port)
			require.NoError(t, err)
			cl, err := smtp.NewClient(ctx, conn, smtp.ClientOptions{Hostname: "client.test"})
			require.NoError(t, err)
			if secure {
				require.NoError(t, cl.StartTLS(ctx, &tls.Config{InsecureSkipVerify: true}))
				state, _ := cl.TLS()
				require.ErrorContains(t, cl.Auth(ctx, sasl.NewScramClient("alice@example.test", "secret", &state)), "504",
					"-PLUS is not listed")
			}
			require.Error(t, cl.Auth(ctx, sasl.NewScramClient("alice@example.test", "wrong", nil)))
			require.NoError(t, cl.Auth(ctx, sasl.NewScramClient("alice@example.test", "secret", nil)))
			replies, err := cl.Send(ctx, &smtp.Envelope{
				From: "bob@example.test", To: []smtp.Rcpt{{Address: "bob@example.test"}},
			}, strings.NewReader("Subject: x\r\n\r\n"), nil)
			require.NoError(t, err)
			require.Equal(t, 550, replies[0].Code, "the session knows who it is")
			_ = cl.Close()
		}
	})
}

func TestRequireTLSIsKept(t *testing.T) {
	t.Parallel()
	c, port := relay(t, nil)
	d := talkTo(t, port)
	d.play(loginAlice, "S: 235", "C: MAIL FROM:<alice@example.test> REQUIRETLS", "S: 555")
	d = talkTo(t, port)
	d.startTLS()
	d.play(loginAlice, "S: 235")
	d.play(append([]string{
		"C: MAIL FROM:<alice@example.test> REQUIRETLS", "S: 250", "C: RCPT TO:<x@far.example>", "S: 250",
	}, letter("secret")...)...)
	c.Eventually(time.Minute, "no bounce", func() bool {
		return slices.ContainsFunc(c.inbox("alice@example.test"), func(s string) bool {
			return strings.Contains(s, "5.7.30") && !strings.Contains(s, "\r\ntext\r\n")
		})
	})
	require.Empty(t, c.Sink.Got())
}

func TestSentAgainToAnotherNodeIsTheFirst(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 2})
	to := []string{
		"C: MAIL FROM:<s@far.example>", "S: 250", "C: RCPT TO:<alice@example.test>", "S: 250",
		"C: RCPT TO:<x@near.example>", "S: 250",
	}
	first := idOf(talkTo(t, c.Nodes[0].SMTP).play(append(to, letter("once")...)...))
	again := idOf(talkTo(t, c.Nodes[1].SMTP).play(append(to, letter("once")...)...))
	require.Equal(t, first, again)
	require.NotEqual(t, first, idOf(talkTo(t, c.Nodes[1].SMTP).play(append(to[:4:4], letter("once")...)...)),
		"another envelope")
	bare := append(to[:4:4], "C: DATA", "S: 354", "M: Subject: bare", "M: ", "M: .", "S: 250")
	require.NotEqual(t, idOf(talkTo(t, c.Nodes[0].SMTP).play(bare...)), idOf(talkTo(t, c.Nodes[1].SMTP).play(bare...)),
		"without a Message-ID")

	large := append(to[:4:4], "C: DATA", "S: 354", "M: Subject: large", "M: Message-ID: <large@test>", "M: ")
	for range 6000 {
		large = append(large, "M: "+strings.Repeat("x", 90))
	}
	large = append(large, "M: .", "S: 250")
	require.Equal(t, idOf(talkTo(t, c.Nodes[0].SMTP).play(large...)), idOf(talkTo(t, c.Nodes[1].SMTP).play(large...)))
	require.Len(t, c.inbox("alice@example.test"), 5)
	c.Verify()
}

func TestListsAliasesAndQuotas(t *testing.T) {
	t.Parallel()
	c, port := relay(t, nil)
	ctx := within(t, 3*time.Minute)
	api, by := c.Nodes[0].Client(), admin.By{Why: "test"}
	for _, a := range []admin.Alias{
		{Address: "news@example.test", Targets: []string{"bob", "n1@far.example", "inner@example.test"},
			Owner: "news-owner@example.test"},
		{Address: "inner@example.test", Targets: []string{
			"n2@far.example", "n1@far.example", "news@example.test", "gone@example.test",
		}},
		{Address: "other@example.test", Targets: []string{"o1@far.example", "bob"}, Owner: "other-owner@example.test"},
		{Address: "forward@example.test", Targets: []string{"f@far.example"}},
		{Address: "loop@example.test", Targets: []string{"loop2@example.test"}},
		{Address: "loop2@example.test", Targets: []string{"loop@example.test"}},
	} {
		require.NoError(t, api.SetAlias(ctx, by, a))
	}
	d := talkTo(t, c.Nodes[0].SMTP)
	t.Run("owners of several lists in one transaction", func(t *testing.T) {
		d.play(append([]string{"C: MAIL FROM:<s@else.example>", "S: 250", "C: RCPT TO:<News@Example.Test>", "S: 250",
			"C: RCPT TO:<other@example.test>", "S: 250",
			"C: RCPT TO:<Forward+tag@example.test>", "S: 250", "C: RCPT TO:<loop@example.test>", "S: 550 5.4.6"},
			letter("lists")...)...)
		require.NoError(t, c.Sink.Wait(ctx, 4))
		from := map[string]string{}
		for _, g := range c.Sink.Got() {
			require.NotContains(t, from, g.To, "each once")
			from[g.To] = g.From
		}
		require.Equal(t, map[string]string{"n1@far.example": "news-owner@example.test",
			"n2@far.example": "news-owner@example.test",
			"o1@far.example": "other-owner@example.test", "f@far.example": "s@else.example"}, from)
		box := c.inbox("bob@example.test")
		require.Len(t, box, 1)
		require.Contains(t, box[0], "Return-Path: <news-owner@example.test>")
		c.Verify()
	})
	t.Run("VRFY and EXPN", func(t *testing.T) {
		d.play("C: VRFY BOB", "S: 250 2.1.5 <bob@example.test>", "C: VRFY news@example.test",
			"S: 250 2.1.5 <news@example.test>",
			"C: VRFY nobody", "S: 550 5.1.1", "C: VRFY x@far.example", "S: 252", "C: EXPN nobody", "S: 550")
		require.Equal(t, 3, strings.Count(d.play("C: EXPN news", "S: 250"), "<"))
	})
	t.Run("quotas at RCPT and at DATA", func(t *testing.T) {
		quota := uint64(2000)
		require.NoError(t, api.SetUser(ctx, by, "bob@example.test", admin.UserSet{QuotaBytes: &quota}))
		big := []string{
			"C: DATA", "S: 354", "M: Subject: big", "M: ", "M: " + strings.Repeat("x", 900),
			"M: " + strings.Repeat("x", 900), "M: .",
		}
		d.play(append([]string{"C: MAIL FROM:<alice@example.test>", "S: 250", "C: RCPT TO:<bob@example.test>", "S: 250"},
			append(big, "S: 452 4.2.2")...)...)
		d.play(append([]string{"C: MAIL FROM:<alice@example.test>", "S: 250", "C: RCPT TO:<bob@example.test>", "S: 250",
			"C: RCPT TO:<alice@example.test>", "S: 250"}, append(big, "S: 250")...)...)
		all := c.inbox("alice@example.test")
		require.Len(t, all, 2, "the message, and the report on bob")
		require.True(t, strings.Contains(all[0]+all[1], "5.2.2"))
		one := uint64(1)
		require.NoError(t, api.SetUser(ctx, by, "bob@example.test", admin.UserSet{QuotaMessages: &one}))
		d.play("C: MAIL FROM:<alice@example.test>", "S: 250", "C: RCPT TO:<bob@example.test>", "S: 452 4.2.2",
			"C: RSET", "S: 250")
		off := true
		require.NoError(t, api.SetUser(ctx, by, "bob@example.test", admin.UserSet{Disabled: &off}))
		d.play("C: MAIL FROM:<alice@example.test>", "S: 250", "C: RCPT TO:<bob@example.test>", "S: 550 5.2.1",
			"C: RSET", "S: 250")
	})
	t.Run("addresses beyond ASCII", func(t *testing.T) {
		require.NoError(t, api.AddDomain(ctx, by, admin.Domain{Name: "bücher.test"}))
		require.NoError(t, api.AddUser(ctx, by, admin.UserAdd{Address: "jörg@bücher.test", Password: "secret"}))
		d.play("C: MAIL FROM:<s@else.example>", "S: 250", "C: RCPT TO:<jörg@bücher.test>", "S: 553 5.6.7",
			"C: RSET", "S: 250")
		for _, to := range []string{"jörg@bücher.test", "JO\u0308RG@xn--bcher-kva.TEST"} {
			d.play(append([]string{"C: MAIL FROM:<s@else.example> SMTPUTF8", "S: 250", "C: RCPT TO:<" + to + ">", "S: 250"},
				letter("utf8"+to[:2])...)...)
		}
		list, err := api.Mailbox(ctx, "jörg@bücher.test")
		require.NoError(t, err)
		require.EqualValues(t, 2, list.Messages)
	})
	t.Run("loops", func(t *testing.T) {
		hops := []string{
			"C: MAIL FROM:<s@else.example>", "S: 250", "C: RCPT TO:<alice@example.test>", "S: 250", "C: DATA", "S: 354",
		}
		for range 101 {
			hops = append(hops, "M: Received: from a by b; date")
		}
		d.play(append(hops, "M: ", "M: .", "S: 554 5.4.6")...)
		d.play("C: MAIL FROM:<s@else.example>", "S: 250", "C: RCPT TO:<alice@example.test>", "S: 250", "C: DATA", "S: 354",
			"M: Delivered-To: Alice@example.test", "M: ", "M: .", "S: 554 5.4.6")
	})
	_ = port
}

func TestETRNStartsWhatWaits(t *testing.T) {
	t.Parallel()
	c, _ := relay(t, nil)
	ctx := within(t, 3*time.Minute)
	require.NoError(t, c.Nodes[0].Client().SetRoute(ctx, admin.By{Why: "test"},
		admin.Route{Domain: "dialup.example", Target: "smtp:" + c.Sink.Addr}))
	c.Sink.Answer(func(string) error { return smtp.NewReply(450, "4.2.0", "later") })
	d := talkTo(t, c.Nodes[0].SMTP)
	id := idOf(d.play(append([]string{
		"C: MAIL FROM:<s@else.example>", "S: 250", "C: RCPT TO:<x@dialup.example>", "S: 250",
	}, letter("waits")...)...))
	c.Eventually(time.Minute, "not tried", func() bool {
		m, err := c.Nodes[0].Client().Message(ctx, id)
		return err == nil && m.Recipients[0].Attempts > 0
	})
	c.Sink.Answer(nil)
	d.play("C: ETRN other.example", "S: 459", "C: ETRN #q", "S: 459", "C: ETRN", "S: 501",
		"C: ETRN dialup.example", "S: 253")
	require.NoError(t, c.Sink.Wait(ctx, 1))
	c.Eventually(time.Minute, "still waits", func() bool {
		_, err := c.Nodes[0].Client().Message(ctx, id)
		return err != nil
	})
	d.play("C: ETRN dialup.example", "S: 251")
}

// TestLoginEndsWithItsAccount: a session does not outlive what its login was
// worth, and follows what else is changed about the account.
func TestLoginEndsWithItsAccount(t *testing.T) {
	t.Parallel()
	c, port := relay(t, nil)
	ctx := within(t, 3*time.Minute)
	api, by := c.Nodes[0].Client(), admin.By{Why: "test"}
	login := func(user, secret string) *talk {
		d := talkTo(t, port)
		d.play("C: AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+secret)), "S: 235")
		return d
	}
	scram := func(user, secret string) *smtp.Client {
		conn, err := net.Dial("tcp", port)
		require.NoError(t, err)
		cl, err := smtp.NewClient(ctx, conn, smtp.ClientOptions{Hostname: "client.test"})
		require.NoError(t, err)
		t.Cleanup(func() { _ = cl.Close() })
		require.NoError(t, cl.Auth(ctx, sasl.NewScramClient(user, secret, nil)))
		return cl
	}
	refused := func(cl *smtp.Client, from string) {
		t.Helper()
		replies, err := cl.Send(ctx, &smtp.Envelope{From: from, To: []smtp.Rcpt{{Address: "x@far.example"}}},
			strings.NewReader("Subject: x\r\n\r\n"), nil)
		require.Error(t, err, "the connection ends")
		require.Equal(t, 421, replies[0].Code)
	}
	add := func(user string) {
		require.NoError(t, api.AddUser(ctx, by, admin.UserAdd{Address: user, Password: "secret"}))
	}
	for _, user := range []string{"carol@example.test", "dora@example.test", "emil@example.test"} {
		add(user)
	}

	d := login("carol@example.test", "secret")
	d.play("C: MAIL FROM:<carol.c@example.test>", "S: 550 5.7.1")
	senders := []string{"carol.c@example.test"}
	require.NoError(t, api.SetUser(ctx, by, "carol@example.test", admin.UserSet{Senders: &senders}))
	d.play("C: MAIL FROM:<carol.c@example.test>", "S: 250", "C: RSET", "S: 250")

	byScram := scram("carol@example.test", "secret")
	off := true
	require.NoError(t, api.SetUser(ctx, by, "carol@example.test", admin.UserSet{Disabled: &off}))
	d.play("C: MAIL FROM:<carol@example.test>", "S: 421 4.7.0")
	d.closed()
	refused(byScram, "carol@example.test")

	d, byScram = login("dora@example.test", "secret"), scram("dora@example.test", "secret")
	another := "another"
	require.NoError(t, api.SetUser(ctx, by, "dora@example.test", admin.UserSet{Password: &another}))
	d.play("C: MAIL FROM:<dora@example.test>", "S: 421 4.7.0")
	d.closed()
	refused(byScram, "dora@example.test")
	login("dora@example.test", "another").play("C: MAIL FROM:<dora@example.test>", "S: 250")

	d = login("emil@example.test", "secret")
	_, err := api.RemoveUser(ctx, by, "emil@example.test", admin.DropOptions{})
	require.NoError(t, err)
	d.play("C: MAIL FROM:<emil@example.test>", "S: 421 4.7.0")
	d.closed()
}

// TestXClientSpeaksForALogin: LOGIN is worth what AUTH would be.
func TestXClientSpeaksForALogin(t *testing.T) {
	t.Parallel()
	c, port := relay(t, func(conf *config.Config) {
		for i := range conf.SMTP {
			conf.SMTP[i].XClient = []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}
		}
	})
	for _, addr := range []string{c.Nodes[0].SMTP, port} {
		d := strangerTo(t, addr)
		d.play("S: 220", "C: EHLO front", "S: 250", "C: XCLIENT ADDR=192.0.2.7 LOGIN=alice", "S: 220",
			"C: EHLO front", "S: 250",
			"C: MAIL FROM:<bob@example.test>", "S: 550 5.7.1", "C: MAIL FROM:<alice@example.test>", "S: 250",
			"C: RCPT TO:<x@far.example>", "S: 250")
		id := idOf(d.play(letter("front")...))
		m, err := c.Nodes[0].Client().Trace(within(t, 3*time.Minute), id)
		require.NoError(t, err)
		require.Equal(t, "alice@example.test", m.Client.User)
		d.play("C: XCLIENT ADDR=192.0.2.8 LOGIN=nobody", "S: 220", "C: EHLO front", "S: 250")
		if addr == port {
			d.play("C: MAIL FROM:<x@y.example>", "S: 530 5.7.0")
		} else {
			d.play("C: MAIL FROM:<x@y.example>", "S: 250", "C: RCPT TO:<x@far.example>", "S: 550 5.7.1")
		}
	}
	d := talkTo(t, port)
	d.play("C: XCLIENT LOGIN=alice", "S: 550 5.7.1")
}

// TestMailForLaterWaitsForMailboxesToo: FUTURERELEASE holds for local recipients
// as for remote ones, whatever becomes of the node that took the message.
func TestMailForLaterWaitsForMailboxesToo(t *testing.T) {
	t.Parallel()
	submission := freeAddr(t)
	c := New(t, Options{Tuning: Quick(), Nodes: 3, Configure: func(i int, conf *config.Config) {
		if i == 2 {
			s := config.NewSMTP()
			s.Listen, s.Role = submission, config.RoleSubmission
			conf.SMTP = append(conf.SMTP, s)
		}
	}})
	ctx := within(t, 3*time.Minute)
	api, by := c.Nodes[0].Client(), admin.By{Why: "test"}
	for _, user := range []string{"carol@example.test", "dora@example.test"} {
		require.NoError(t, api.AddUser(ctx, by, admin.UserAdd{Address: user, Password: "secret"}))
	}
	require.NoError(t, api.SetAlias(ctx, by, admin.Alias{
		Address: "list@example.test", Targets: []string{"bob", "dora", "x@far.example"}, Owner: "alice@example.test",
	}))
	c.WaitHealthy()
	count := func(user string) uint64 {
		box, err := api.Mailbox(ctx, user)
		require.NoError(t, err)
		return box.Messages
	}

	d := talkTo(t, submission)
	d.play(loginAlice, "S: 235")
	d.play(append([]string{"C: MAIL FROM:<alice@example.test> HOLDFOR=8 ENVID=later1", "S: 250",
		"C: RCPT TO:<bob+tag@example.test> NOTIFY=SUCCESS", "S: 250",
		"C: RCPT TO:<carol@example.test>", "S: 250", "C: RCPT TO:<list@example.test>", "S: 250"}, letter("later")...)...)
	due := time.Now().Add(8 * time.Second)
	list, _, err := api.Queue(ctx, admin.QueuePage{})
	require.NoError(t, err)
	waiting := 0
	for _, m := range list {
		for _, r := range m.Recipients {
			require.EqualValues(t, "queued", r.State)
			require.WithinDuration(t, due, r.NextAttempt.Time, 4*time.Second)
			waiting++
		}
	}
	require.Equal(t, 4, waiting, "bob once, carol, dora, x")
	for _, user := range []string{"alice@example.test", "bob@example.test", "carol@example.test", "dora@example.test"} {
		require.Zero(t, count(user), user)
	}
	require.Less(t, time.Now(), due, "too slow a machine to tell")

	c.Nodes[2].Kill()
	_, err = api.RemoveUser(ctx, by, "carol@example.test", admin.DropOptions{})
	require.NoError(t, err)
	arrived := func() string {
		return fmt.Sprintf("bob %d, dora %d, alice %d, x %d",
			count("bob@example.test"), count("dora@example.test"), count("alice@example.test"), len(c.Sink.Got()))
	}
	if !poll(time.Minute, func() bool { return arrived() == "bob 1, dora 1, alice 2, x 1" }) {
		list, _, err := api.Queue(ctx, admin.QueuePage{})
		require.Fail(t, "it never arrives", "%s; queue: %+v %v", arrived(), list, err)
	}
	require.GreaterOrEqual(t, time.Now(), due.Add(-time.Second))
	bob := c.inbox("bob@example.test")[0]
	require.True(t, strings.HasPrefix(bob,
		"Return-Path: <alice@example.test>\r\nDelivered-To: bob@example.test\r\nReceived: "), bob)
	reports := strings.Join(c.inbox("alice@example.test"), "\x00")
	require.Contains(t, reports, "Action: delivered")
	require.Contains(t, reports, "Final-Recipient: rfc822; bob+tag@example.test")
	require.Contains(t, reports, "Original-Envelope-Id: later1")
	require.Contains(t, reports, "Final-Recipient: rfc822; carol@example.test")
	require.Contains(t, reports, "Status: 5.1.1")
	c.Nodes[2].Start()
	c.WaitHealthy()
	c.Verify()
}
