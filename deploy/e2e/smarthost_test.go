package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// smartHost is somebody else's mail server that takes mail from relay, password secret, over TLS only, for a domain
// that it keeps mail for.
type smartHost struct {
	addr string
	cert string // file that its certificate is checked by
	took func(text string) []string
	// open is how many connections to it are open; nil where that is not known.
	open func() int
	// password changes relay's password on its side.
	password func(text string)
}

const smartDomain = "dest.example.com"

// TestPostfixAsSmartHost: mail goes by Postfix with Dovecot, in the name of an account there. A wrong password makes it
// wait, is told of everywhere, and is tried again when an operator says so.
func TestPostfixAsSmartHost(t *testing.T) {
	t.Parallel()
	smartHosts(t, map[string]func(*testing.T) *smartHost{
		"PLAIN": func(t *testing.T) *smartHost { return postfixSmart(t, "plain login") },
	})
}

// TestPostfixByOtherMechanisms: LOGIN alone, and PLAIN where SCRAM is announced and refused.
func TestPostfixByOtherMechanisms(t *testing.T) {
	t.Parallel()
	smartHosts(t, map[string]func(*testing.T) *smartHost{
		"LOGIN": func(t *testing.T) *smartHost { return postfixSmart(t, "login") },
		"SCRAM": func(t *testing.T) *smartHost { return postfixSmart(t, "plain scram-sha-256") },
	})
}

// TestTokensForASmartHost: the relay fetches a token and logs in with it at Postfix, whose Dovecot asks the server that
// gave the token. A token that is taken back is renewed, and a client that the server does not know makes mail wait.
func TestTokensForASmartHost(t *testing.T) {
	t.Parallel()
	d := Start(t)
	for _, mechanism := range []string{"xoauth2", "oauthbearer"} {
		t.Run(mechanism, func(t *testing.T) { tokens(t, d.with(t), mechanism) })
	}
	d.verify()
}

func tokens(t *testing.T, d *Dev, mechanism string) {
	given, known := 0, true // the last token that was given is good
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_ = r.ParseForm()
		switch {
		case r.URL.Path == "/judge":
			fmt.Fprintf(w, `{"active":%t,"username":"relay"}`, r.Form.Get("token") == fmt.Sprint("token", given))
		case !known || r.Form.Get("client_secret") != "secret":
			http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
		default:
			given++
			fmt.Fprintf(w, `{"access_token":"token%d","expires_in":3600}`, given)
		}
	}))
	t.Cleanup(server.Close)
	h := postfixSmart(t, mechanism, server.URL+"/judge")
	file := filepath.Join(t.TempDir(), "credential.json")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `{"token_url":"%s/token","client_id":"relay",
		"client_secret":"secret"}`, server.URL), 0o600))
	set := func() {
		d.Ctl("route", "set", smartDomain, "smtp:"+h.addr, "--tls", "verify", "--tls-ca", h.cert, "--user", "relay",
			"--oauth", file)
	}
	set()
	deliver := func(subject string) {
		id := submit(t, d, 1, "someone@"+smartDomain, subject)
		d.Await(20*time.Second, "it is delivered", func() bool { return d.trace(id).Recipients[0].State == "delivered" })
		d.Await(20*time.Second, "the host has it", func() bool { return len(h.took("Subject: "+subject)) == 1 })
	}
	deliver("first " + mechanism)
	mu.Lock()
	require.Equal(t, 1, given)
	given++ // as if it had been given to somebody else: the first one is good no more
	mu.Unlock()
	d.Await(20*time.Second, "the connection is closed", func() bool { return h.open() == 0 })
	deliver("second " + mechanism)

	mu.Lock()
	require.Equal(t, 3, given)
	known = false
	mu.Unlock()
	set()
	id := submit(t, d, 1, "someone@"+smartDomain, "refused "+mechanism)
	d.Await(20*time.Second, "it waits", func() bool {
		return strings.Contains(d.trace(id).Recipients[0].LastReply, "invalid_client")
	})
	d.Await(20*time.Second, "status tells", func() bool { return strings.Contains(d.Ctl("status"), "route "+smartDomain) })
	mu.Lock()
	known = true
	mu.Unlock()
	set()
	d.Ctl("queue", "retry", id)
	d.Await(20*time.Second, "it is delivered", func() bool { return d.trace(id).Recipients[0].State == "delivered" })
}

// TestOthersAsSmartHosts is that of Exim and OpenSMTPD.
func TestOthersAsSmartHosts(t *testing.T) {
	t.Parallel()
	smartHosts(t, map[string]func(*testing.T) *smartHost{"Exim": eximSmart, "OpenSMTPD": openSMTPDSmart})
}

func smartHosts(t *testing.T, all map[string]func(*testing.T) *smartHost) {
	d := Start(t)
	d.settings(map[string]any{"retry_first_seconds": 600}) // nothing happens by itself
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			d := d.with(t)
			h := all[name](t)
			route := func(password string) {
				d.Run(password+"\n", d.bin+"/relayctl", "route", "set", smartDomain, "smtp:"+h.addr, "--tls", "verify",
					"--tls-ca", h.cert, "--user", "relay", "--password-stdin")
			}
			subject := "smart " + name
			route("secret")
			id := submit(t, d, 1, "someone@"+smartDomain, subject)
			d.Await(20*time.Second, "it is delivered", func() bool { return d.trace(id).Recipients[0].State == "delivered" })
			d.Await(20*time.Second, "the host has it", func() bool { return len(h.took("Subject: "+subject)) == 1 })
			if name != "LOGIN" && name != "SCRAM" {
				refusedLogin(t, d, h, name, route)
			}
			if name == "Exim" {
				renewedKey(t, d, h)
			}
		})
	}
	d.drained(1, 20*time.Second)
	d.verify()
}

// renewedKey: the password is the same under another key.
func renewedKey(t *testing.T, d *Dev, h *smartHost) {
	keys := func(node int) int {
		return strings.Count(readFile(t, filepath.Join(d.home(node), "identity.json")), `"made"`)
	}
	before := keys(1)
	d.Ctl("cluster", "rotate-ca")
	for node := 1; node <= 3; node++ {
		d.Await(20*time.Second, "it has the key", func() bool { return keys(node) == before+1 })
	}
	require.Contains(t, d.Ctl("audit"), "sealed secrets renewed: 1")
	id := submit(t, d, 2, "someone@"+smartDomain, "with another key")
	d.Await(20*time.Second, "it is delivered", func() bool { return d.trace(id).Recipients[0].State == "delivered" })
	d.Await(20*time.Second, "the host has it", func() bool { return len(h.took("Subject: with another key")) == 1 })
}

func refusedLogin(t *testing.T, d *Dev, h *smartHost, name string, route func(password string)) {
	waits := func(id string) {
		t.Helper()
		d.Await(20*time.Second, "the login is refused", func() bool {
			r := d.trace(id).Recipients[0]
			return r.State == "deferred" && strings.Contains(r.LastReply, "route "+smartDomain) &&
				strings.Contains(r.LastReply, "535")
		})
	}
	delivered := func(id, subject string) {
		t.Helper()
		d.Await(20*time.Second, "it is delivered", func() bool { return d.trace(id).Recipients[0].State == "delivered" })
		d.Await(20*time.Second, "the host has it", func() bool { return len(h.took("Subject: "+subject)) == 1 })
	}
	subject := "refused at first " + name
	route("wrong")
	id := submit(t, d, 1, "someone@"+smartDomain, subject)
	waits(id)
	require.Contains(t, d.Ctl("queue", "show", id), "route "+smartDomain)
	d.Await(20*time.Second, "status tells", func() bool { return strings.Contains(d.Ctl("status"), "route "+smartDomain) })
	out, err := d.Try("", d.bin+"/relayctl", "doctor")
	require.Error(t, err, "doctor finds fault")
	require.Contains(t, out, "route "+smartDomain)
	require.Contains(t, d.metrics(1), "relay_delivery_logins_refused_total")

	route("secret")
	d.Ctl("queue", "retry", id)
	delivered(id, subject)
	d.Await(20*time.Second, "nothing is wrong any more", func() bool {
		return !strings.Contains(d.Ctl("status"), "route "+smartDomain)
	})

	if h.password == nil {
		return
	}
	subject = "refused again " + name
	h.password("other")
	d.Ctl("route", "set", smartDomain, "mx") // no connection is open
	route("secret")
	id = submit(t, d, 1, "someone@"+smartDomain, subject)
	waits(id)
	h.password("secret")
	d.Await(30*time.Second, "a retry right behind a refusal ends no wait, a later one does", func() bool {
		_, _ = d.Try("", d.bin+"/relayctl", "queue", "retry", id)
		return d.trace(id).Recipients[0].State == "delivered"
	})
	delivered(id, subject)
}

// selfSigned writes a certificate for an address, and its key, that any user may read.
func selfSigned(t *testing.T, dir, addr string) (cert, key string) {
	t.Helper()
	host, _, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	x := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.ParseIP(host)}}
	der, err := x509.CreateCertificate(rand.Reader, x, x, &k.PublicKey, k)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	cert, key = filepath.Join(dir, "host.crt"), filepath.Join(dir, "host.key")
	for path, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(block), 0o644))
	}
	return cert, key
}

const dovecotAuth = `protocols =
base_dir = DIR/sasl/run
state_dir = DIR/sasl/state
log_path = DIR/sasl/log
ssl = no
default_internal_user = dovecot
auth_mechanisms = MECHANISMS
auth_failure_delay = 0
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service auth {
  unix_listener DIR/sasl/auth {
    mode = 0666
  }
}
passdb {
  driver = passwd-file
  args = DIR/sasl/users
}
userdb {
  driver = static
  args = uid=mail gid=mail home=/nonexistent
}
`

// postfixSmart is Postfix, whose logins Dovecot judges. Of SCRAM it has no keys: passwords are kept by bcrypt then.
// Tokens are judged by a server, if there is one.
func postfixSmart(t *testing.T, mechanisms string, judge ...string) *smartHost {
	need(t, "dovecot", "doveadm")
	p := startPostfix(t, "smtpd_sasl_auth_enable = yes", "smtpd_sasl_type = dovecot", "smtpd_sasl_path = DIR/sasl/auth",
		"smtpd_tls_cert_file = DIR/host.crt", "smtpd_tls_key_file = DIR/host.key", "smtpd_tls_security_level = may",
		"smtpd_tls_auth_only = yes", "smtpd_recipient_restrictions = permit_sasl_authenticated, reject")
	cert, _ := selfSigned(t, p.dir, p.addr)
	dir := filepath.Join(p.dir, "sasl")
	require.NoError(t, os.Mkdir(dir, 0o755))
	conf := filepath.Join(dir, "dovecot.conf")
	write := func(text string) {
		line := "relay:{PLAIN}" + text + "\n"
		if strings.Contains(mechanisms, "scram") {
			line = "relay:" + strings.TrimSpace(run(t, "doveadm", "pw", "-s", "BLF-CRYPT", "-r", "5", "-p", text)) + "\n"
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, "users"), []byte(line), 0o644))
	}
	write("secret")
	text := dovecotAuth
	if len(judge) > 0 {
		text = strings.Replace(text, "  driver = passwd-file\n  args = DIR/sasl/users",
			"  driver = oauth2\n  mechanisms = xoauth2 oauthbearer\n  args = "+filepath.Join(dir, "tokens"), 1)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "tokens"), []byte("introspection_mode = post\n"+
			"introspection_url = "+judge[0]+"\nusername_attribute = username\nactive_attribute = active\n"+
			"active_value = true\n"), 0o644))
	}
	startDovecot(t, conf, strings.NewReplacer("DIR", p.dir, "MECHANISMS", mechanisms).Replace(text), p.dir)
	p.command("reload")
	return &smartHost{addr: p.addr, cert: cert, took: p.delivered, open: p.open, password: func(text string) {
		write(text)
		require.Eventually(t, func() bool { // it looks at the file once a second
			test := exec.Command("doveadm", "-c", conf, "auth", "test", "-a", filepath.Join(dir, "auth"), "relay", text)
			return test.Run() == nil
		}, 20*time.Second, 100*time.Millisecond)
	}}
}

// startDovecot starts Dovecot with a configuration that goes into a file, beside which its log is. dirs are folders of
// others whose logs tell, too, why a test failed.
func startDovecot(t *testing.T, conf, text string, dirs ...string) {
	t.Helper()
	need(t, "dovecot", "doveadm")
	if os.Geteuid() != 0 {
		t.Skip("only root can start Dovecot")
	}
	_, err := user.Lookup("dovecot")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(conf, []byte(text), 0o644))
	require.NoError(t, exec.Command("dovecot", "-c", conf).Run())
	t.Cleanup(func() {
		_ = exec.Command("doveadm", "-c", conf, "stop").Run()
		if t.Failed() {
			for _, dir := range append(dirs, filepath.Dir(conf)) {
				t.Log(tail(filepath.Join(dir, "log"), 5000))
			}
		}
	})
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	require.NoError(t, err)
	return string(out)
}

const eximSmartConf = `primary_hostname = exim.example.com
spool_directory = DIR/queue
log_file_path = DIR/log/%slog
pid_file_path = DIR/pid
local_interfaces = HOST
daemon_smtp_ports = PORT
tls_advertise_hosts = *
tls_certificate = /etc/host.crt
tls_privatekey = /etc/host.key
auth_advertise_hosts = ${if def:tls_in_cipher {*}}
host_lookup =
rfc1413_hosts =
acl_smtp_rcpt = rcpt
begin acl
rcpt:
  accept authenticated = *
  deny message = log in first
begin routers
keep:
  driver = accept
  transport = keep
begin transports
keep:
  driver = appendfile
  directory = DIR/mail
  maildir_format
  user = Debian-exim
  group = Debian-exim
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_condition = ${if and{{eq{$auth2}{relay}}{eq{$auth3}{secret}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = User Name : Password
  server_condition = ${if and{{eq{$auth1}{relay}}{eq{$auth2}{secret}}}}
  server_set_id = $auth1
`

// certify gives a guest a certificate, which its users may read.
func certify(t *testing.T, g *guest, mode os.FileMode) string {
	t.Helper()
	cert, key := selfSigned(t, g.dir, g.addr)
	g.etc("host.crt", readFile(t, cert))
	g.etc("host.key", readFile(t, key))
	require.NoError(t, os.Chmod(filepath.Join(g.dir, "etc", "host.key"), mode))
	return cert
}

func (g *guest) fill(conf string) string {
	host, port, err := net.SplitHostPort(g.addr)
	require.NoError(g.t, err)
	return strings.NewReplacer("HOST", host, "PORT", port).Replace(conf)
}

func eximSmart(t *testing.T) *smartHost {
	g := newGuest(t, "exim4-daemon-light", "127.0.0.40")
	g.users("Debian-exim")
	for _, sub := range []string{"queue", "log", "mail"} {
		g.own(sub, guestUser)
	}
	cert := certify(t, g, 0o644)
	g.etc("exim4/exim4.conf", g.fill(eximSmartConf))
	g.start("exim4", "-bdf", "-q1m")
	return &smartHost{addr: g.addr, cert: cert, took: g.delivered}
}

const openSMTPDSmartConf = `queue ttl 1h
pki hub cert "/etc/host.crt"
pki hub key "/etc/host.key"
table users file:/etc/smtp-users
table keepers { "@" = "keeper" }
listen on HOST port PORT tls-require pki hub auth <users>
action "keep" maildir "DIR/mail" virtual <keepers>
match auth from any for any action "keep"
`

// openSMTPDSmart is that of the backports: the one of Debian 12 itself can not sign with OpenSSL 3, neither by RSA nor
// by ECDSA, and OpenSMTPD asks for TLS where somebody is to log in.
func openSMTPDSmart(t *testing.T) *smartHost {
	from, err := backports()
	if err != nil {
		t.Skip(err)
	}
	g := newGuestFrom(t, from, "opensmtpd", "127.0.0.50")
	g.users("opensmtpd", "opensmtpq", "keeper")
	g.own("mail", guestUser+2)
	g.etc("mailname", "opensmtpd.example.com\n")
	cert := certify(t, g, 0o600)
	g.etc("smtp-users", "relay "+strings.TrimSpace(run(t, "openssl", "passwd", "-6", "secret"))+"\n")
	g.etc("smtpd.conf", g.fill(openSMTPDSmartConf))
	g.start("smtpd", "-d")
	out, err := exec.Command("sh", "-c", "echo QUIT | openssl s_client -starttls smtp -connect "+g.addr).CombinedOutput()
	if err != nil && strings.Contains(string(out), "internal error") {
		t.Skip("this OpenSMTPD can not sign with OpenSSL 3, so that nobody can log in")
	}
	return &smartHost{addr: g.addr, cert: cert, took: g.delivered}
}
