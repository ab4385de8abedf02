package nodetest

import (
	"bytes"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"relay/node/admin"
	"relay/node/config"
	"relay/pop3"
	"relay/smtp"
	"relay/smtp/sasl"
)

// line waits for a log line with these fields, and returns all of it.
func line(c *Cluster, logs *observer.ObservedLogs, message string, fields map[string]any) map[string]any {
	c.t.Helper()
	var found map[string]any
	c.Eventually(time.Minute, "no line "+message, func() bool {
		for _, e := range logs.FilterMessage(message).All() {
			all, same := e.ContextMap(), true
			for k, v := range fields {
				same = same && all[k] == v
			}
			if same {
				found = all
				return true
			}
		}
		return false
	})
	return found
}

// Every refusal leaves a line that says who, what and why, and a count.
func TestEveryRefusalLeavesALineAndACount(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	c := New(t, Options{Nodes: 1, Log: zap.New(core), Configure: func(_ int, conf *config.Config) {
		conf.Limits.ConnectionsPerClient = 2
	}})
	m := c.Nodes[0]
	d := stranger(t, m.SMTP)
	d.play("C: MAIL FROM:<a@far.example>", "S: 250", "C: RCPT TO:<nobody@example.test>", "S: 550",
		"C: RCPT TO:<x@elsewhere.example>", "S: 550",
		"C: RCPT TO:<@@>", "S: 501", "C: DATA", "S: 554", "C: RSET", "S: 250", "C: MAIL FROM:<no-domain>", "S: 501",
		"C: MAIL FROM:<a@far.example> SIZE=999999999999", "S: 552", "C: FOO", "S: 500")
	want := func(reason, stage string, more map[string]any) map[string]any {
		t.Helper()
		fields := map[string]any{"reason": reason, "stage": stage, "protocol": "smtp", "role": "mx", "helo": "client.test"}
		for k, v := range more {
			fields[k] = v
		}
		l := line(c, logs, "refused", fields)
		require.NotEmpty(t, l["session"])
		require.Contains(t, l["remote"], "127.0.0.9:")
		require.NotEmpty(t, l["reply"])
		return l
	}
	l := want("unknown_user", "rcpt", map[string]any{"sender": "a@far.example", "reply": "550 5.1.1 No such user here"})
	require.Equal(t, []any{"nobody@example.test"}, l["recipients"])
	require.Equal(t, []any{"x@elsewhere.example"}, want("relay_denied", "rcpt", nil)["recipients"])
	want("syntax", "rcpt", map[string]any{"sender": "a@far.example"})
	want("no_recipients", "data", map[string]any{"sender": "a@far.example"})
	want("syntax", "mail", nil)
	want("too_large", "mail", map[string]any{"sender": "a@far.example"})
	want("protocol", "command", nil)
	line(c, logs, "connected", map[string]any{"session": l["session"]})

	call(t, m.SMTP).play("S: 220")
	call(t, m.SMTP).play("S: 421")
	line(c, logs, "refused", map[string]any{"reason": "too_many_connections", "stage": "connect"})
	d.play("C: STARTTLS", "S: 220")
	_, _ = io.Copy(d.conn, bytes.NewReader([]byte("no handshake at all\r\n")))
	line(c, logs, "refused", map[string]any{"reason": "tls_failed", "stage": "tls", "protocol": "smtp"})

	p := call(t, m.POP3)
	greeting, err := p.tp.ReadLine()
	require.NoError(t, err)
	require.Contains(t, greeting, "+OK")
	require.NoError(t, p.tp.PrintfLine("USER alice"))
	_, err = p.tp.ReadLine()
	require.NoError(t, err)
	line(c, logs, "refused", map[string]any{"protocol": "pop3", "reason": "tls_required", "stage": "login"})
	_, err = m.LoginWith(within(t, 3*time.Minute), "alice", "wrong")
	require.Error(t, err)
	l = line(c, logs, "refused", map[string]any{"protocol": "pop3", "reason": "login_failed", "user": "alice"})
	require.NotEmpty(t, l["session"])
	require.NotEmpty(t, l["remote"])
	for _, e := range logs.FilterMessage("refused").FilterField(zap.String("protocol", "pop3")).All() {
		require.Equal(t, zapcore.WarnLevel, e.Level)
	}
	text := metrics(t, m)
	require.Contains(t, text, `relay_refused_total{class="5xx",protocol="smtp",reason="unknown_user",role="mx"} 1`)
	require.Contains(t, text, `relay_refused_total{class="5xx",protocol="smtp",reason="relay_denied",role="mx"} 1`)
	require.Contains(t, text, `relay_refused_total{class="none",protocol="pop3",reason="login_failed",role=""} 1`)
}

// Each change of a message's state is one line with its id, and says who did it.
func TestEveryChangeOfStateIsALineWithAnID(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	port := freeAddr(t)
	c := New(t, Options{Nodes: 1, Log: zap.New(core), Configure: func(_ int, conf *config.Config) {
		s := config.NewSMTP()
		s.Listen, s.Role = port, config.RoleSubmission
		conf.SMTP = append(conf.SMTP, s)
	}})
	m, api := c.Nodes[0], c.Nodes[0].Client()
	ctx := within(t, 3*time.Minute)
	d := talkTo(t, port)
	d.startTLS()
	reply := d.play(append([]string{
		loginAlice, "S: 235", "C: MAIL FROM:<alice@example.test>", "S: 250", "C: RCPT TO:<bob@example.test>", "S: 250",
	}, letter("state")...)...)
	id := idOf(reply)
	l := line(c, logs, "accepted", map[string]any{
		"id": id, "user": "alice@example.test", "sender": "alice@example.test", "helo": "client.test",
	})
	require.Equal(t, []any{"bob@example.test"}, l["recipients"])
	require.Contains(t, l["remote"], "127.0.0.1:")
	line(c, logs, "delivered", map[string]any{"id": id, "mailbox": "bob@example.test", "recipient": "bob@example.test"})

	p, err := m.Login(ctx, "bob")
	require.NoError(t, err)
	require.NoError(t, p.Dele(ctx, 1))
	require.NoError(t, p.Quit(ctx))
	line(c, logs, "removed", map[string]any{"id": id, "mailbox": "bob@example.test", "who": "bob@example.test"})

	c.Sink.Answer(func(string) error { return smtp.NewReply(451, "4.7.1", "later") })
	id = m.MustSend("alice@example.test", "x@far.example", Letter("state2"))
	line(c, logs, "deferred", map[string]any{"id": id, "recipient": "x@far.example", "attempt": uint32(1)})
	by := admin.By{Who: "ann", Why: "a look"}
	for _, a := range []struct{ action, word string }{
		{admin.ActionHold, "held"}, {admin.ActionRelease, "released"}, {admin.ActionRetry, "retried"},
		{admin.ActionReroute, "rerouted"},
	} {
		what := admin.QueueAction{Action: a.action, IDs: []string{id}}
		if a.action == admin.ActionReroute {
			what.Route = "smtp:" + c.Sink.Addr
		}
		_, err := api.Manage(ctx, by, what)
		require.NoError(t, err)
		l := line(c, logs, a.word, map[string]any{"id": id, "why": "a look"})
		require.NotEmpty(t, l["who"])
		require.Equal(t, []any{"x@far.example"}, l["recipients"])
	}
	c.Eventually(time.Minute, "an attempt is under way all the time", func() bool {
		done, err := api.Manage(ctx, by, admin.QueueAction{Action: admin.ActionBounce, IDs: []string{id}})
		return err == nil && done.Changed == 1
	})
	line(c, logs, "bounced", map[string]any{"id": id, "why": "a look"})
	line(c, logs, "accepted", map[string]any{"report_on": id, "sender": ""})
	id = m.MustSend("alice@example.test", "y@far.example", Letter("state3"))
	_, err = api.Manage(ctx, by, admin.QueueAction{Action: admin.ActionRemove, IDs: []string{id}})
	require.NoError(t, err)
	line(c, logs, "removed", map[string]any{"id": id, "why": "a look"})
}

// What Prometheus reads passes its linter, has the histograms, and each HELP says
// what it is without its neighbours.
func TestMetricsAreWholeAndClean(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	m := c.Nodes[0]
	m.MustSend("alice@example.test", "bob@example.test", Letter("metrics"))
	m.MustSend("alice@example.test", "x@far.example", Letter("metrics2"))
	require.NoError(t, c.Sink.Wait(within(t, 3*time.Minute), 1))
	_, err := m.Subjects("bob")
	require.NoError(t, err)
	ctx := within(t, 3*time.Minute)
	p, err := pop3.Dial(ctx, m.POP3, nil)
	require.NoError(t, err)
	require.NoError(t, p.Auth(ctx, sasl.NewScramClient("bob", "secret", nil)))
	require.NoError(t, p.Quit(ctx))
	text := metrics(t, m)
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	require.NoError(t, err)
	require.Empty(t, problems)
	if tool, err := exec.LookPath("promtool"); err == nil {
		cmd := exec.CommandContext(within(t, 3*time.Minute), tool, "check", "metrics")
		cmd.Stdin = strings.NewReader(text)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		require.Empty(t, string(out))
	}
	for _, want := range []string{
		"relay_accept_seconds_count 2", "relay_commit_seconds_count ", "relay_delivery_seconds_count 1",
		"relay_pop3_login_seconds_count 2", `relay_rule_mail_total{action="hold"} 0`, "relay_cluster_rules 0",
		"relay_leader 1", "relay_has_leader 1", "relay_term ", "relay_lag_entries ", "relay_clock_offset_seconds ",
		`relay_build_info{cluster_version="2",go_version="go1`, `kind="file"}`, `kind="cluster"}`, `kind="ca"}`, `role="mx"}`, "relay_logins_failed_total{",
		`relay_delivery_failures_total{class="greylist",outcome="deferred"} 0`,
		`relay_delivery_tls_policy_total{policy="mta-sts",result="missed"} 0`,
	} {
		require.Contains(t, text, want)
	}
	for row := range strings.SplitSeq(text, "\n") {
		help, ok := strings.CutPrefix(row, "# HELP relay_")
		if !ok {
			continue
		}
		_, help, _ = strings.Cut(help, " ")
		require.Greater(t, len(help), 15, row)
		for _, bad := range []string{"Of these", "Of them", "Counter of", "Size in", "Replicated counter"} {
			require.NotContains(t, help, bad, row)
		}
	}
}
