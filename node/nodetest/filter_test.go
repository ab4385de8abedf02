package nodetest

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	wire "github.com/emersion/go-milter"
	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/node/config"
)

// censor is a content filter that does what the subject of a message says.
type censor struct {
	wire.NoOpMilter
	subject string
}

func (c *censor) RcptTo(to string, _ *wire.Modifier) (wire.Response, error) {
	if strings.HasPrefix(to, "postmaster@") {
		return wire.NewResponseStr('y', "550 5.7.9 Not to him"), nil
	}
	return wire.RespContinue, nil
}

func (c *censor) Header(name, value string, _ *wire.Modifier) (wire.Response, error) {
	if name == "Subject" {
		c.subject = value
	}
	if value == "early" {
		return wire.RespDiscard, nil
	}
	return wire.RespContinue, nil
}

func (c *censor) Body(m *wire.Modifier) (wire.Response, error) {
	switch c.subject {
	case "reject":
		return wire.RespReject, nil
	case "later":
		return wire.RespTempFail, nil
	case "discard":
		return wire.RespDiscard, nil
	case "other":
		return wire.RespContinue, m.ReplaceBody([]byte("another\ntext\n"))
	case "empty":
		return wire.RespContinue, m.ReplaceBody(nil)
	case "swell":
		return wire.RespContinue, m.AddHeader("X-Swollen", strings.Repeat("y", 200_000))
	case "nobody":
		return wire.RespContinue, m.DeleteRecipient("<alice@example.test>")
	case "move":
		return wire.RespContinue, errors.Join(m.DeleteRecipient("<alice@example.test>"), m.AddRecipient("<bob@example.test>"))
	}
	return wire.RespContinue, errors.Join(m.AddHeader("X-Seen", "by the censor"),
		m.ChangeHeader(1, "Subject", "["+c.subject+"]"), m.InsertHeader(1, "X-First", "yes"))
}

// startCensor returns the address of a filter, and a function that ends it.
func startCensor(t *testing.T) (string, func()) {
	return startFilter(t, func() wire.Milter { return &censor{} })
}

func startFilter(t *testing.T, one func() wire.Milter) (string, func()) {
	l, err := net.Listen("tcp", freeAddr(t))
	require.NoError(t, err)
	server := &wire.Server{
		NewMilter: one,
		Actions: wire.OptAddHeader | wire.OptChangeBody | wire.OptAddRcpt | wire.OptRemoveRcpt | wire.OptChangeHeader |
			wire.OptQuarantine,
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	stop := func() { _ = l.Close(); <-done }
	t.Cleanup(stop)
	return "inet:" + l.Addr().String(), stop
}

func TestContentFilter(t *testing.T) {
	t.Parallel()
	address, stop := startCensor(t)
	c := New(t, Options{Nodes: 1, Configure: func(_ int, conf *config.Config) {
		m := config.NewMilter()
		m.Address = address
		conf.Milter = []config.Milter{m}
	}})
	d := talkTo(t, c.Nodes[0].SMTP)
	send := func(subject string, size int, want string) {
		t.Helper()
		lines := []string{"C: MAIL FROM:<s@far.example>", "S: 250", "C: RCPT TO:<alice@example.test>", "S: 250",
			"C: DATA", "S: 354",
			"M: From: s@far.example", "M: Subject: " + subject, "M: "}
		for range size / 100 {
			lines = append(lines, "M: "+strings.Repeat("x", 98))
		}
		d.play(append(lines, "M: text", "M: .", "S: "+want)...)
	}
	newest := func(user string) string {
		all := c.inbox(user)
		require.NotEmpty(t, all)
		return all[len(all)-1]
	}
	send("hello", 0, "250 2.0.0")
	got := newest("alice@example.test")
	require.Contains(t, got,
		"\r\nX-First: yes\r\nFrom: s@far.example\r\nSubject: [hello]\r\nX-Seen: by the censor\r\n\r\ntext\r\n")
	require.Contains(t, got[:strings.Index(got, "X-First")], "Received: ", "our trace stays above")
	d.play("C: MAIL FROM:<s@far.example>", "S: 250", "C: RCPT TO:<postmaster@example.test>", "S: 550", "C: RSET", "S: 250")

	send("reject", 0, "550 5.7.1 Message rejected")
	send("later", 0, "451 4.7.1")
	send("discard", 0, "250 2.0.0")
	send("large", 600_000, "250 2.0.0")
	got = newest("alice@example.test")
	require.Contains(t, got,
		"\r\nX-First: yes\r\nFrom: s@far.example\r\nSubject: [large]\r\nX-Seen: by the censor\r\n\r\nxxx")
	require.Contains(t, got[:strings.Index(got, "X-First")], "Received: ", "our trace stays above")
	require.Len(t, got[strings.Index(got, "\r\n\r\n")+4:], 600_000+len("text\r\n"))
	send("other", 600_000, "451 4.7.1")
	send("empty", 600_000, "451 4.7.1")
	send("reject", 600_000, "550 5.7.1 Message rejected")
	require.Len(t, c.inbox("alice@example.test"), 2)
	send("other", 0, "250")
	require.Contains(t, newest("alice@example.test"), "Subject: other\r\n\r\nanother\r\ntext\r\n")
	send("move", 0, "250")
	require.Contains(t, newest("bob@example.test"), "Subject: move")
	require.Len(t, c.inbox("alice@example.test"), 3)

	// The copies of a large message that a list sends on are changed with it.
	ctx := within(t, 3*time.Minute)
	require.NoError(t, c.Nodes[0].Client().SetAlias(ctx, admin.By{}, admin.Alias{
		Address: "list@example.test", Targets: []string{"bob@example.test", "x@far.example"}, Owner: "owner@example.test",
	}))
	body := strings.Repeat(strings.Repeat("y", 98)+"\r\n", 6000)
	require.Contains(t,
		d.mail("s@far.example", "list@example.test", "From: s@far.example\r\nSubject: all\r\n\r\n"+body), "250 2.0.0")
	require.NoError(t, c.Sink.Wait(ctx, 1))
	for _, got := range []string{newest("bob@example.test"), c.Sink.Got()[0].Body} {
		require.True(t, strings.HasSuffix(got,
			"\r\nX-First: yes\r\nFrom: s@far.example\r\nSubject: [all]\r\nX-Seen: by the censor\r\n\r\n"+body))
	}

	stop()
	d.play("C: MAIL FROM:<s@far.example>", "S: 451 4.7.1")
	c.Verify()
}

// Fields are changed however large the header section is, and whatever follows.
func TestContentFilterOfLargeHeaders(t *testing.T) {
	t.Parallel()
	address, _ := startCensor(t)
	c := New(t, Options{Configure: func(_ int, conf *config.Config) {
		m := config.NewMilter()
		m.Address = address
		conf.Milter = []config.Milter{m}
	}})
	const from = "From: s@far.example\r\n"
	list := func(size int) string {
		return strings.Repeat("X-List: "+strings.Repeat("l", 88)+"\r\n", size/98)
	}
	body := func(size int) string { return strings.Repeat(strings.Repeat("x", 98)+"\r\n", size/100) }
	for _, head := range []int{1 << 10, 60 << 10, 70 << 10, 130 << 10, 200 << 10, 254 << 10} {
		for _, rest := range []int{100, 10_000, 600_000} {
			text := from + list(head) + "Subject: s\r\n\r\n" + body(rest)
			d := talkTo(t, c.Nodes[head%3].SMTP)
			require.Contains(t, d.mail("s@far.example", "alice@example.test", text), "250 2.0.0")
			all := c.inbox("alice@example.test")
			_, got, found := strings.Cut(all[len(all)-1], "\r\nX-First: yes\r\n")
			require.True(t, found, "%d with %d", head, rest)
			require.True(t, from+list(head)+"Subject: [s]\r\nX-Seen: by the censor\r\n\r\n"+body(rest) == got,
				"%d with %d", head, rest)
		}
	}
	d := talkTo(t, c.Nodes[0].SMTP)
	require.Contains(t,
		d.mail("s@far.example", "alice@example.test", from+list(300<<10)+"Subject: s\r\n\r\nx\r\n"), "552 5.3.4")
	require.Contains(t, d.mail("s@far.example", "alice@example.test", from+"Subject: swell\r\n\r\nx\r\n"), "451 4.7.1")
	c.Verify()
}

// If mail may pass a filter that does not answer by, its history says that it
// did.
func TestContentFilterIsPassedBy(t *testing.T) {
	t.Parallel()
	gone := "inet:" + freeAddr(t)
	c := New(t, Options{Nodes: 1, Configure: func(_ int, conf *config.Config) {
		m := config.NewMilter()
		m.Address, m.OnFailure = gone, config.FailAccept
		conf.Milter = []config.Milter{m}
	}})
	id := c.Nodes[0].MustSend("s@far.example", "alice@example.test", Letter("passed"))
	trace, err := c.Nodes[0].Client().Trace(within(t, 3*time.Minute), id)
	require.NoError(t, err)
	require.Equal(t, "not seen by the content filter "+gone+", which did not answer", trace.Events[0].Detail)
}

// A message that a filter throws away can be traced like any other, at every
// node.
func TestDiscardedMessageHasAHistory(t *testing.T) {
	t.Parallel()
	address, _ := startCensor(t)
	c := New(t, Options{Configure: func(_ int, conf *config.Config) {
		m := config.NewMilter()
		m.Address = address
		conf.Milter = []config.Milter{m}
	}})
	ctx := within(t, 3*time.Minute)
	large := strings.Repeat(strings.Repeat("x", 98)+"\r\n", 6000)
	for name, body := range map[string]string{
		"discard": "text\r\n", "nobody": "text\r\n", "discard large": large, "early": large,
	} {
		subject, _, _ := strings.Cut(name, " ")
		d := talkTo(t, c.Nodes[1].SMTP)
		letter := "From: s@far.example\r\nMessage-ID: <" + strings.ReplaceAll(name, " ", "-") + "@far.example>\r\nSubject: " +
			subject + "\r\n\r\n" + body
		id := idOf(d.mail("s@far.example", "alice@example.test", letter))
		require.NotEmpty(t, id, name)
		again := talkTo(t, c.Nodes[1].SMTP) // nothing says that the first 250 was read
		require.Equal(t, id, idOf(again.mail("s@far.example", "alice@example.test", letter)),
			"%s: sent again it is the same", name)
		for _, m := range c.Nodes {
			c.Eventually(time.Minute, "no history at "+m.ID, func() bool {
				trace, err := m.Client().Trace(ctx, id)
				if err != nil {
					return false
				}
				require.Equal(t, "s@far.example", trace.Sender)
				require.GreaterOrEqual(t, trace.Size, uint64(len(body)))
				require.Len(t, trace.Recipients, 1)
				require.Equal(t, admin.StateDeleted, trace.Recipients[0].State)
				require.Equal(t, "discarded by the content filter "+address, trace.Recipients[0].LastReply)
				require.Equal(t, "accepted", trace.Events[0].What)
				require.Equal(t, "discarded", trace.Events[1].What)
				require.Equal(t, "alice@example.test", trace.Events[1].Recipient)
				require.Equal(t, "by the content filter "+address, trace.Events[1].Detail)
				return true
			})
		}
	}
	require.Empty(t, c.inbox("alice@example.test"))
	c.Verify()

	// Without a majority there is no 250.
	c.Nodes[0].Kill()
	c.Nodes[2].Kill()
	d, err := c.Nodes[1].Dial(ctx)
	if err == nil {
		defer d.Close()
		_, err = d.Send("s@far.example", "alice@example.test", "From: s@far.example\r\nSubject: discard\r\n\r\nx\r\n")
	}
	require.Error(t, err)
}
