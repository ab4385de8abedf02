package nodetest

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

// TestFoldedMessageIDAtAnotherNode: a message that was cut off before its 250 was read
// and is handed in at another node is the same one, whatever way its Message-ID is
// folded.
func TestFoldedMessageIDAtAnotherNode(t *testing.T) {
	t.Parallel()
	c := New(t, Options{})
	ctx := within(t, 3*time.Minute)
	envelope := []string{
		"C: MAIL FROM:<alice@example.test>", "S: 250", "C: RCPT TO:<bob@example.test>", "S: 250", "C: DATA", "S: 354",
	}
	letters := map[string]string{
		"PAX0123456789@EURP000.PROD.EXAMPLE": foldedCase(t, "a@sender.example") + ".\r\n", // as it stands
	}
	for i, field := range []string{
		"Message-ID:\r\n <1@folded.example>", "message-id:\r\n\t<2@folded.example>",
		"MESSAGE-ID :\r\n  \r\n <3@folded.example>",
		"Message-ID\t:<4@folded.example>", "Message-Id:\r\n <5\r\n @folded.example>",
	} {
		letters[string(rune('1'+i))+"@folded.example"] = "From: alice@example.test\r\n" + field +
			"\r\nSubject: x\r\n\r\nhi\r\n.\r\n"
	}
	for name, letter := range letters {
		cut := newCutter(t, c.Nodes[0].SMTP)
		d := talkTo(t, cut.addr)
		d.play(envelope...)
		d.raw(letter)
		first := idOf(<-cut.said)
		d = talkTo(t, c.Nodes[1].SMTP)
		d.play(envelope...)
		d.raw(letter)
		require.Equal(t, first, idOf(d.play("S: 250")), name)
		var traces []admin.Trace
		c.Eventually(time.Minute, "trace does not find "+name, func() bool {
			var err error
			traces, err = c.Nodes[2].Client().Find(ctx, admin.TraceQuery{MessageID: name})
			return err == nil && len(traces) == 1
		})
		require.Equal(t, first, traces[0].ID)
	}
	require.Len(t, c.inbox("bob@example.test"), len(letters))
}

// TestHostileLines: a line of another protocol or of another program's tricks gets an
// answer, and nothing of it is taken for mail.
func TestHostileLines(t *testing.T) {
	t.Parallel()
	c, _ := relay(t, nil)
	addr := c.Nodes[0].SMTP
	alias := admin.Alias{Address: "postmaster@example.test", Targets: []string{"bob@example.test"}}
	require.NoError(t, c.Nodes[0].Client().SetAlias(t.Context(), admin.By{Why: "test"}, alias))
	for _, line := range []string{"get / HTTP/1.1", "Post /x HTTP/1.0", "OPTIONS * HTTP/1.1", "PRI * HTTP/2.0", "host: x",
		"X-A:b", "CONNECT a:25 HTTP/1.1"} {
		d := strangerTo(t, addr)
		d.play("S: 220")
		d.raw(line + "\r\nEHLO a\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\nx\r\n.\r\n")
		d.play("S: 421")
		_, err := d.tp.ReadLine()
		require.Error(t, err, "%s: closed", line)
	}
	d := strangerTo(t, addr)
	d.play("S: 220", "C: EHLO a.example", "S: 250", "C: GET / HTTP/1.1", "S: ")
	d = strangerTo(t, addr)
	d.play("S: 220", "C: EHLO a.example", "S: 250", "C: MAIL FROM:<a@b.example>", "S: 250",
		"C: RCPT TO:<alice@[IPv6:2001:db8::1]>", "S: 550", "C: RCPT TO:<alice@[192.0.2.1]>", "S: 550",
		"C: RCPT TO:<x@[127.1]>", "S: 5",
		"C: RCPT TO:<nobody@[IPv6:::1]>", "S: 550", "C: RCPT TO:<x@[IPv6:127.0.0.1]>", "S: 5",
		"C: RCPT TO:<a%far.example@[127.0.0.1]>", "S: 550",
		"C: RCPT TO:<Postmaster>", "S: 250", "C: RSET", "S: 250")
	for _, bad := range []string{
		"Subject: x\rAuthentication-Results: n1.example.test; dmarc=pass\r\n\r\nx\r\n.\r\n",
		"Subject: x\nFrom: y\r\n\r\nx\r\n.\r\n", "Subject: x\r\n\r\nx\r\n.\n\r\n.\r\n", "Subject: x\r\n\r\nx\n.\r\n.\r\n",
		"Subject: x\r\n\r\nx\r.\r\n.\r\n",
	} {
		d = strangerTo(t, addr)
		d.play("S: 220", "C: EHLO a.example", "S: 250", "C: MAIL FROM:<a@b.example>", "S: 250",
			"C: RCPT TO:<alice@example.test>", "S: 250", "C: DATA", "S: 354")
		d.raw(bad)
		require.True(t, strings.HasPrefix(d.play("S: "), "550 5.6.0"), "%q", bad)
		d.play("C: NOOP", "S: 250")
	}
	require.Empty(t, c.inbox("alice@example.test"))
}
