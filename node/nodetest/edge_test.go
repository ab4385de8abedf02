package nodetest

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/smtp"
)

// foldedCase is a message as programs send it that fold long fields behind the name, of
// any author.
func foldedCase(t *testing.T, author string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/folded_message_id.eml")
	require.NoError(t, err)
	require.Contains(t, string(text), "\r\nMessage-ID:\r\n <PAX0123456789@EURP000.PROD.EXAMPLE>\r\n")
	return strings.Replace(string(text), "a@sender.example", author, 1)
}

// TestFoldedMessageID: a Message-ID counts wherever its field is folded.
func TestFoldedMessageID(t *testing.T) {
	t.Parallel()
	c, port := relay(t, nil)
	ctx := within(t, 3*time.Minute)
	envelope := []string{
		"C: MAIL FROM:<alice@example.test>", "S: 250", "C: RCPT TO:<bob@example.test>", "S: 250", "C: DATA", "S: 354",
	}
	folded := foldedCase(t, "alice@example.test")
	hand := func(addr string) {
		d := talkTo(t, addr)
		d.play(envelope...)
		d.raw(folded + ".\r\n")
	}
	cut := newCutter(t, c.Nodes[0].SMTP)
	hand(cut.addr) // the 250 never comes
	first := idOf(<-cut.said)
	d := talkTo(t, c.Nodes[0].SMTP)
	d.play(envelope...)
	d.raw(folded + ".\r\n")
	require.Equal(t, first, idOf(d.play("S: 250")))
	require.Len(t, c.inbox("bob@example.test"), 1)
	traces, err := c.Nodes[0].Client().Find(ctx, admin.TraceQuery{MessageID: "<PAX0123456789@EURP000.PROD.EXAMPLE>"})
	require.NoError(t, err)
	require.Len(t, traces, 1)
	require.Equal(t, first, traces[0].ID)

	d = talkTo(t, port)
	d.play(append([]string{loginAlice, "S: 235"}, envelope...)...)
	d.raw(folded + ".\r\n")
	d.play("S: 250")
	all := c.inbox("bob@example.test")
	require.Equal(t, 1, strings.Count(all[len(all)-1], "Message-ID:"), "no second one on submission: %s", all[len(all)-1])

	d = talkTo(t, c.Nodes[0].SMTP)
	c.Sink.Answer(func(string) error { return smtp.NewReply(550, "5.1.1", "No such user") })
	d.play("C: MAIL FROM:<alice@example.test>", "S: 250", "C: RCPT TO:<x@refuses.example>", "S: 250", "C: DATA", "S: 354")
	d.raw(folded + ".\r\n")
	d.play("S: 250")
	c.Eventually(time.Minute, "no bounce that refers to it", func() bool {
		return slices.ContainsFunc(c.inbox("alice@example.test"), func(s string) bool {
			return strings.Contains(s, "\r\nReferences: <PAX0123456789@EURP000.PROD.EXAMPLE>\r\n")
		})
	})
	c.Verify()
}

// TestLoopFailsAlone: a mailbox that a message has been in fails, and nobody else.
func TestLoopFailsAlone(t *testing.T) {
	t.Parallel()
	c, _ := relay(t, nil)
	send := func(from string, field string, to ...string) string {
		d := talkTo(t, c.Nodes[0].SMTP)
		d.play("C: MAIL FROM:<"+from+">", "S: 250")
		for _, one := range to {
			d.play("C: RCPT TO:<"+one+">", "S: 250")
		}
		return d.play("C: DATA", "S: 354", "M: Subject: round", field, "M: ", "M: text", "M: .", "S: ")
	}
	require.Contains(t, send("bob@example.test", "M: Delivered-To: alice@example.test", "alice@example.test"), "5.4.6",
		"nobody else: refused")
	require.Contains(t, send("bob@example.test", "M: Delivered-To:\r\n alice@example.test", "alice@example.test",
		"x@far.example"), "queued as")
	require.NoError(t, c.Sink.Wait(within(t, 3*time.Minute), 1))
	require.Empty(t, c.inbox("alice@example.test"))
	box := c.inbox("bob@example.test")
	require.Len(t, box, 1, "a report to the sender")
	require.Contains(t, box[0], "Final-Recipient: rfc822; alice@example.test")
	require.Contains(t, box[0], "Status: 5.4.6")
	require.NotContains(t, box[0], "far.example")
	id := idOf(send("", "M: Delivered-To: alice@example.test", "alice@example.test", "bob@example.test"))
	require.Len(t, c.inbox("bob@example.test"), 2, "and where nobody can be told, the others get it")
	trace, err := c.Nodes[0].Client().Trace(within(t, 3*time.Minute), id)
	require.NoError(t, err)
	require.Contains(t, trace.Events[0].Detail, "not again into alice@example.test")
	c.Verify()
}

// TestStrangersAddresses: forms that people write, from strangers.
func TestStrangersAddresses(t *testing.T) {
	t.Parallel()
	c, _ := relay(t, nil)
	require.NoError(t, c.Nodes[0].Client().SetAlias(within(t, 3*time.Minute), admin.By{Why: "test"},
		admin.Alias{Address: "postmaster@example.test", Targets: []string{"alice"}}))
	d := strangerTo(t, c.Nodes[0].SMTP)
	host, _, err := net.SplitHostPort(c.Nodes[0].SMTP)
	require.NoError(t, err)
	d.play("S: 220", "C: EHLO far.example", "S: 250",
		"C: MAIL FROM:<a..b@far.example>", "S: 250", "C: RCPT TO:<alice@example.test.>", "S: 250", "C: RSET", "S: 250",
		"C: MAIL FROM:<.a@far.example.>", "S: 250", "C: RCPT TO:< alice@example.test >", "S: 250",
		"C: RCPT TO:<postmaster@["+host+"]>", "S: 250", "C: RCPT TO:<nobody@["+host+"]>", "S: 550 5.1.1",
		"C: RCPT TO:<x@[192.0.2.77]>", "S: 550 5.7.1", "C: RCPT TO:<x..y@far.example>", "S: 550 5.7.1")
	d.play(letter("dots")...)
	require.True(t, strings.HasPrefix(c.inbox("alice@example.test")[0], "Return-Path: <\".a\"@far.example>\r\n"))
	quoted := talkTo(t, c.Nodes[0].SMTP)
	quoted.play(append([]string{"C: MAIL FROM:<a@example.test>", "S: 250", "C: RCPT TO:<c..d.@far.example.>", "S: 250"},
		letter("out")...)...)
	require.NoError(t, c.Sink.Wait(within(t, 3*time.Minute), 1))
	require.Equal(t, `"c..d."@far.example`, c.Sink.Got()[0].To)
}

// TestBareHeaderOfStrangers: a header that other programs may read as further fields
// does not get past those who look at the fields.
func TestBareHeaderOfStrangers(t *testing.T) {
	t.Parallel()
	c, _ := relay(t, nil)
	for _, head := range []string{
		"Subject: x\rAuthentication-Results: mx.example.test; dmarc=pass\r\n\r\n",
		"Subject: x\nFrom: ceo@example.test\r\n\r\n",
		"Subject: x\r\nAuthentication-Results\x00: mx.example.test\r\n\r\n", "Subject: x\n\nbody\r\n\r\n",
	} {
		d := strangerTo(t, c.Nodes[0].SMTP)
		d.play("S: 220", "C: EHLO far.example", "S: 250", "C: MAIL FROM:<a@far.example> BODY=BINARYMIME", "S: 250",
			"C: RCPT TO:<alice@example.test>", "S: 250")
		d.raw(fmt.Sprintf("BDAT %d LAST\r\n%s", len(head), head))
		d.play("S: 550 5.6.0")
	}
	d := strangerTo(t, c.Nodes[0].SMTP)
	body := "Subject: binary\r\nMIME-Version: 1.0\r\n\r\n\x00\r\n\n\r"
	d.play("S: 220", "C: EHLO far.example", "S: 250", "C: MAIL FROM:<a@far.example> BODY=BINARYMIME", "S: 250",
		"C: RCPT TO:<alice@example.test>", "S: 250")
	d.raw(fmt.Sprintf("BDAT %d LAST\r\n%s", len(body), body))
	d.play("S: 250")
	require.Len(t, c.inbox("alice@example.test"), 1)
}
