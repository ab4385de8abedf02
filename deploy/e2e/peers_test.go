package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// peer is somebody else's mail server: it relays what it gets for three domains
// to the cluster, each another way, and keeps what comes for a fourth.
type peer struct {
	name string
	addr string
	took func(text string) []string // the messages it keeps that hold a text
	utf8 bool                       // it knows SMTPUTF8
	// keeps is what it keeps mail for.
	keeps string
}

// relayWays are domains by how a peer relays them to the cluster: in clear, by
// STARTTLS and AUTH, by implicit TLS and AUTH.
func relayWays() []string { return []string{"clear.example", "auth.example", "wrap.example"} }

// TestPeers: Postfix, Exim and OpenSMTPD hand mail in, and are next hops.
func TestPeers(t *testing.T) {
	d := Start(t)
	for _, c := range []struct {
		name string
		make func(*testing.T, *Dev) *peer
	}{{"Postfix", postfixPeer}, {"Exim", eximPeer}, {"OpenSMTPD", openSMTPDPeer}} {
		t.Run(c.name, func(t *testing.T) {
			d := d.with(t)
			p := c.make(t, d)
			d.Ctl("route", "set", p.keeps, "smtp:"+p.addr)
			t.Run("sends", func(t *testing.T) { peerSends(t, d.with(t), p) })
			t.Run("takes", func(t *testing.T) { peerTakes(t, d.with(t), p) })
			t.Run("takes no binary", func(t *testing.T) { peerTakesNoBinary(t, d.with(t), p) })
		})
	}
	d.drained(1, 20*time.Second)
	d.verify()
}

// peerSends: mail that the peer was given reaches the sink by way of the cluster.
func peerSends(t *testing.T, d *Dev, p *peer) {
	c, err := dialSMTP(p.addr, 30*time.Second)
	require.NoError(t, err)
	defer c.close()
	protocols := map[string]string{"clear.example": "ESMTP", "auth.example": "ESMTPSA", "wrap.example": "ESMTPSA"}
	for _, domain := range relayWays() {
		name := p.name + "-" + domain
		require.NoError(t, c.begin("bob@example.test", []string{"x@" + domain}))
		handOver(t, c, message(name))
		m := d.AwaitSink("Subject: " + name + "\r\n")
		require.True(t, strings.HasSuffix(m.Message, message(name)), "the message below the added fields: %q", m.Message)
		require.Contains(t, m.Envelope, "X-Sink-From: <bob@example.test>\r\n")
		require.Regexp(t, ` with `+protocols[domain]+` id `+idOf(m.Message), m.Message)
	}
	if !p.utf8 {
		return
	}
	name := p.name + "-utf8"
	_, err = c.say(250, "MAIL FROM:<bob@example.test> SMTPUTF8 BODY=8BITMIME")
	require.NoError(t, err)
	_, err = c.say(250, "RCPT TO:<jürgen@auth.example>")
	require.NoError(t, err)
	_, err = c.say(354, "DATA")
	require.NoError(t, err)
	text := strings.Replace(message(name), "Subject: ", "X-Header: größer\r\nSubject: ", 1)
	handOver(t, c, text)
	m := d.AwaitSink("Subject: " + name + "\r\n")
	require.True(t, strings.HasSuffix(m.Message, text), "%q", m.Message)
	require.Contains(t, m.Envelope, "X-Sink-To: <jürgen@auth.example>\r\n")
	require.Contains(t, m.Message, " with UTF8SMTPSA id ")
}

// handOver sends a message behind a 354.
func handOver(t *testing.T, c *client, text string) {
	t.Helper()
	_ = c.conn.SetDeadline(time.Now().Add(30 * time.Second))
	_, err := c.out.WriteString(strings.ReplaceAll("\r\n"+text, "\r\n.", "\r\n..")[2:] + ".\r\n")
	require.NoError(t, err)
	require.NoError(t, c.out.Flush())
	_, err = c.reply(250)
	require.NoError(t, err)
}

// peerTakes: mail that the cluster relays to the peer is in its mailbox.
func peerTakes(t *testing.T, d *Dev, p *peer) {
	large := message(p.name+"-large") + strings.Repeat(".0123456789abcdef0123456789abcdef0123456789abcdef\r\n", 8000)
	for _, m := range []struct{ name, text string }{
		{p.name + "-small", message(p.name + "-small")}, {p.name + "-large", large},
	} {
		id := chunked(t, d, "alice@example.test", "y@"+p.keeps, "", m.text)
		d.Await(30*time.Second, "it is delivered", func() bool { return d.trace(id).Recipients[0].State == "delivered" })
		var got []string
		d.Await(10*time.Second, "the peer has "+m.name, func() bool {
			got = p.took("Subject: " + m.name + "\n")
			return len(got) > 0
		})
		require.Len(t, got, 1)
		require.True(t, strings.HasSuffix(got[0], lf(m.text)),
			"%s: the message below the added fields, of %d octets", m.name, len(got[0]))
	}
	name := p.name + "-intern"
	id := chunked(t, d, "alice@example.test", "jürgen@"+p.keeps, " SMTPUTF8", message(name))
	if !p.utf8 {
		d.Await(30*time.Second, "it is refused", func() bool { return d.trace(id).Recipients[0].State == "bounced" })
		require.Contains(t, d.trace(id).Recipients[0].LastReply, "5.6.7")
		return
	}
	d.Await(30*time.Second, "the peer has it", func() bool { return len(p.took("Subject: "+name+"\n")) == 1 })
}

func peerTakesNoBinary(t *testing.T, d *Dev, p *peer) {
	id := chunked(t, d, "alice@example.test", "z@"+p.keeps, " BODY=BINARYMIME", message(p.name+"-binary")+"\x00\n\r")
	d.Await(30*time.Second, "it is refused", func() bool { return d.trace(id).Recipients[0].State == "bounced" })
	require.Contains(t, d.trace(id).Recipients[0].LastReply, "5.6.3")
	require.Empty(t, p.took(p.name+"-binary"))
}

// chunked submits a message by BDAT in two chunks, and returns its id.
func chunked(t *testing.T, d *Dev, from, to, params, text string) string {
	t.Helper()
	c, err := dialSMTP(d.Addr(2, SMTP), 20*time.Second)
	require.NoError(t, err)
	defer c.close()
	_, err = c.say(250, "MAIL FROM:<"+from+">"+params)
	require.NoError(t, err)
	_, err = c.say(250, "RCPT TO:<"+to+">")
	require.NoError(t, err)
	half := len(text)/2 + 1
	_, _ = fmt.Fprintf(c.out, "BDAT %d\r\n%s", half, text[:half])
	_, _ = fmt.Fprintf(c.out, "BDAT %d LAST\r\n%s", len(text)-half, text[half:])
	require.NoError(t, c.out.Flush())
	_, err = c.reply(250)
	require.NoError(t, err)
	reply, err := c.reply(250)
	require.NoError(t, err)
	return queueID.FindString(reply)
}

func postfixPeer(t *testing.T, d *Dev) *peer {
	need(t, "postfix")
	if found, _ := filepath.Glob("/usr/lib/*/sasl2/libplain.so*"); len(found) == 0 {
		t.Skip("Postfix can not log in without libsasl2-modules")
	}
	next := func(service int) string { return "[localhost]:" + d.Port(1, service) }
	p := startPostfix(t, "mynetworks = 127.0.0.0/8", "mailbox_size_limit = 0", "virtual_mailbox_limit = 0",
		"smtputf8_enable = yes", "smtp_host_lookup = native", "smtp_tls_CAfile = "+d.CA(),
		"smtp_tls_policy_maps = texthash:DIR/conf/tls",
		"transport_maps = texthash:DIR/conf/transport", "smtp_sasl_auth_enable = yes",
		"smtp_sasl_password_maps = texthash:DIR/conf/secrets",
		"smtp_sasl_security_options = noanonymous",
		"smtpd_recipient_restrictions = permit_mynetworks, reject_unauth_destination")
	p.write("tls", next(Submission)+" verify match=localhost\n"+next(Submissions)+" verify match=localhost\n")
	p.write("secrets", next(Submission)+" bob@example.test:secret\n"+next(Submissions)+" bob@example.test:secret\n")
	p.write("transport", "clear.example smtp:"+next(SMTP)+"\n"+
		"auth.example smtp:"+next(Submission)+"\nwrap.example smtps:"+next(Submissions)+"\n")
	p.write("master.cf",
		strings.ReplaceAll(postfixMaster, "ADDR", p.addr)+"smtps unix - - n - - smtp -o smtp_tls_wrappermode=yes\n")
	p.command("reload")
	return &peer{name: "postfix", addr: p.addr, took: func(text string) []string { return p.delivered(text) }, utf8: true,
		keeps: "dest.example.com"}
}

const eximConf = `primary_hostname = exim.example.com
spool_directory = DIR/queue
log_file_path = DIR/log/%slog
pid_file_path = DIR/pid
local_interfaces = HOST
daemon_smtp_ports = PORT
tls_advertise_hosts =
smtputf8_advertise_hosts = *
chunking_advertise_hosts = *
dsn_advertise_hosts = *
message_size_limit = 50M
host_lookup =
rfc1413_hosts =
recipients_max = 100
acl_smtp_rcpt = rcpt
begin acl
rcpt:
  accept
begin routers
keep:
  driver = accept
  domains = keep.exim.example
  transport = keep
clear:
  driver = manualroute
  domains = clear.example
  route_list = * localhost
  host_find_failed = fail
  self = send
  transport = clear
auth:
  driver = manualroute
  domains = auth.example
  route_list = * localhost
  self = send
  transport = auth
wrap:
  driver = manualroute
  domains = wrap.example
  route_list = * localhost
  self = send
  transport = wrap
begin transports
keep:
  driver = appendfile
  directory = DIR/mail
  maildir_format
  user = Debian-exim
  group = Debian-exim
clear:
  driver = smtp
  port = SMTPPORT
  allow_localhost
  hosts_avoid_tls = *
auth:
  driver = smtp
  port = SUBMISSION
  allow_localhost
  hosts_require_tls = *
  hosts_require_auth = *
  tls_verify_certificates = CAFILE
  tls_verify_hosts = *
wrap:
  driver = smtp
  protocol = smtps
  port = SUBMISSIONS
  allow_localhost
  hosts_require_tls = *
  hosts_require_auth = *
  tls_verify_certificates = CAFILE
  tls_verify_hosts = *
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  client_send = ^bob@example.test^secret
`

func eximPeer(t *testing.T, d *Dev) *peer {
	g := newGuest(t, "exim4-daemon-light", "127.0.0.40")
	g.users("Debian-exim")
	for _, sub := range []string{"queue", "log", "mail"} {
		g.own(sub, guestUser)
	}
	g.etc("exim4/exim4.conf", strings.NewReplacer(placesOf(t, d, g)...).Replace(eximConf))
	g.start("exim4", "-bdf", "-q1m")
	return &peer{name: "exim", addr: g.addr, took: g.delivered, utf8: true, keeps: "keep.exim.example"}
}

// placesOf are what stands for addresses and files in a configuration.
func placesOf(t *testing.T, d *Dev, g *guest) []string {
	host, port, err := net.SplitHostPort(g.addr)
	require.NoError(t, err)
	g.etc("ca.pem", readFile(t, d.CA())) // the test's own directory is closed to others
	return []string{
		"HOST", host, "SMTPPORT", d.Port(1, SMTP), "SUBMISSIONS", d.Port(1, Submissions), "SUBMISSION", d.Port(1, Submission),
		"PORT", port, "CAFILE", "/etc/ca.pem",
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(data)
}

const openSMTPDConf = `queue ttl 1h
smtp max-message-size 50M
table secrets { bob = "bob@example.test:secret" }
table keepers { "@" = "keeper" }
listen on HOST port PORT
action "keep" maildir "DIR/mail" virtual <keepers>
action "clear" relay host smtp+notls://127.0.0.1:SMTPPORT
action "auth" relay host smtp+tls://bob@localhost:SUBMISSION auth <secrets>
action "wrap" relay host smtps://bob@localhost:SUBMISSIONS auth <secrets>
match from any for domain "keep.opensmtpd.example" action "keep"
match from any for domain "clear.example" action "clear"
match from any for domain "auth.example" action "auth"
match from any for domain "wrap.example" action "wrap"
`

func openSMTPDPeer(t *testing.T, d *Dev) *peer {
	g := newGuest(t, "opensmtpd", "127.0.0.50")
	g.users("opensmtpd", "opensmtpq", "keeper")
	g.own("mail", guestUser+2)
	g.etc("mailname", "opensmtpd.example.com\n")
	g.etc("ssl/certs/ca-certificates.crt", readFile(t, d.CA()))
	g.etc("smtpd.conf", strings.NewReplacer(placesOf(t, d, g)...).Replace(openSMTPDConf))
	g.start("smtpd", "-d")
	return &peer{name: "opensmtpd", addr: g.addr, took: g.delivered, keeps: "keep.opensmtpd.example"}
}
