package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// way is how a client protects its session.
type way struct {
	name     string
	tls      bool // at all
	implicit bool
}

func ways() []way {
	return []way{{name: "plain"}, {name: "stls", tls: true}, {name: "implicit", tls: true, implicit: true}}
}

func (w way) port(d *Dev, node int) string {
	if w.implicit {
		return d.Port(node, POP3S)
	}
	return d.Port(node, POP3)
}

// TestPOP3Clients has other people's programs fetch hard mail, in the clear, by
// STLS and on TLS, each from another node than took it.
func TestPOP3Clients(t *testing.T) {
	t.Parallel()
	d := Start(t)
	for _, c := range []struct {
		name, program string
		fetch         func(d *Dev, w way, node int, dir string) string // all that it got
	}{
		{"curl", "curl", byCurl},
		{"fetchmail", "fetchmail", byFetchmail},
		{"getmail", "getmail", byGetmail},
		{"mpop", "mpop", byMpop},
		{"poplib", "python3", byPoplib},
	} {
		for i, w := range ways() {
			t.Run(c.name+"/"+w.name, func(t *testing.T) {
				need(t, c.program)
				if c.name == "getmail" && w.name == "stls" {
					t.Skip("getmail has no STLS")
				}
				d := d.with(t)
				empty(t, d, "bob")
				for k := range 3 {
					require.NoError(t, send(d.Addr(k+1, SMTP), "alice@example.test", []string{"bob@example.test"},
						message(fmt.Sprintf("%s-%s-%d", c.name, w.name, k))))
				}
				got := lf(c.fetch(d, w, i+1, t.TempDir()))
				for k := range 3 {
					require.Equal(t, 1, strings.Count(got, fmt.Sprintf("Subject: %s-%s-%d\n", c.name, w.name, k)))
				}
				require.Equal(t, 3, strings.Count(got, "\n.\n..two dots\n"), "stuffing is undone")
				require.Equal(t, 3, strings.Count(got, "na\xc3\xafve \xe2\x82\xac\n.hidden\ntrailing space \n"),
					"octets are as they were")
				p := login(t, d.Addr(1, POP3), "bob", "secret")
				require.Zero(t, p.count(), "it deletes what it has")
				p.quit()
			})
		}
	}
}

func byCurl(d *Dev, w way, node int, _ string) (all string) {
	scheme, flags := "pop3", []string{}
	if w.implicit {
		scheme = "pop3s"
	}
	if w.tls {
		flags = []string{"--ssl-reqd", "--cacert", d.CA()}
	}
	curl := func(path string, more ...string) string {
		args := append([]string{"curl", "-sS", "-u", "bob:secret"}, flags...)
		args = append(append(args, more...), scheme+"://localhost:"+w.port(d, node)+"/"+path)
		return d.Run("", args...)
	}
	require.Len(d.t, strings.Fields(curl("")), 6, "three lines of LIST")
	require.Len(d.t, strings.Fields(curl("", "-X", "UIDL")), 6)
	require.NotContains(d.t, curl("", "-X", "TOP 1 0"), "two dots")
	for range 3 {
		all += curl("1")
		curl("1", "-X", "DELE", "-I")
	}
	return all
}

func byFetchmail(d *Dev, w way, node int, dir string) string {
	box, conf := filepath.Join(dir, "box"), filepath.Join(dir, "fetchmailrc")
	protect := "sslproto ''"
	switch {
	case w.implicit:
		protect = "ssl sslcertck sslcertfile " + d.CA()
	case w.tls:
		protect = "sslproto 'TLS1+' sslcertck sslcertfile " + d.CA()
	}
	require.NoError(d.t,
		os.WriteFile(conf, []byte("set no bouncemail\npoll localhost protocol pop3 uidl service "+w.port(d, node)+
			" user bob password secret "+protect+" fetchall mda \"cat >> "+box+"\"\n"), 0o600))
	d.Run("", "fetchmail", "--fetchmailrc", conf, "--pidfile", filepath.Join(dir, "pid"), "--idfile",
		filepath.Join(dir, "ids"), "--silent")
	return slurp(d, box)
}

func byGetmail(d *Dev, w way, node int, dir string) string {
	box, retriever := filepath.Join(dir, "box"), "SimplePOP3Retriever"
	more := ""
	if w.implicit {
		retriever, more = "SimplePOP3SSLRetriever", "ca_certs = "+d.CA()+"\n"
	}
	require.NoError(d.t,
		os.WriteFile(filepath.Join(dir, "getmailrc"), []byte("[retriever]\ntype = "+retriever+"\nserver = localhost\nport = "+
			w.port(d, node)+"\nusername = bob\npassword = secret\n"+more+"[destination]\ntype = MDA_external\npath = /bin/sh\n"+
			"arguments = ('-c', 'cat >> "+box+"')\nunixfrom = false\nallow_root_commands = true\n[options]\ndelete = true\n"+
			"delivered_to = false\nreceived = false\n"), 0o600))
	d.Run("", "getmail", "--getmaildir", dir, "--rcfile", "getmailrc", "--quiet")
	return slurp(d, box)
}

func byMpop(d *Dev, w way, node int, dir string) string {
	box := filepath.Join(dir, "box")
	args := []string{"mpop", "--host=localhost", "--port=" + w.port(d, node), "--user=bob", "--passwordeval=echo secret",
		"--uidls-file=" + filepath.Join(dir, "uidls"), "--keep=off", "--delivery=mbox," + box, "-q"}
	switch {
	case w.implicit:
		args = append(args, "--auth=on", "--tls=on", "--tls-starttls=off", "--tls-trust-file="+d.CA())
	case w.tls:
		args = append(args, "--auth=on", "--tls=on", "--tls-starttls=on", "--tls-trust-file="+d.CA())
	default:
		args = append(args, "--auth=user", "--tls=off")
	}
	d.Run("", args...)
	return strings.ReplaceAll(slurp(d, box), "\n>From ", "\nFrom ")
}

// poplibProgram uses every command that Python's library has.
const poplibProgram = `
import poplib, ssl, sys
way, port, ca = sys.argv[1], int(sys.argv[2]), sys.argv[3]
context = ssl.create_default_context(cafile=ca)
if way == "implicit":
    p = poplib.POP3_SSL("localhost", port, context=context)
else:
    p = poplib.POP3("localhost", port)
caps = p.capa()
assert "UIDL" in caps and "TOP" in caps, caps
if way == "stls":
    p.stls(context)
    assert "STLS" not in p.capa()
assert p.utf8().startswith(b"+OK")
p.user("bob"); p.pass_("secret")
n, octets = p.stat()
sizes = [int(line.split()[1]) for line in p.list()[1]]
assert n == 3 and sum(sizes) == octets, (n, octets, sizes)
uids = [line.split()[1] for line in p.uidl()[1]]
assert len(set(uids)) == 3, uids
assert p.uidl(2).split()[2] == uids[1]
for i in range(1, n + 1):
    head = p.top(i, 0)[1]
    assert head[-1] == b"" and not any(b"two dots" in line for line in head), head
    _, lines, size = p.retr(i)
    assert sum(len(line) + 2 for line in lines) == sizes[i - 1], (sizes[i - 1], size)
    sys.stdout.buffer.write(b"\n".join(lines) + b"\n")
    p.dele(i)
assert p.stat()[0] == 0
p.rset(); p.noop()
assert p.stat() == (n, octets)
try:
    p.retr(99)
    raise SystemExit("RETR 99 was answered +OK")
except poplib.error_proto:
    pass
for i in range(1, n + 1):
    p.dele(i)
p.quit()
`

func byPoplib(d *Dev, w way, node int, _ string) string {
	return d.Run(poplibProgram, "python3", "-", w.name, w.port(d, node), d.CA())
}

func slurp(d *Dev, path string) string {
	data, err := os.ReadFile(path)
	require.NoError(d.t, err)
	return string(data)
}

// front is HAProxy before the POP3 ports, as deploy/haproxy has it but for the
// PROXY protocol, which relayd dev does not expect.
const front = `
global
    maxconn 100
defaults
    mode tcp
    timeout connect 3s
    timeout client 60s
    timeout server 60s
    timeout check 2s
    option redispatch 1
    retries 3
    option httpchk
    http-check send meth GET uri /readyz
    http-check expect status 200
    default-server inter 500ms fall 1 rise 1 on-marked-down shutdown-sessions
listen pop3
    bind 127.0.0.1:%d
    balance roundrobin
`

// proxy runs HAProxy before the nodes until the test ends, and returns its port.
func (d *Dev) proxy() string {
	port := d.basePort + 5
	text := fmt.Sprintf(front, port)
	for node := 1; node <= 3; node++ {
		text += fmt.Sprintf("    server n%d %s check port %s\n", node, d.Addr(node, POP3), d.Port(node, Admin))
	}
	conf := filepath.Join(d.t.TempDir(), "haproxy.cfg")
	require.NoError(d.t, os.WriteFile(conf, []byte(text), 0o600))
	cmd := exec.Command("haproxy", "-db", "-f", conf)
	cmd.Stderr = os.Stderr
	require.NoError(d.t, cmd.Start())
	d.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	d.Await(10*time.Second, "the proxy serves", func() bool {
		m, err := open("127.0.0.1:"+itoa(port), "alice", "secret")
		if err == nil {
			m.close()
		}
		return err == nil
	})
	return itoa(port)
}

// TestFetchmailKeepsOverFailures: fetchmail leaves mail on the server and knows
// it by UIDL. The node that serves it dies in the middle of a poll, time and
// again; through the proxy it goes on at another node, and has each message
// exactly once at the end.
func TestFetchmailKeepsOverFailures(t *testing.T) {
	t.Parallel()
	d := Start(t, "--restart-after", "2s")
	need(t, "fetchmail", "haproxy")
	port, dir := d.proxy(), t.TempDir()
	box, conf := filepath.Join(dir, "box"), filepath.Join(dir, "fetchmailrc")
	require.NoError(t, os.WriteFile(box, nil, 0o600))
	require.NoError(t, os.WriteFile(conf, []byte("set no bouncemail\npoll localhost protocol pop3 uidl service "+port+
		" user bob password secret sslproto '' keep fetchlimit 0 mda \"cat >> "+box+"; sleep 0.05\"\n"), 0o600))
	poll := func() (string, error) {
		return d.Try("", "fetchmail", "--fetchmailrc", conf, "--pidfile", filepath.Join(dir, "pid"), "--idfile",
			filepath.Join(dir, "ids"), "--nodetach", "--verbose")
	}
	const rounds, each = 4, 12
	sent, broken := 0, 0
	for range rounds {
		d.healthy(60 * time.Second)
		for k := range each {
			require.NoError(t, send(d.Addr(k%3+1, SMTP), "alice@example.test", []string{"bob@example.test"},
				message(fmt.Sprintf("keep-%d", sent))))
			sent++
		}
		had := strings.Count(slurp(d, box), "Subject: keep-")
		polled := make(chan error, 1)
		go func() { _, err := poll(); polled <- err }()
		killed := d.killServer("bob", func() bool { return strings.Count(slurp(d, box), "Subject: keep-") > had+2 })
		if <-polled != nil {
			broken++
		}
		require.True(t, killed, "the poll was over before its node could be killed")
		// The lock of the dead node, and HAProxy's, last for some seconds.
		d.Await(40*time.Second, "a poll comes to its end", func() bool {
			_, err := poll()
			var exit *exec.ExitError
			return err == nil || errors.As(err, &exit) && exit.ExitCode() == 1 // no new mail
		})
	}
	got := lf(slurp(d, box))
	for i := range sent {
		require.Equal(t, 1, strings.Count(got, fmt.Sprintf("Subject: keep-%d\n", i)), "message %d", i)
	}
	p := login(t, d.Addr(2, POP3), "bob", "secret")
	require.Equal(t, sent, p.count(), "all of it is kept")
	p.quit()
	t.Logf("%d messages fetched once each; of %d polls in which the node was killed %d broke", sent, rounds, broken)
	require.NotZero(t, broken)
}

// killServer kills the node that serves a user's session once when says so.
func (d *Dev) killServer(user string, when func() bool) bool {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		if when() {
			node := 0
			if _, err := fmt.Sscanf(d.lockOf(user), "n%d", &node); err != nil {
				return false
			}
			d.kill(node)
			return true
		}
		pause(d, 10*time.Millisecond)
	}
	return false
}
