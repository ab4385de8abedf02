package nodetest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"relay/node/admin"
	"relay/smtp"
	"relay/smtp/printable"
)

// TestStrangersText: whatever a stranger says, what is kept and shown of it can
// neither steer a terminal nor break a program that reads it.
func TestStrangersText(t *testing.T) {
	const evil = "a\u0085\u009b2J\u202eexe\u2066\u2028"
	core, logs := observer.New(zapcore.DebugLevel)
	c := New(t, Options{Nodes: 1, Log: zap.New(core)})
	ctx := within(t, 60*time.Second)
	c.Sink.Answer(func(string) error { return smtp.NewReply(451, "4.2.0", "later "+evil) })
	m := c.Nodes[0]
	d := talkTo(t, m.SMTP)
	for _, line := range []string{"HELO " + evil, "EHLO " + evil, "VRFY " + evil, evil} {
		d.raw(line + "\r\n")
		d.play("S: 5")
	}
	d = talkTo(t, m.SMTP) // ten errors end a session
	for _, line := range []string{
		"MAIL FROM:<" + evil + "@far.example> SMTPUTF8", "MAIL FROM:<\"" + evil + "\"@far.example> SMTPUTF8",
		"MAIL FROM:<a@" + evil + ".example> SMTPUTF8", "MAIL FROM:<a@far.example> SMTPUTF8 ENVID=a+C2+85",
	} {
		d.raw(line + "\r\n")
		d.play("S: 5")
	}
	d = talkTo(t, m.SMTP)
	d.play("C: MAIL FROM:<alice@example.test> SMTPUTF8", "S: 250")
	for _, line := range []string{"RCPT TO:<" + evil + "@far.example>", "RCPT TO:<x@far.example> ORCPT=utf-8;\\x{202E}a@b.example"} {
		d.raw(line + "\r\n")
		d.play("S: 5")
	}
	d.play("C: RCPT TO:<x@far.example>", "S: 250", "C: DATA", "S: 354")
	d.raw("Message-ID: <" + evil + "@x>\r\nSubject: " + evil + "\r\nFrom: " + evil + " <alice@example.test>\r\n\r\nx\r\n.\r\n")
	id := idOf(d.play("S: 250"))
	_, err := m.Login(ctx, evil)
	require.Error(t, err)

	api := m.Client()
	c.Eventually(20*time.Second, "no word of the hop", func() bool {
		one, err := api.Trace(ctx, id)
		return err == nil && strings.Contains(fmt.Sprint(one), "later a")
	})
	trace, err := api.Trace(ctx, id)
	require.NoError(t, err)
	detail, err := api.Message(ctx, id)
	require.NoError(t, err)
	events, err := api.Find(ctx, admin.TraceQuery{From: "alice@example.test"})
	require.NoError(t, err)
	for _, shown := range []any{trace, detail, events} {
		text, err := json.Marshal(shown)
		require.NoError(t, err)
		fit(t, string(text))
	}
	require.NotEmpty(t, logs.All())
	for _, e := range logs.All() {
		fit(t, e.Message)
		for _, f := range e.Context {
			fit(t, f.String)
			if err, ok := f.Interface.(error); ok {
				fit(t, err.Error())
			}
		}
	}
}

func fit(t *testing.T, text string) {
	t.Helper()
	require.False(t, strings.ContainsFunc(strings.ReplaceAll(text, "\n", ""), func(r rune) bool { return !printable.Rune(r) }), "%q", text)
}
