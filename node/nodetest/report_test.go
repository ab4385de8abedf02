package nodetest

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/smtp"
)

// TestReportsKeepAliases: a sender is told of the address it wrote to, and not
// of the mailbox, here or elsewhere, that is behind it.
func TestReportsKeepAliases(t *testing.T) {
	t.Parallel()
	c, _ := relay(t, nil)
	ctx := within(t, 3*time.Minute)
	api, by := c.Nodes[0].Client(), admin.By{Why: "test"}
	for alias, target := range map[string]string{"info": "bob@example.test", "away": "jane@secret.example"} {
		require.NoError(t, api.SetAlias(ctx, by, admin.Alias{Address: alias + "@example.test", Targets: []string{target}}))
	}
	c.Sink.Answer(func(to string) error { return smtp.NewReply(550, "5.1.1", "<"+to+">: no such user") })
	send := func(to, options string) {
		d := talkTo(t, c.Nodes[0].SMTP)
		d.play("C: MAIL FROM:<alice@example.test>", "S: 250", "C: RCPT TO:<"+to+">"+options, "S: 250", "C: DATA", "S: 354",
			"M: Subject: "+to, "M: ", "M: x", "M: .", "S: 250")
	}
	seen := 0
	report := func() string {
		t.Helper()
		c.Eventually(time.Minute, "no report", func() bool { return len(c.inbox("alice")) > seen })
		seen++
		return c.inbox("alice")[seen-1]
	}
	send("info@example.test", " NOTIFY=SUCCESS")
	text := report()
	require.Contains(t, text, "\r\nFinal-Recipient: rfc822; info@example.test\r\nAction: delivered\r\n")
	require.NotContains(t, text, "bob@")
	for _, options := range []string{"", " ORCPT=rfc822;away@example.test NOTIFY=FAILURE"} {
		send("away@example.test", options)
		text = report()
		require.Contains(t, text, "\r\nFinal-Recipient: rfc822; away@example.test\r\nAction: failed\r\n")
		require.Contains(t, text, "no such user")
		require.NotContains(t, text, "jane", text)
	}
	send("nobody@far.example", "")
	require.Contains(t, report(), "\r\nFinal-Recipient: rfc822; nobody@far.example\r\n")
	quota := uint64(1)
	require.NoError(t, api.SetUser(ctx, by, "bob@example.test", admin.UserSet{QuotaMessages: &quota}))
	d := talkTo(t, c.Nodes[0].SMTP)
	d.play("C: MAIL FROM:<alice@example.test>", "S: 250", "C: RCPT TO:<info@example.test>", "S: ")
	require.NotContains(t, strings.Join(c.inbox("alice"), ""), "bob@")
}

// TestNoReportOfSuccessToForgedSenders: mail whose client is not who may send for
// its sender's domain brings the sender no report that somebody else asked for.
func TestNoReportOfSuccessToForgedSenders(t *testing.T) {
	t.Parallel()
	c := senders(t, 1, nil)
	ctx := within(t, 3*time.Minute)
	send := func(from, name string) {
		d := c.stranger()
		d.play("C: MAIL FROM:<"+from+">", "S: 250", "C: RCPT TO:<alice@example.test> NOTIFY=SUCCESS", "S: 250",
			"C: DATA", "S: 354",
			"M: Subject: "+name, "M: ", "M: x", "M: .", "S: 250")
	}
	send("victim@bank.example", "forged")
	send("a@nothing.example", "said nothing of")
	require.NoError(t, c.Sink.Wait(ctx, 1))
	c.Eventually(time.Minute, "the queue is not empty", func() bool {
		s, err := c.Nodes[0].Client().Status(ctx)
		return err == nil && s.Queue.Messages == 0
	})
	require.Len(t, c.Sink.Got(), 1)
	require.Equal(t, "a@nothing.example", c.Sink.Got()[0].To)
}

// TestReportsNameWhatWasAddressed: whatever ORCPT says, or another relay wrote
// into it, a report names what the client said in RCPT, and no place behind it.
func TestReportsNameWhatWasAddressed(t *testing.T) {
	t.Parallel()
	c, _ := relay(t, nil)
	ctx := within(t, 3*time.Minute)
	api, by := c.Nodes[0].Client(), admin.By{Why: "test"}
	for alias, targets := range map[string][]string{
		"away": {"jane@secret.example"}, "deep": {"away@example.test"}, "two": {"jane@secret.example", "joan@secret.example"},
		"both": {"jane@secret.example", "bob@example.test"},
	} {
		require.NoError(t, api.SetAlias(ctx, by, admin.Alias{Address: alias + "@example.test", Targets: targets}))
	}
	c.Sink.Answer(func(to string) error { return smtp.NewReply(550, "5.1.1", "<"+to+">: no such user") })
	seen := 0
	for _, to := range []string{"away@example.test", "deep@example.test", "two@example.test", "both@example.test",
		"AWAY@Example.TEST", "nobody@far.example"} {
		for given, shown := range map[string]string{
			"": "", " ORCPT=rfc822;" + to: "rfc822; " + to,
			" ORCPT=rfc822;list@elsewhere.example": "rfc822; list@elsewhere.example",
			" ORCPT=x400;/C+3Dde/S+3Dsmith":        "x400; /C", " ORCPT=rfc822;a+2Bb+3Dc@elsewhere.example": "rfc822; a",
		} {
			d := talkTo(t, c.Nodes[0].SMTP)
			d.play("C: MAIL FROM:<alice@example.test>", "S: 250", "C: RCPT TO:<"+to+">"+given, "S: 250", "C: DATA", "S: 354",
				"M: Subject: x", "M: ", "M: x", "M: .", "S: 250")
			c.Eventually(time.Minute, "no report", func() bool { return len(c.inbox("alice")) > seen })
			seen++
			text := c.inbox("alice")[seen-1]
			require.Contains(t, text, "\r\nFinal-Recipient: rfc822; "+to+"\r\n", given)
			require.Contains(t, text, "<"+to+">: no such user", given)
			for _, secret := range []string{"jane", "joan", "secret", "bob@"} {
				require.NotContains(t, text, secret, given)
			}
			if shown != "" {
				require.Contains(t, text, "\r\nOriginal-Recipient: "+shown)
			}
		}
	}
}
