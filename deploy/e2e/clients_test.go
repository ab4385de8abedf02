package e2e

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestClients: other people's programs hand mail in, in every way that they can.
func TestClients(t *testing.T) {
	t.Parallel()
	d := Start(t)
	for _, c := range []struct {
		name string
		run  func(*testing.T, *Dev)
	}{
		{"swaks", swaksSends}, {"curl", curlSends}, {"msmtp", msmtpSends}, {"s-nail", nailSends}, {"gsasl", gsaslLogsIn},
		{"python", pythonSends}, {"bare LF", bareLF},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, d.with(t)) })
	}
	d.verify()
}

// sent waits for a message at the sink and looks how it came into the cluster.
func (d *Dev) sent(subject, protocol, to, ending string) {
	d.t.Helper()
	m := d.AwaitSink("Subject: " + subject + "\r\n")
	require.Contains(d.t, m.Envelope, "X-Sink-To: <"+to+">\r\n")
	require.Regexp(d.t, ` with `+regexp.QuoteMeta(protocol)+` id `+idOf(m.Message), m.Message)
	require.Equal(d.t, strings.HasSuffix(protocol, "S") || strings.HasSuffix(protocol, "SA"),
		strings.Contains(m.Message, "\r\n\t(TLS 1."), "%s", m.Message)
	require.True(d.t, strings.HasSuffix(strings.TrimRight(m.Message, "\r\n"), strings.TrimRight(ending, "\r\n")),
		"%s: the message below the added fields: %q", subject, m.Message)
}

// temp writes a file of the test's own.
func temp(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func swaksSends(t *testing.T, d *Dev) {
	need(t, "swaks")
	tls := strings.Contains(d.Run("", "swaks", "--support"), "TLS supported")
	login := func(mech string) []string {
		return []string{"--auth", mech, "--auth-user", "bob", "--auth-password", "secret"}
	}
	for _, c := range []struct {
		name     string
		service  int
		protocol string
		more     []string
	}{
		{"swaks-clear", SMTP, "ESMTP", nil},
		{"swaks-helo", SMTP, "SMTP", []string{"--protocol", "SMTP"}},
		{"swaks-plain-in-clear", SMTP, "ESMTPA", login("PLAIN")},
		{"swaks-tls", SMTP, "ESMTPS", []string{"--tls", "--tls-verify", "--tls-ca-path", d.CA()}},
		{"swaks-plain", Submission, "ESMTPSA", append(login("PLAIN"), "--tls")},
		{"swaks-login", Submission, "ESMTPSA", append(login("LOGIN"), "--tls")},
		{"swaks-wrapped", Submissions, "ESMTPSA", append(login("PLAIN"), "--tls-on-connect")},
		{"swaks-pipelined", SMTP, "ESMTP", []string{"--pipeline"}},
	} {
		if !tls && slices.ContainsFunc(c.more, func(arg string) bool { return strings.HasPrefix(arg, "--tls") }) {
			t.Logf("%s: swaks has no TLS without libnet-ssleay-perl", c.name)
			continue
		}
		args := append([]string{"swaks", "--server", "localhost", "--port", d.Port(1, c.service), "--from",
			"bob@example.test", "--to", "x@example.net",
			"--data", "@" + temp(t, message(c.name)), "--silent", "2"}, c.more...)
		d.Run("", args...)
		d.sent(c.name, c.protocol, "x@example.net", message(c.name))
	}
	for _, wrong := range [][]string{{"--port", d.Port(1, Submission), "--tls", "--auth", "PLAIN", "--auth-user", "bob",
		"--auth-password", "wrong"},
		{"--port", d.Port(1, Submission), "--tls"}, {"--port", d.Port(1, SMTP), "--local-interface", "127.0.0.9"}} {
		_, err := d.Try("",
			append([]string{
				"swaks", "--server", "127.0.0.1", "--from", "bob@example.test", "--to", "x@example.net", "--silent", "2",
			}, wrong...)...)
		require.Error(t, err)
	}
}

func curlSends(t *testing.T, d *Dev) {
	need(t, "curl")
	for _, c := range []struct {
		name, url, protocol, to string
		more                    []string
	}{
		{"curl-clear", "smtp://localhost:" + d.Port(2, SMTP), "ESMTP", "x@example.net", nil},
		{"curl-tls", "smtp://localhost:" + d.Port(2, SMTP), "ESMTPS", "x@example.net", []string{"--ssl-reqd"}},
		{"curl-plain", "smtp://localhost:" + d.Port(2, Submission), "ESMTPSA", "x@example.net",
			[]string{"--ssl-reqd", "-u", "bob:secret", "--login-options", "AUTH=PLAIN"}},
		{"curl-login", "smtp://localhost:" + d.Port(2, Submission), "ESMTPSA", "x@example.net",
			[]string{"--ssl-reqd", "-u", "bob:secret", "--login-options", "AUTH=LOGIN"}},
		{"curl-wrapped", "smtps://localhost:" + d.Port(2, Submissions), "ESMTPSA", "x@example.net",
			[]string{"-u", "bob:secret"}},
		{"curl-utf8", "smtps://localhost:" + d.Port(2, Submissions), "UTF8SMTPSA", "jürgen@example.net",
			[]string{"-u", "bob:secret"}},
	} {
		d.Run("", append([]string{"env", "LC_ALL=C.UTF-8", "curl", "-sS", "--cacert", d.CA(), c.url, "--mail-from",
			"bob@example.test", "--mail-rcpt", c.to,
			"-T", temp(t, message(c.name))}, c.more...)...)
		d.sent(c.name, c.protocol, c.to, message(c.name))
	}
	_, err := d.Try("", "curl", "-sS", "--cacert", d.CA(), "--ssl-reqd", "smtp://localhost:"+d.Port(2, Submission),
		"-u", "bob:wrong",
		"--mail-from", "bob@example.test", "--mail-rcpt", "x@example.net", "-T", temp(t, message("curl-wrong")))
	require.Error(t, err)
}

func msmtpSends(t *testing.T, d *Dev) {
	need(t, "msmtp")
	known := d.Run("", "msmtp", "--version")
	login := func(mech string) []string {
		return []string{
			"--auth=" + mech, "--user=bob", "--passwordeval=echo secret", "--tls=on", "--tls-trust-file=" + d.CA(),
		}
	}
	for _, c := range []struct {
		name     string
		service  int
		protocol string
		more     []string
	}{
		{"msmtp-clear", SMTP, "ESMTP", []string{"--auth=off", "--tls=off"}},
		{"msmtp-plain", Submission, "ESMTPSA", append(login("plain"), "--tls-starttls=on")},
		{"msmtp-login", Submission, "ESMTPSA", append(login("login"), "--tls-starttls=on")},
		{"msmtp-scram", Submission, "ESMTPSA", append(login("scram-sha-256"), "--tls-starttls=on")},
		{"msmtp-wrapped", Submissions, "ESMTPSA", append(login("scram-sha-256"), "--tls-starttls=off")},
	} {
		if strings.HasPrefix(c.more[0], "--auth=scram") && !strings.Contains(known, "scram-sha-256") {
			t.Logf("%s: this msmtp has no SCRAM", c.name)
			continue
		}
		d.Run(message(c.name),
			append([]string{"msmtp", "--host=localhost", "--port=" + d.Port(3, c.service), "--from=bob@example.test"},
				append(c.more, "x@example.net")...)...)
		d.sent(c.name, c.protocol, "x@example.net", message(c.name))
	}
}

func nailSends(t *testing.T, d *Dev) {
	need(t, "s-nail")
	for _, c := range []struct {
		name, mta, protocol string
		more                []string
	}{
		{"nail-clear", "smtp://localhost:" + d.Port(1, SMTP), "SMTP", []string{"-S", "smtp-auth=none"}},
		{"nail-plain", "submission://bob:secret@localhost:" + d.Port(1, Submission), "ESMTPSA",
			[]string{"-S", "smtp-use-starttls", "-S", "smtp-auth=plain"}},
		{"nail-login", "submission://bob:secret@localhost:" + d.Port(1, Submission), "ESMTPSA",
			[]string{"-S", "smtp-use-starttls", "-S", "smtp-auth=login"}},
		{"nail-wrapped", "submissions://bob:secret@localhost:" + d.Port(1, Submissions), "ESMTPSA",
			[]string{"-S", "smtp-auth=plain"}},
	} {
		args := append([]string{"s-nail", "-:/", "-S", "v15-compat", "-S", "mta=" + c.mta, "-S", "tls-ca-file=" + d.CA(),
			"-S", "tls-verify=strict", "-S", "sendwait", "-S", "nosave",
			"-S", "ttycharset=utf-8", "-S", "mime-encoding=8bit", "-S", "from=bob@example.test", "-S",
			"hostname=client.example.org", "-s", c.name}, c.more...)
		d.Run("na\xc3\xafve \xe2\x82\xac\n.\n..two\n", append(args, "x@example.net")...)
		d.sent(c.name, c.protocol, "x@example.net", "\r\n\r\nna\xc3\xafve \xe2\x82\xac\r\n.\r\n..two\r\n")
	}
}

func gsaslLogsIn(t *testing.T, d *Dev) {
	need(t, "gsasl")
	try := func(mech, password string, more ...string) (string, error) {
		return d.Try("", append([]string{"timeout", "10", "gsasl", "--client", "--smtp", "--starttls",
			"--x509-ca-file=" + d.CA(), "--mechanism=" + mech,
			"--authentication-id=bob@example.test", "--password=" + password, "localhost", d.Port(1, Submission)}, more...)...)
	}
	// Without --no-cb this program refuses any SCRAM that it can not bind.
	for _, mech := range []string{"PLAIN", "LOGIN", "SCRAM-SHA-256"} {
		out, err := try(mech, "secret", "--no-cb")
		require.NoError(t, err, mech)
		require.Contains(t, out, "235 2.7.0", mech)
		_, err = try(mech, "wrong", "--no-cb")
		require.ErrorContains(t, err, "535 5.7.8", mech)
	}
	_, err := try("SCRAM-SHA-256-PLUS", "secret")
	require.Error(t, err, "it is not listed")
}

const python = `
import smtplib, ssl, sys, socket
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
clear, start, wrapped, ca = sys.argv[1:]
tls = ssl.create_default_context(cafile=ca)
text = open(0, 'rb').read()

def raw(name):
    return text.replace(b'%s', name.encode())

with smtplib.SMTP('localhost', int(clear)) as s:
    s.sendmail('bob@example.test', ['x@example.net'], raw('python-clear'))
    s.sendmail('bob@example.test', ['x@example.net', 'y@example.net'], raw('python-body'), mail_options=['BODY=8BITMIME', 'RET=HDRS', 'ENVID=a+2Bb'], rcpt_options=['NOTIFY=FAILURE'])
    assert s.verify('nobody')[0] == 252, s.verify('nobody')
    try:
        s.sendmail('bob@example.test', ['nobody@example.test'], raw('python-nobody'))
        sys.exit('an unknown user was taken')
    except smtplib.SMTPRecipientsRefused as e:
        assert e.recipients['nobody@example.test'][0] == 550, e

with smtplib.SMTP('localhost', int(start)) as s:
    try:
        s.sendmail('bob@example.test', ['x@example.net'], raw('python-no-login'))
        sys.exit('mail without a login was taken')
    except smtplib.SMTPSenderRefused as e:
        assert e.smtp_code == 530, e
    s.rset()
    s.starttls(context=tls)
    s.ehlo()
    for f in 'pipelining size 8bitmime smtputf8 chunking binarymime dsn enhancedstatuscodes auth requiretls deliverby futurerelease mt-priority limits etrn help'.split():
        assert s.has_extn(f), f
    s.user, s.password = 'bob', 'wrong'
    try:
        s.auth('PLAIN', s.auth_plain)
        sys.exit('a wrong password was taken')
    except smtplib.SMTPAuthenticationError as e:
        assert e.smtp_code == 535, e
    s.password = 'secret'
    s.auth('LOGIN', s.auth_login)
    s.sendmail('bob@example.test', ['x@example.net'], raw('python-login'))

with smtplib.SMTP_SSL('localhost', int(wrapped), context=tls) as s:
    s.login('bob', 'secret')
    s.sendmail('bob@example.test', ['x@example.net'], raw('python-wrapped'))
    m = EmailMessage(policy=SMTPUTF8)
    m['From'], m['To'], m['Subject'] = 'bob@example.test', 'jürgen@bücher.example.net', 'python-utf8'
    m.set_content('grüße\n', cte='8bit')
    s.send_message(m)
    binary = raw('python-binary') + b'\x00\n\r'
    for verb in 'MAIL FROM:<bob@example.test> BODY=BINARYMIME', 'RCPT TO:<x@example.net>':
        assert s.docmd(verb)[0] == 250
    s.send(b'BDAT 7\r\n' + binary[:7] + b'BDAT %d\r\n' % (len(binary) - 7) + binary[7:] + b'BDAT 0 LAST\r\n')
    for _ in range(3):
        r = s.getreply()
        assert r[0] == 250, r
`

func pythonSends(t *testing.T, d *Dev) {
	need(t, "python3")
	d.Run(hard, "python3", "-c", python, d.Port(2, SMTP), d.Port(2, Submission), d.Port(2, Submissions), d.CA())
	for name, protocol := range map[string]string{
		"python-clear": "ESMTP", "python-body": "ESMTP", "python-login": "ESMTPSA", "python-wrapped": "ESMTPSA",
	} {
		d.sent(name, protocol, "x@example.net", message(name))
	}
	d.sent("python-binary", "ESMTPSA", "x@example.net", message("python-binary")+"\x00\n\r")
	d.sent("python-utf8", "UTF8SMTPSA", "jürgen@xn--bcher-kva.example.net", "\r\n\r\ngrüße\r\n")
}

// bareLF is a program that ends its lines in LF and hangs up without QUIT: from
// the host itself it is served, from elsewhere refused.
func bareLF(t *testing.T, d *Dev) {
	dialogue := "HELO old\nMAIL FROM:<bob@example.test>\nRCPT TO:<x@example.net>\nDATA\n" +
		strings.ReplaceAll(lf("\n"+message("bare-lf")), "\n.", "\n..")[1:] + ".\n"
	say := func(from string) string {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
		conn, err := dialer.DialContext(t.Context(), "tcp", d.Addr(1, SMTP))
		require.NoError(t, err)
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = io.WriteString(conn, dialogue)
		require.NoError(t, err)
		var heard strings.Builder
		b := make([]byte, 4096)
		for !strings.Contains(heard.String(), "queued as") && !strings.Contains(heard.String(), "\r\n421 ") {
			n, err := conn.Read(b)
			heard.Write(b[:n])
			if err != nil {
				break
			}
		}
		return heard.String()
	}
	stranger := say("127.0.0.9")
	require.Contains(t, stranger, "\r\n500 5.5.2 Lines must end in CR LF\r\n")
	require.NotContains(t, stranger, "250")
	trusted := say("127.0.0.1")
	require.Regexp(t, `^220 .*\r\n250 .*\r\n250 .*\r\n250 .*\r\n354 .*\r\n250 2\.0\.0 Ok: queued as \w+\r\n$`, trusted)
	d.sent("bare-lf", "SMTP", "x@example.net", message("bare-lf"))
	found := 0
	for _, m := range d.Sink() {
		if strings.Contains(m.Message, "Subject: bare-lf\r\n") {
			found++
		}
	}
	require.Equal(t, 1, found)
}
