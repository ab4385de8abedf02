package e2e

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/mail"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/porttest"
	"relay/node/nodetest"
)

// postfix is an instance with its own configuration, queue and mail, which
// takes all mail for dest.example.com but what its access map says. More settings
// take the place of its own.
type postfix struct {
	t    *testing.T
	dir  string
	addr string
}

const postfixHost = "127.0.0.30"

func startPostfix(t *testing.T, more ...string) *postfix {
	need(t, "postfix")
	if os.Geteuid() != 0 {
		t.Skip("only root can start Postfix")
	}
	owner, err := user.Lookup("postfix")
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "relay-e2e-postfix-") // open to Postfix's user, unlike the test's own
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	p := &postfix{t: t, dir: dir, addr: freeAddr(t, postfixHost)}
	for _, sub := range []string{"conf", "queue", "data", "mail"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, sub), 0o755))
	}
	for _, sub := range []string{"data", "mail"} {
		out, err := exec.Command("chown", owner.Uid+":"+owner.Gid, filepath.Join(dir, sub)).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	main := postfixMain + strings.Join(more, "\n") + "\n"
	p.write("main.cf", strings.NewReplacer("DIR", dir, "UID", owner.Uid, "GID", owner.Gid).Replace(main))
	p.write("master.cf", strings.ReplaceAll(postfixMaster, "ADDR", p.addr))
	p.write("access", "")
	p.command("start")
	t.Cleanup(func() { _ = exec.Command("postfix", "-c", filepath.Join(dir, "conf"), "stop").Run() })
	return p
}

func (p *postfix) write(name, text string) {
	p.t.Helper()
	require.NoError(p.t, os.WriteFile(filepath.Join(p.dir, "conf", name), []byte(text), 0o644))
}

func (p *postfix) command(verb string) {
	p.t.Helper()
	out, err := exec.Command("postfix", "-c", filepath.Join(p.dir, "conf"), verb).CombinedOutput()
	log, _ := os.ReadFile(filepath.Join(p.dir, "log"))
	require.NoError(p.t, err, "%s%s", out, log)
}

// rules sets the access map: an address and what RCPT is answered, per line.
func (p *postfix) rules(text string) {
	p.t.Helper()
	p.write("access", text)
	p.command("reload")
}

// delivered returns the messages in its one mailbox that hold a text.
func (p *postfix) delivered(text string) []string {
	return maildir(filepath.Join(p.dir, "mail", "box", "new"), text)
}

// open is how many clients are connected, by its log.
func (p *postfix) open() int {
	log, err := os.ReadFile(filepath.Join(p.dir, "log"))
	require.NoError(p.t, err)
	return strings.Count(string(log), "]: connect from ") - strings.Count(string(log), "]: disconnect from ")
}

const postfixMain = `compatibility_level = 3.6
queue_directory = DIR/queue
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
data_directory = DIR/data
mail_owner = postfix
setgid_group = postdrop
myhostname = mx2.dest.example.com
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.99/32
virtual_mailbox_domains = dest.example.com
virtual_mailbox_base = DIR/mail
virtual_mailbox_maps = static:box/
virtual_minimum_uid = 1
virtual_uid_maps = static:UID
virtual_gid_maps = static:GID
smtpd_recipient_restrictions = check_recipient_access texthash:DIR/conf/access, reject_unauth_destination
maillog_file_prefixes = DIR
maillog_file = DIR/log
`

const postfixMaster = `ADDR inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`

func freeAddr(t *testing.T, host string) string { return porttest.Addr(t, host) }

// TestPostfixByMX: the next hop is found by MX, the first of two being dead; it
// says later, and no.
func TestPostfixByMX(t *testing.T) {
	p := startPostfix(t)
	_, port, err := net.SplitHostPort(p.addr)
	require.NoError(t, err)
	zone := nodetest.NewDNS(t)
	zone.Add(t,
		"dest.example.com. 60 IN MX 10 mx1.dest.example.com.",
		"dest.example.com. 60 IN MX 20 mx2.dest.example.com.",
		"mx1.dest.example.com. 60 IN A 127.0.0.31", // nothing listens there
		"mx2.dest.example.com. 60 IN A "+postfixHost)
	d := Start(t)
	d.Ctl("route", "rm", "*")
	d.settings(map[string]any{"retry_first_seconds": 2})
	d.Stop()
	for node := 1; node <= 3; node++ {
		d.configure(node, `dns_servers = ["`+zone.Addr+`"]`, `port = `+port, `loopback_hops = true`)
	}
	d.Restart()

	t.Run("second MX takes it", func(t *testing.T) { secondMX(t, d.with(t), p) })
	t.Run("later", func(t *testing.T) { laterThenYes(t, d.with(t), p) })
	t.Run("no", func(t *testing.T) { refusedBounces(t, d.with(t), p) })
	d.drained(1, 20*time.Second)
	d.verify()
}

// configure replaces keys in a node's file; it is read at the next start.
func (d *Dev) configure(node int, lines ...string) {
	d.t.Helper()
	path := filepath.Join(d.Dir, fmt.Sprintf("n%d", node), "relay.toml")
	data, err := os.ReadFile(path)
	require.NoError(d.t, err)
	text := string(data)
	for _, line := range lines {
		name, _, _ := strings.Cut(line, " =")
		key := regexp.MustCompile(`(?m)^` + name + ` = .*$`)
		require.Regexp(d.t, key, text)
		text = key.ReplaceAllLiteralString(text, line)
	}
	require.NoError(d.t, os.WriteFile(path, []byte(text), 0o644))
}

// submit sends one message from alice and returns its id.
func submit(t *testing.T, d *Dev, node int, to, subject string) string {
	t.Helper()
	c, err := dialSMTP(d.Addr(node, SMTP), 20*time.Second)
	require.NoError(t, err)
	defer c.close()
	id, err := c.send("alice@example.test", []string{to}, message(subject))
	require.NoError(t, err)
	return id
}

func secondMX(t *testing.T, d *Dev, p *postfix) {
	began := time.Now()
	id := submit(t, d, 1, "someone@dest.example.com", "by-mx")
	d.Await(20*time.Second, "Postfix has it", func() bool { return len(p.delivered("Subject: by-mx")) > 0 })
	t.Logf("in Postfix's mailbox after %s", seconds(time.Since(began)))
	got := p.delivered("Subject: by-mx")
	require.Len(t, got, 1)
	require.Contains(t, got[0], id)
	require.True(t, strings.HasSuffix(strings.TrimRight(lf(got[0]), "\n"), strings.TrimRight(lf(message("by-mx")), "\n")),
		"the message below the added fields")
	d.Await(10*time.Second, "it is settled", func() bool { return d.trace(id).Recipients[0].State == "delivered" })
	last := d.trace(id).Events
	end := last[len(last)-1]
	require.Contains(t, end.Host, "mx2.dest.example.com")
	require.EqualValues(t, 1, end.Attempt, "the dead host costs no attempt")
}

func laterThenYes(t *testing.T, d *Dev, p *postfix) {
	p.rules("slow@dest.example.com 450 4.2.0 Come back later\n")
	id := submit(t, d, 2, "slow@dest.example.com", "later")
	var line timeline
	d.Await(30*time.Second, "it was tried twice", func() bool {
		line = d.trace(id)
		return line.Recipients[0].Attempts >= 2
	})
	require.Equal(t, "deferred", line.Recipients[0].State)
	require.Contains(t, line.Recipients[0].LastReply, "450 4.2.0")
	require.Contains(t, line.Recipients[0].LastReply, "Come back later")
	require.Contains(t, d.Ctl("queue", "show", id), "Come back later")
	p.rules("")
	d.Await(30*time.Second, "Postfix has it", func() bool { return len(p.delivered("Subject: later")) > 0 })
	d.Await(10*time.Second, "it is settled", func() bool {
		line = d.trace(id)
		return line.Recipients[0].State == "delivered"
	})
	var due *time.Time
	tries := 0
	for _, e := range line.Events {
		if e.What != "deferred" && e.What != "delivered" {
			continue
		}
		tries++
		require.EqualValues(t, tries, e.Attempt)
		if due != nil {
			t.Logf("attempt %d ended %s after it was due: %s %s", e.Attempt, seconds(e.At.Sub(*due)), e.What, e.Reply)
			require.GreaterOrEqual(t, e.At.Sub(*due), -50*time.Millisecond, "not before it is due")
			require.Less(t, e.At.Sub(*due), 3*time.Second)
		} else {
			require.InDelta(t, 2, e.NextAttempt.Sub(e.At).Seconds(), 0.3, "retry_first")
		}
		due = e.NextAttempt
	}
	require.GreaterOrEqual(t, tries, 3)
	require.Len(t, p.delivered("Subject: later"), 1)
}

func refusedBounces(t *testing.T, d *Dev, p *postfix) {
	empty(t, d, "alice")
	p.rules("gone@dest.example.com 550 5.1.1 Nobody of that name here\n")
	began := time.Now()
	id := submit(t, d, 3, "gone@dest.example.com", "refused")
	var m *mailbox
	d.Await(20*time.Second, "alice has the report", func() bool {
		box, err := open(d.Addr(1, POP3), "alice", "secret")
		if err != nil {
			return false
		}
		if n, err := box.count(); err == nil && n == 1 {
			m = box
			return true
		}
		_, _ = box.say("QUIT")
		box.close()
		return false
	})
	took := time.Since(began)
	defer m.close()
	text, err := m.retr(1)
	require.NoError(t, err)
	_, err = m.say("QUIT")
	require.NoError(t, err)
	require.Contains(t, text, "Return-Path: <>\n")

	parsed, err := mail.ReadMessage(strings.NewReader(text))
	require.NoError(t, err)
	kind, params, err := mime.ParseMediaType(parsed.Header.Get("Content-Type"))
	require.NoError(t, err)
	require.Equal(t, "multipart/report", kind)
	require.Equal(t, "delivery-status", params["report-type"])
	r := multipart.NewReader(parsed.Body, params["boundary"])
	var kinds, bodies []string
	for {
		part, err := r.NextPart()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		body, err := io.ReadAll(part)
		require.NoError(t, err)
		kind, _, _ := mime.ParseMediaType(part.Header.Get("Content-Type"))
		kinds, bodies = append(kinds, kind), append(bodies, string(body))
	}
	require.Len(t, kinds, 3, "%s", text)
	require.Equal(t, []string{"text/plain", "message/delivery-status"}, kinds[:2])
	require.Contains(t, []string{"message/rfc822", "text/rfc822-headers"}, kinds[2])
	require.Contains(t, bodies[0], "Nobody of that name here")
	for _, want := range []string{"Final-Recipient: rfc822;", "gone@dest.example.com", "Action: failed", "Status: 5.1.1",
		"Diagnostic-Code: smtp;", "mx2.dest.example.com"} {
		require.Contains(t, bodies[1], want)
	}
	require.Contains(t, bodies[2], "Subject: refused")
	line := d.trace(id)
	require.Equal(t, "bounced", line.Recipients[0].State)
	last := line.Events[len(line.Events)-1]
	t.Logf("refused %s after it was accepted; the report was there after %s",
		seconds(last.At.Sub(line.Events[0].At)), seconds(took))
	require.Empty(t, p.delivered("Subject: refused"))
}
