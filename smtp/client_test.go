package smtp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"relay/smtp/sasl"
)

// dial connects a client to one of our own servers.
func dial(t *testing.T, addr string, o ClientOptions) *Client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	o.Hostname = "client.example"
	c, err := NewClient(t.Context(), conn, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// hop is a next hop that follows a script: for each line that begins with a key
// of the script, in order, its answer. It returns a client's connection to it,
// and what the client said, after the connection ended.
func hop(t *testing.T, greeting string, steps ...[2]string) (net.Conn, func() string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	said := make(chan string, 1)
	go func() {
		var heard bytes.Buffer
		defer func() { said <- heard.String() }()
		conn, err := l.Accept()
		_ = l.Close()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		in := bufio.NewReader(io.TeeReader(conn, &heard))
		_, _ = io.WriteString(conn, greeting)
		for _, step := range steps {
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if strings.HasPrefix(line, step[0]) {
					break
				}
			}
			if step[1] == "CLOSE" {
				return
			}
			_, _ = io.WriteString(conn, step[1])
		}
		_, _ = io.Copy(io.Discard, in)
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	return conn, func() string {
		_ = conn.Close()
		return <-said
	}
}

// talk makes a client of a scripted hop that says hello as told.
func talk(t *testing.T, ehlo string, steps ...[2]string) (*Client, func() string) {
	t.Helper()
	conn, said := hop(t, "220 hi\r\n", append([][2]string{{"EHLO", ehlo}}, steps...)...)
	c, err := NewClient(t.Context(), conn, ClientOptions{Hostname: "me"})
	require.NoError(t, err)
	return c, said
}

func to(addresses ...string) []Rcpt {
	var list []Rcpt
	for _, a := range addresses {
		list = append(list, Rcpt{Address: a})
	}
	return list
}

func codes(replies []*Reply) (list []string) {
	for _, r := range replies {
		list = append(list, r.Error())
	}
	return list
}

func TestClientAndServer(t *testing.T) {
	for name, o := range map[string]ClientOptions{"dots": {}, "chunks": {Chunking: true}} {
		for ways, without := range map[string]Extension{"pipelined": 0, "stepwise": ExtPipelining} {
			t.Run(name+" "+ways, func(t *testing.T) {
				b := &testBackend{}
				_, addr := start(t, ServerConfig{Backend: fullBackend{b}, Without: without})
				c := dial(t, addr, o)
				body := "Subject: x\r\n\r\n.dot\r\n..\r\n" + strings.Repeat("long line\r\n.\r\n", 20000)
				for range 2 {
					replies, err := c.Send(t.Context(), &Envelope{
						From: "ann@client.example", To: to("bob@example.test", "nobody@example.test", "ann@example.test"),
						Size: int64(len(body)), Options: MailOptions{Body: Body8BitMIME, Ret: "HDRS", EnvID: "a b"},
					}, iotest.HalfReader(strings.NewReader(body)), func() error { return nil })
					require.NoError(t, err)
					require.Equal(t, 250, replies[0].Code)
					require.Contains(t, replies[0].Text, "Ok: queued as M")
					require.Equal(t, "550 5.1.1 No such user here", replies[1].Error())
					require.Same(t, replies[0], replies[2])
					m, _ := b.last()
					require.Equal(t, body, m.body)
					require.Equal(t, "a b", m.opts.EnvID)
				}
				require.NoError(t, c.Reset(t.Context()))
				require.NoError(t, c.Quit(t.Context()))
			})
		}
	}
}

func TestClientNoRecipients(t *testing.T) {
	for _, o := range []ClientOptions{{}, {Chunking: true}} {
		for _, without := range []Extension{0, ExtPipelining} {
			_, addr := start(t, ServerConfig{Backend: &testBackend{}, Without: without})
			c := dial(t, addr, o)
			send := func(from string, rcpt ...string) []string {
				replies, err := c.Send(t.Context(), &Envelope{From: from, To: to(rcpt...)}, strings.NewReader("x"), func() error {
					return errors.New("never")
				})
				require.NoError(t, err)
				return codes(replies)
			}
			require.Equal(t, []string{"550 5.1.1 No such user here"}, send("a@b", "no@example.test"))
			require.Equal(t, []string{"550 5.7.1 Go away", "550 5.7.1 Go away"},
				send("spammer@b", "ann@example.test", "bob@example.test"))
			require.Equal(t, []string{"550 5.1.1 No such user here"}, send("a@b", "no@example.test"))
			require.NoError(t, c.Quit(t.Context()))
		}
	}
}

func TestClientManyRecipients(t *testing.T) {
	b := &testBackend{}
	_, addr := start(t, ServerConfig{Backend: b, MaxRecipients: 700})
	c := dial(t, addr, ClientOptions{})
	require.Equal(t, 700, c.MaxRecipients())
	var list []string
	for range 701 {
		list = append(list, "ann@example.test")
	}
	replies, err := c.Send(t.Context(), &Envelope{To: to(list...)}, strings.NewReader("x"), nil)
	require.NoError(t, err)
	require.Equal(t, 250, replies[699].Code)
	require.Equal(t, 452, replies[700].Code)
	m, _ := b.last()
	require.Len(t, m.to, 700)
	require.Equal(t, "x\r\n", m.body)
}

func TestClientTLSAndAuth(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		serverTLS, clientTLS := testTLS(t)
		serverTLS.MaxVersion = version
		b := &testBackend{}
		_, addr := start(t, ServerConfig{
			Backend: fullBackend{b}, TLS: serverTLS, RequireAuth: true, MaxErrors: 100, Mechanisms: sasl.Names(),
		})
		c := dial(t, addr, ClientOptions{})
		var r *Reply
		require.ErrorAs(t, c.Auth(t.Context(), sasl.NewPlainClient("ann", "secret")), &r)
		require.Equal(t, 538, r.Code)
		require.NoError(t, c.StartTLS(t.Context(), clientTLS))
		state, on := c.TLS()
		require.True(t, on)
		require.Equal(t, version, state.Version)
		for _, mech := range []sasl.Client{
			sasl.NewPlainClient("ann", "wrong"),
			sasl.NewScramClient("ann", "wrong", nil), sasl.NewScramClient("joe", "secret", nil),
			sasl.NewScramClient("joe", "secret", &state),
		} {
			require.ErrorAs(t, c.Auth(t.Context(), mech), &r)
			require.Equal(t, 535, r.Code, r.Text)
		}
		require.NoError(t, c.Auth(t.Context(), sasl.NewScramClient("ann", "secret", &state)))
		replies, err := c.Send(t.Context(), &Envelope{
			From: "ann@example.test", To: to("x@elsewhere.example"),
			Options: MailOptions{RequireTLS: true, Auth: "ann@example.test"},
		}, strings.NewReader("x"), nil)
		require.NoError(t, err)
		require.Equal(t, 250, replies[0].Code, replies[0].Text)
		m, _ := b.last()
		require.Equal(t, "ESMTPSA", m.proto)
		require.True(t, m.opts.RequireTLS)
		require.Equal(t, "ann@example.test", m.opts.Auth)
	}
}

func TestScramWithoutBinding(t *testing.T) {
	_, addr := start(t, ServerConfig{Backend: fullBackend{&testBackend{}}, Trusted: all})
	c := dial(t, addr, ClientOptions{})
	require.NoError(t, c.Auth(t.Context(), sasl.NewScramClient("ann", "secret", nil)))
}

// A wrong proof is 535 only where the Session says so.
func TestScramDisproven(t *testing.T) {
	srv, addr := start(t, ServerConfig{
		Backend: fullBackend{&testBackend{}}, Trusted: all, AuthDelay: func(netip.Addr, error) time.Duration { return 0 },
	})
	for user, want := range map[string]string{"ann": "535 5.7.8", "nobody": "535 5.7.8", "eve": "454 4.7.0"} {
		c := dial(t, addr, ClientOptions{})
		require.ErrorContains(t, c.Auth(t.Context(), sasl.NewScramClient(user, "wrong", nil)), want)
	}
	require.EqualValues(t, 2, srv.Stats().AuthFailed.Load())
}

func TestClientRefusesBySelf(t *testing.T) {
	c, said := talk(t, "250-hi\r\n250-PIPELINING\r\n250 SIZE 100\r\n")
	for want, e := range map[string]*Envelope{
		"552 5.3.4":  {Size: 101},
		"550 5.6.9":  {Options: MailOptions{UTF8: true}},
		"553 5.6.7":  {From: "ü@b"},
		"554 5.6.3":  {Options: MailOptions{Body: Body8BitMIME}},
		"550 5.7.30": {Options: MailOptions{RequireTLS: true}},
		"550 5.3.3":  {Options: MailOptions{DeliverBy: &DeliverBy{Return: true}}},
	} {
		e.To = to("x@y", "z@y")
		replies, err := c.Send(t.Context(), e, nil, nil)
		require.NoError(t, err)
		require.Len(t, replies, 2)
		for _, r := range replies {
			require.Contains(t, r.Error(), want)
		}
	}
	replies, err := c.Send(t.Context(), &Envelope{To: to("ü@y", "a\r\nb@y", "")}, nil, nil)
	require.NoError(t, err)
	require.Equal(t, 553, replies[0].Code)
	require.Equal(t, 553, replies[1].Code)
	require.Equal(t, 553, replies[2].Code)
	require.Equal(t, "EHLO me\r\n", said())
	require.Equal(t, "554 5.6.3",
		(&Client{ext: map[string]string{"BINARYMIME": ""}}).lackingBody(BodyBinaryMIME).Error()[:9])
}

func TestClientHeloFallback(t *testing.T) {
	conn, said := hop(t, "220 hi\r\n", [2]string{"EHLO", "502 what?\r\n"}, [2]string{"HELO", "250 hi\r\n"},
		[2]string{"MAIL", "250 ok\r\n"}, [2]string{"RCPT", "250 ok\r\n"}, [2]string{"DATA", "354 go\r\n"},
		[2]string{".", "250 done\r\n"})
	c, err := NewClient(t.Context(), conn, ClientOptions{Hostname: "me"})
	require.NoError(t, err)
	replies, err := c.Send(t.Context(), &Envelope{From: "a@b", To: to("c@d"), Size: 9, Options: MailOptions{EnvID: "x"}},
		strings.NewReader(".x"), nil)
	require.NoError(t, err)
	require.Equal(t, []string{"250 done"}, codes(replies))
	require.Equal(t, "EHLO me\r\nHELO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n..x\r\n.\r\n", said())
}

func TestClientRefused(t *testing.T) {
	for _, greeting := range []string{
		"554 no\r\n", "421 4.3.2 later\r\n", "220-a\r\n250 b\r\n", "250 what\r\n", "hello\r\n", "", "\x00\x00\x00\n",
		"220 " + strings.Repeat("x", 5000),
	} {
		conn, said := hop(t, greeting)
		_, err := NewClient(t.Context(), conn, ClientOptions{Hostname: "me", GreetingTimeout: 50 * time.Millisecond})
		require.Error(t, err, greeting)
		var r *Reply
		if errors.As(err, &r) {
			require.GreaterOrEqual(t, r.Code, 400)
		}
		require.Empty(t, said())
	}
}

func TestClientCutsOnBodyError(t *testing.T) {
	for _, chunking := range []bool{false, true} {
		b := &testBackend{}
		_, addr := start(t, ServerConfig{Backend: b})
		c := dial(t, addr, ClientOptions{Chunking: chunking})
		broken := io.MultiReader(strings.NewReader("begin\r\n"), iotest.ErrReader(errors.New("disk on fire")))
		replies, err := c.Send(t.Context(), &Envelope{To: to("bob@example.test")}, broken, nil)
		require.ErrorContains(t, err, "disk on fire")
		require.Equal(t, 451, replies[0].Code)
		require.NotErrorIs(t, replies[0], ErrMaybeSent)
		_, err = c.Send(t.Context(), &Envelope{To: to("bob@example.test")}, strings.NewReader("x"), nil)
		require.Error(t, err)

		c = dial(t, addr, ClientOptions{Chunking: chunking})
		replies, err = c.Send(t.Context(), &Envelope{To: to("bob@example.test")}, strings.NewReader("x"),
			func() error { return errors.New("not ours") })
		require.ErrorContains(t, err, "not ours")
		require.Equal(t, 451, replies[0].Code)
		_, sent := b.last()
		require.False(t, sent)
	}
}

func TestClientNoAnswerToTheDot(t *testing.T) {
	c, said := talk(t, "250 hi\r\n", [2]string{"MAIL", "250 ok\r\n"}, [2]string{"RCPT", "250 ok\r\n"},
		[2]string{"DATA", "354 go\r\n"}, [2]string{".", "CLOSE"})
	replies, err := c.Send(t.Context(), &Envelope{To: to("c@d")}, strings.NewReader("x"), nil)
	require.Error(t, err)
	require.ErrorIs(t, replies[0], ErrMaybeSent)
	require.True(t, replies[0].Temporary())
	said()

	ctx, cancel := context.WithCancel(t.Context())
	c, said = talk(t, "250 hi\r\n", [2]string{"MAIL", "250 ok\r\n"}, [2]string{"RCPT", "250 ok\r\n"},
		[2]string{"DATA", "354 go\r\n"})
	replies, err = c.Send(ctx, &Envelope{To: to("c@d")}, strings.NewReader("x"), func() error { cancel(); return nil })
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, replies[0], ErrMaybeSent)
	require.NotContains(t, said(), "\r\n.\r\n")
}

func TestClientHostileReplies(t *testing.T) {
	mail := [2]string{"MAIL", "250 ok\r\n"}
	for name, c := range map[string]struct {
		steps []([2]string)
		want  string // the recipient's reply begins
		dead  bool
	}{
		"mixed codes": {[][2]string{mail, {"RCPT", "250-2.1.5 a\r\n550 5.1.1 b\r\n"}, {"RSET", "250 ok\r\n"}},
			"550 5.1.1 2.1.5 a b", false},
		"a tab": {[][2]string{mail, {"RCPT", "550\tno\tuser\r\n"}, {"RSET", "250\tok\r\n"}}, "550 no user", false},
		"a long line": {[][2]string{mail, {"RCPT", "550 " + strings.Repeat("x", 5000) + "\r\n"}, {"RSET", "250 ok\r\n"}},
			"550 xxxxx", false},
		"garbage":  {[][2]string{mail, {"RCPT", "\x00\x01\x02\xff\r\n"}}, "451 4.4.2", true},
		"code 999": {[][2]string{mail, {"RCPT", "999 what\r\n"}}, "451 4.4.2", true},
		"3xx": {[][2]string{mail, {"RCPT", "354 what\r\n"}, {"RSET", "250 ok\r\n"}},
			"451 4.5.0 unexpected reply 354 what", false},
		"NUL in text": {[][2]string{mail, {"RCPT", "550 5.1.1 a\x00b\xffc\r\n"}, {"RSET", "250 ok\r\n"}},
			"550 5.1.1 a?b?c", false},
		"bare LF": {[][2]string{mail, {"RCPT", "550-5.1.1 a\n550 5.1.1 b\n"}, {"RSET", "250 ok\r\n"}},
			"550 5.1.1 a b", false},
		"no text":       {[][2]string{mail, {"RCPT", "550\r\n"}, {"RSET", "250 ok\r\n"}}, "550", false},
		"wrong class":   {[][2]string{mail, {"RCPT", "550 2.1.1 a\r\n"}, {"RSET", "250 ok\r\n"}}, "550 2.1.1 a", false},
		"421":           {[][2]string{mail, {"RCPT", "421 4.3.2 bye\r\n"}}, "421 4.3.2 bye", true},
		"421 to MAIL":   {[][2]string{{"MAIL", "421 4.3.2 bye\r\n"}}, "421 4.3.2 bye", true},
		"endless lines": {[][2]string{mail, {"RCPT", strings.Repeat("250-x\r\n", 1000)}}, "451 4.4.2", true},
		"endless line":  {[][2]string{mail, {"RCPT", "250 " + strings.Repeat("x", 100000)}}, "451 4.4.2", true},
		"closed":        {[][2]string{mail, {"RCPT", "CLOSE"}}, "451 4.4.2", true},
		"data refused": {[][2]string{mail, {"RCPT", "250 ok\r\n"}, {"DATA", "554 5.7.1 no\r\n"}, {"RSET", "250 ok\r\n"}},
			"554 5.7.1 no", false},
		"dot refused": {[][2]string{
			mail, {"RCPT", "250 ok\r\n"}, {"DATA", "354 go\r\n"}, {".", "452-4.3.1 full\r\n452 4.3.1 up\r\n"},
		}, "452 4.3.1 full up", false},
	} {
		t.Run(name, func(t *testing.T) {
			cl, said := talk(t, "250 hi\r\n", c.steps...)
			replies, err := cl.Send(t.Context(), &Envelope{From: "a@b", To: to("c@d")}, strings.NewReader("x"), nil)
			require.Equal(t, c.dead, err != nil, "%v", err)
			require.True(t, strings.HasPrefix(replies[0].Error(), c.want), replies[0].Error())
			said()
		})
	}
}

func TestClientPipelinedEmptyMessage(t *testing.T) {
	// A server that says 354 although it took no recipient.
	c, said := talk(t, "250-hi\r\n250 PIPELINING\r\n", [2]string{"DATA", "250 ok\r\n550 no\r\n354 go\r\n"},
		[2]string{".", "554 no recipients\r\n"})
	replies, err := c.Send(t.Context(), &Envelope{To: to("c@d")}, strings.NewReader("x"), nil)
	require.NoError(t, err)
	require.Equal(t, []string{"550 no"}, codes(replies))
	require.True(t, strings.HasSuffix(said(), "DATA\r\n.\r\n"))
}

func TestClientLMTP(t *testing.T) {
	conn, said := hop(t, "220 hi\r\n", [2]string{"LHLO", "250-hi\r\n250 PIPELINING\r\n"},
		[2]string{"DATA", "250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n"},
		[2]string{".", "250 one\r\n452 4.2.2 full\r\n"})
	c, err := NewClient(t.Context(), conn, ClientOptions{Hostname: "me", LMTP: true})
	require.NoError(t, err)
	replies, err := c.Send(t.Context(), &Envelope{To: to("a@d", "b@d", "c@d")}, strings.NewReader("x"), nil)
	require.NoError(t, err)
	require.Equal(t, []string{"250 one", "550 no", "452 4.2.2 full"}, codes(replies))
	said()
}

func TestClientContextEnds(t *testing.T) {
	c, said := talk(t, "250 hi\r\n")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	replies, err := c.Send(ctx, &Envelope{To: to("a@d")}, strings.NewReader("x"), nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, 451, replies[0].Code)
	said()
}

func TestStartTLSInjection(t *testing.T) {
	c, said := talk(t, "250-hi\r\n250 STARTTLS\r\n", [2]string{"STARTTLS", "220 go\r\n250 injected\r\n"})
	require.ErrorIs(t, c.StartTLS(t.Context(), &tls.Config{ServerName: "x"}), ErrProtocol)
	said()
}

func TestStartTLSRefused(t *testing.T) {
	c, said := talk(t, "250-hi\r\n250 STARTTLS\r\n", [2]string{"STARTTLS", "454 4.7.0 later\r\n"},
		[2]string{"RSET", "250 ok\r\n"})
	var r *Reply
	require.ErrorAs(t, c.StartTLS(t.Context(), &tls.Config{ServerName: "x"}), &r)
	require.Equal(t, 454, r.Code)
	require.NoError(t, c.Reset(t.Context()))
	said()
}

func TestClientEnvelopeOnTheWire(t *testing.T) {
	c, said := talk(t, "250-hi\r\n250-SIZE\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250-DELIVERBY\r\n"+
		"250-MT-PRIORITY\r\n250 AUTH=LOGIN\r\n",
		[2]string{"MAIL", "250 ok\r\n"}, [2]string{"RCPT", "550 no\r\n"}, [2]string{"RSET", "250 ok\r\n"})
	p := -2
	_, err := c.Send(t.Context(), &Envelope{
		From: "ü@b", Size: 7,
		Options: MailOptions{
			Body: Body8BitMIME, Ret: "FULL", EnvID: "a+b", Auth: "a@b", Priority: &p,
			DeliverBy: &DeliverBy{Until: time.Now().Add(-time.Hour), Trace: true},
		},
		To: []Rcpt{{"c@d", RcptOptions{Notify: NotifySuccess | NotifyDelay, ORCPT: "rfc822;x+y@z"}}},
	}, nil, nil)
	require.NoError(t, err)
	param, ok := c.Has("auth")
	require.True(t, ok)
	require.Equal(t, "LOGIN", param)
	require.Regexp(t, `EHLO me\r
MAIL FROM:<ü@b> SIZE=7 BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=a\+2Bb BY=-3600;NT MT-PRIORITY=-2\r
RCPT TO:<c@d> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x\+2By@z\r
RSET\r
`, said())
}

func FuzzReply(f *testing.F) {
	for _, s := range []string{
		"250 ok\r\n", "250-a\r\n250 b\r\n", "550 5.1.1 x\n", "25", "250\x00\r\n", "250-2.0.0\r\n250 2.0.0 \r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		here, there := net.Pipe()
		go func() {
			_, _ = there.Write(in)
			_ = there.Close()
		}()
		c := &Client{conn: here}
		c.in.init(&NewBuffers().pool)
		r, err := c.read(context.Background(), time.Second)
		_ = here.Close()
		if err != nil {
			return
		}
		require.True(t, r.Code >= 200 && r.Code <= 599)
		require.LessOrEqual(t, len(r.Text), maxReplyText+maxReplyLines)
		require.False(t, hasControl([]byte(strings.ReplaceAll(r.Text, "\n", ""))))
	})
}

// An ORCPT that is too long in ASCII is left out: the next hop would refuse the
// recipient for it.
func TestClientLeavesOutALongORCPT(t *testing.T) {
	for n, want := range map[int]bool{60: true, 61: false} {
		original := "utf-8;" + strings.Repeat("\u4e2d", n) + "@c.example" // 8 octets each in ASCII
		var o RcptOptions
		require.True(t, setORCPT(&o, original))
		x := &transaction{
			Client: &Client{ext: map[string]string{"DSN": ""}}, env: &Envelope{To: []Rcpt{{Address: "a@b", Options: o}}},
		}
		line := string(x.rcptCommand(nil, 0))
		require.Equal(t, want, strings.Contains(line, "ORCPT="), line)
		require.LessOrEqual(t, len(line), 520)
	}
}
