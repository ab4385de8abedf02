package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLoginsOfOtherPrograms: mutt, msmtp, mpop and gsasl log in over TLS by what
// they pick themselves and by SCRAM, with passwords that SASLprep changes. GNU
// SASL prepares them, and prefers -PLUS where it is offered.
func TestLoginsOfOtherPrograms(t *testing.T) {
	t.Parallel()
	d := Start(t)
	ctl := func(stdin string, args ...string) { d.Run(stdin, append([]string{d.bin + "/relayctl"}, args...)...) }
	passwords := map[string]string{"carol": "pass²", "dora": "5µ´\u00a0ju\u0308rgen", "emil": "secret"}
	for user, password := range passwords {
		ctl(password+"\n", "user", "add", user+"@example.test", "--password-stdin")
		for _, c := range []struct {
			name string
			run  func(*testing.T, *Dev, string, string)
		}{{"mutt", muttSends}, {"msmtp", msmtpLogsIn}, {"mpop", mpopLogsIn}, {"gsasl", gsaslProves}} {
			t.Run(c.name+" "+user, func(t *testing.T) { c.run(t, d.with(t), user, password) })
		}
	}
	// A user with only an imported hash logs in by mutt, too: SCRAM is not announced.
	ctl("$2y$04$c2FsdHNhbHRzYWx0c2FsdOVzBnUVvVyHWQY0j3HmPyWbZPVlUZ1Pe\n", "user", "add", "frida@example.test",
		"--password-stdin", "--hashed")
	require.NotContains(t,
		d.Run("QUIT\r\n", "openssl", "s_client", "-quiet", "-starttls", "smtp", "-connect", d.Addr(1, Submission)), "SCRAM")
	d.verify()
}

// muttSends has mutt hand in a message over STARTTLS.
func muttSends(t *testing.T, d *Dev, user, password string) {
	need(t, "mutt")
	home := t.TempDir()
	rc := filepath.Join(home, "muttrc")
	require.NoError(t, os.WriteFile(rc, []byte(strings.Join([]string{
		"set smtp_url = \"smtp://" + user + "@localhost:" + d.Port(1, Submission) + "/\"",
		"set smtp_pass = \"" + password + "\"", "set ssl_force_tls = yes",
		"set certificate_file = \"" + d.CA() + "\"", "set ssl_usesystemcerts = no",
		"set from = \"" + user + "@example.test\"", "set use_from = yes", "set use_envelope_from = yes",
		"set copy = no", "set charset = utf-8", "set hostname = example.test", "set record = \"\"",
	}, "\n")+"\n"), 0o600))
	out, err := d.Try("said by mutt\n", "env", "LC_ALL=C.UTF-8", "HOME="+home, "mutt", "-n", "-F", rc, "-s",
		"mutt "+user, "x@example.net")
	require.NoError(t, err, out)
	m := d.AwaitSink("Subject: mutt " + user + "\r\n")
	require.Contains(t, m.Message, " with ESMTPSA id ")
}

func msmtpLogsIn(t *testing.T, d *Dev, user, password string) {
	need(t, "msmtp")
	for _, mech := range []string{"on", "scram-sha-256", "plain", "login"} {
		if mech == "scram-sha-256" && !strings.Contains(d.Run("", "msmtp", "--version"), mech) {
			continue
		}
		subject := "msmtp " + mech + " " + user
		own := strings.ReplaceAll(message(subject), "bob@example.test", user+"@example.test")
		d.Run(own, "env", "LC_ALL=C.UTF-8", "msmtp", "--host=localhost", "--port="+d.Port(2, Submission), "--auth="+mech,
			"--user="+user, "--passwordeval=printf '%s\\n' '"+password+"'",
			"--tls=on", "--tls-trust-file="+d.CA(), "--from="+user+"@example.test", "x@example.net")
		d.AwaitSink("Subject: " + subject + "\r\n")
	}
}

func mpopLogsIn(t *testing.T, d *Dev, user, password string) {
	need(t, "mpop")
	for _, mech := range []string{"on", "scram-sha-256", "plain"} {
		if mech == "scram-sha-256" && !strings.Contains(d.Run("", "mpop", "--version"), mech) {
			continue
		}
		subject := "mpop " + mech + " " + user
		require.NoError(t, send(d.Addr(1, SMTP), "alice@example.test", []string{user + "@example.test"}, message(subject)))
		box := filepath.Join(t.TempDir(), "mbox")
		d.Run("", "env", "LC_ALL=C.UTF-8", "mpop", "--host=localhost", "--port="+d.Port(3, POP3), "--auth="+mech,
			"--user="+user, "--passwordeval=printf '%s\\n' '"+password+"'",
			"--tls=on", "--tls-trust-file="+d.CA(), "--delivery=mbox,"+box,
			"--uidls-file="+filepath.Join(t.TempDir(), "uidls"), "--keep=off")
		got, err := os.ReadFile(box)
		require.NoError(t, err)
		require.Contains(t, string(got), "Subject: "+subject)
	}
}

// gsaslProves names the account in another spelling as well.
func gsaslProves(t *testing.T, d *Dev, user, password string) {
	need(t, "gsasl")
	for _, mech := range []string{"PLAIN", "SCRAM-SHA-256"} {
		for _, id := range []string{"", "--authorization-id=" + user + "@example.test"} {
			args := []string{"env", "LC_ALL=C.UTF-8", "timeout", "10", "gsasl", "--client", "--smtp", "--starttls", "--no-cb",
				"--x509-ca-file=" + d.CA(), "--mechanism=" + mech,
				"--authentication-id=" + user, "--password=" + password, "localhost", d.Port(1, Submission)}
			if id != "" {
				args = append(args, id)
			}
			out, err := d.Try("", args...)
			require.NoError(t, err, "%s %s: %s", mech, id, out)
			require.Contains(t, out, "235 2.7.0", mech)
		}
	}
}
