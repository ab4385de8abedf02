package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// hard is a message with what mail programs stumble over.
const hard = "From: bob@example.test\r\nTo: alice@example.test\r\nSubject: %s\r\n" +
	"Date: Sat, 21 Nov 2026 12:00:00 +0000\r\nMessage-ID: <%s@example.test>\r\n\r\n" +
	".\r\n..two dots\r\n\r\nFrom here on: na\xc3\xafve \xe2\x82\xac\r\n.hidden\r\ntrailing space \r\n\r\n"

func message(name string) string { return strings.ReplaceAll(hard, "%s", name) }

// TestCluster runs all cases that leave the cluster as they found it.
func TestCluster(t *testing.T) {
	d := Start(t)
	for _, c := range []struct {
		name string
		run  func(*testing.T, *Dev)
	}{
		{"go", goThroughAnotherNode},
		{"sink", goToTheSink},
		{"stranger", strangerMayNotRelay},
		{"swaks", swaksToCurl},
		{"msmtp", msmtpOverTLS},
		{"fetchmail", fetchmailOverTLS},
		{"mpop", mpopOverTLS},
		{"relayctl", relayctlLooks},
		{"promtool", promtoolIsContent}, // last, when there is much to tell
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, d.with(t)) })
	}
}

// with lets a case report to its own test.
func (d *Dev) with(t *testing.T) *Dev {
	c := *d
	c.t = t
	return &c
}

// empty deletes what a case before left in a mailbox.
func empty(t *testing.T, d *Dev, user string) {
	t.Helper()
	p := login(t, d.Addr(1, POP3), user, "secret")
	for n := p.count(); n > 0; n-- {
		p.say("DELE " + itoa(n))
	}
	p.quit()
}

func goThroughAnotherNode(t *testing.T, d *Dev) {
	empty(t, d, "alice")
	require.NoError(t, send(d.Addr(1, SMTP), "bob@example.test", []string{"alice@example.test"}, message("go")))
	p := login(t, d.Addr(3, POP3), "alice", "secret")
	require.Equal(t, 1, p.count())
	require.True(t, strings.HasSuffix(p.retr(1), lf(message("go"))), "the message below the added fields")
	p.say("DELE 1")
	p.quit()
}

func goToTheSink(t *testing.T, d *Dev) {
	require.NoError(t,
		send(d.Addr(2, SMTP), "alice@example.test", []string{"x@example.net", "y@example.net"}, message("to-sink")))
	m := d.AwaitSink("Subject: to-sink")
	require.True(t, strings.HasSuffix(m.Message, message("to-sink")), "the message below the added fields")
	require.Contains(t, m.Envelope, "X-Sink-From: <alice@example.test>\r\n")
	require.Contains(t, m.Envelope, "X-Sink-To: <x@example.net>\r\n")
}

func strangerMayNotRelay(t *testing.T, d *Dev) {
	need(t, "swaks")
	_, err := d.Try("", "swaks", "--server", d.Addr(1, SMTP), "--local-interface", "127.0.0.9",
		"--from", "eve@example.org", "--to", "x@example.net", "--silent", "2")
	require.ErrorContains(t, err, "550 5.7.1")
}

func swaksToCurl(t *testing.T, d *Dev) {
	need(t, "swaks", "curl")
	empty(t, d, "alice")
	file := filepath.Join(t.TempDir(), "message")
	require.NoError(t, os.WriteFile(file, []byte(message("swaks")), 0o600))
	d.Run("", "swaks", "--server", d.Addr(1, SMTP), "--from", "bob@example.test", "--to", "alice@example.test",
		"--data", "@"+file, "--silent", "2")
	got := d.Run("", "curl", "-sS", "-u", "alice:secret", "pop3://"+d.Addr(3, POP3)+"/1")
	// swaks ends the data with one more line end.
	require.True(t, strings.Contains(got, message("swaks")), "the message below the added fields")
}

func msmtpOverTLS(t *testing.T, d *Dev) {
	need(t, "msmtp")
	d.Run(message("msmtp"), "msmtp", "--host=localhost", "--port="+d.Port(2, Submission), "--auth=on", "--user=bob",
		"--passwordeval=echo secret", "--tls=on", "--tls-starttls=on", "--tls-trust-file="+d.CA(),
		"--from=bob@example.test", "someone@example.net")
	d.AwaitSink("Subject: msmtp")
	d.Run(message("msmtps"), "msmtp", "--host=localhost", "--port="+d.Port(2, Submissions), "--auth=on", "--user=bob",
		"--passwordeval=echo secret", "--tls=on", "--tls-starttls=off", "--tls-trust-file="+d.CA(),
		"--from=bob@example.test", "someone@example.net")
	d.AwaitSink("Subject: msmtps")
}

func fetchmailOverTLS(t *testing.T, d *Dev) {
	need(t, "fetchmail")
	empty(t, d, "bob")
	require.NoError(t, send(d.Addr(3, SMTP), "alice@example.test", []string{"bob@example.test"}, message("fetchmail")))
	dir := t.TempDir()
	box := filepath.Join(dir, "box")
	conf := filepath.Join(dir, "fetchmailrc")
	require.NoError(t,
		os.WriteFile(conf, []byte("set no bouncemail\npoll localhost protocol pop3 service "+d.Port(2, POP3S)+
			" user bob password secret ssl sslcertck sslcertfile "+d.CA()+" fetchall mda \"cat >> "+box+"\"\n"), 0o600))
	d.Run("", "fetchmail", "--fetchmailrc", conf, "--pidfile", filepath.Join(dir, "pid"), "--idfile",
		filepath.Join(dir, "ids"), "--silent")
	got, err := os.ReadFile(box)
	require.NoError(t, err)
	require.Contains(t, lf(string(got)), "\n.\n..two dots\n")
	p := login(t, d.Addr(1, POP3), "bob", "secret")
	require.Zero(t, p.count(), "fetchmail deletes what it has")
	p.quit()
}

func mpopOverTLS(t *testing.T, d *Dev) {
	need(t, "mpop")
	empty(t, d, "bob")
	require.NoError(t, send(d.Addr(1, SMTP), "alice@example.test", []string{"bob@example.test"}, message("mpop")))
	dir := t.TempDir()
	box := filepath.Join(dir, "box")
	d.Run("", "mpop", "--host=localhost", "--port="+d.Port(3, POP3), "--auth=on", "--user=bob",
		"--passwordeval=echo secret",
		"--tls=on", "--tls-starttls=on", "--tls-trust-file="+d.CA(), "--uidls-file="+filepath.Join(dir, "uidls"),
		"--keep=off", "--delivery=mbox,"+box, "-q")
	got, err := os.ReadFile(box)
	require.NoError(t, err)
	require.Contains(t, lf(string(got)), "\n.\n..two dots\n")
}

// promtoolIsContent: Prometheus' own linter has nothing to say of any node's metrics.
func promtoolIsContent(t *testing.T, d *Dev) {
	need(t, "promtool")
	for node := 1; node <= 3; node++ {
		res, err := http.Get("http://" + d.Addr(node, Admin) + "/metrics")
		require.NoError(t, err)
		text, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Contains(t, string(text), "relay_accept_seconds_count ")
		require.Empty(t, d.Run(string(text), "promtool", "check", "metrics"))
	}
}

func relayctlLooks(t *testing.T, d *Dev) {
	var status struct {
		Healthy bool
		Leader  string
		Nodes   []struct{ ID, State string }
	}
	require.NoError(t, json.Unmarshal([]byte(d.Ctl("status", "-o", "json")), &status))
	require.True(t, status.Healthy)
	require.NotEmpty(t, status.Leader)
	require.Len(t, status.Nodes, 3)
	require.NoError(t, send(d.Addr(1, SMTP), "alice@example.test", []string{"traced@example.net"}, message("traced")))
	d.AwaitSink("Subject: traced")
	d.Await(10*time.Second, "the timeline ends in a delivery", func() bool {
		return strings.Contains(d.Ctl("trace", "<traced@example.test>"), "delivered")
	})
	d.Ctl("queue", "ls")
}
