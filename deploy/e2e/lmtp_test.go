package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const dovecotLMTP = `protocols = lmtp
base_dir = DIR/run
state_dir = DIR/state
log_path = DIR/log
ssl = no
default_internal_user = dovecot
postmaster_address = postmaster@dest.example.com
mail_location = maildir:DIR/mail/%n
mail_uid = mail
mail_gid = mail
first_valid_uid = 1
first_valid_gid = 1
mail_plugins = quota
service lmtp {
  inet_listener lmtp {
    address = HOST
    port = PORT
  }
}
protocol lmtp {
  mail_plugins = quota
}
plugin {
  quota = maildir:User quota
  quota_status_success = DUNNO
}
passdb {
  driver = passwd-file
  args = DIR/users
}
userdb {
  driver = passwd-file
  args = DIR/users
}
`

// startLMTP is Dovecot that takes mail for carol, and for dora, whose mailbox is as good as full.
func startLMTP(t *testing.T) (addr, dir string) {
	need(t, "dovecot")
	if _, err := os.Stat("/usr/lib/dovecot/lmtp"); err != nil {
		t.Skip("Dovecot's LMTP server is not installed (dovecot-lmtpd)")
	}
	dir, err := os.MkdirTemp("", "relay-e2e-lmtp-") // open to Dovecot's users, unlike the test's own
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	addr = freeAddr(t, "127.0.0.60")
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "mail"), 0o777))
	require.NoError(t, os.Chmod(filepath.Join(dir, "mail"), 0o777))
	home := "::::" + dir + "/mail::"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "users"), []byte("carol@dest.example.com:{PLAIN}x"+home+
		"userdb_quota_rule=*:storage=10M\ndora@dest.example.com:{PLAIN}x"+home+"userdb_quota_rule=*:storage=1B\n"), 0o644))
	startDovecot(t, filepath.Join(dir, "dovecot.conf"),
		strings.NewReplacer("DIR", dir, "HOST", host, "PORT", port).Replace(dovecotLMTP))
	return addr, dir
}

// TestLMTPToDovecot: strangers' mail for a domain that Dovecot keeps goes there by LMTP, each recipient having an
// outcome of its own; what Dovecot does not know is refused before it is taken.
func TestLMTPToDovecot(t *testing.T) {
	t.Parallel()
	addr, dir := startLMTP(t)
	d := Start(t)
	stranger := func(to ...string) (string, error) {
		l := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
		conn, err := l.Dial("tcp", d.Addr(1, SMTP))
		require.NoError(t, err)
		c, err := greeted(conn, 20*time.Second)
		require.NoError(t, err)
		defer c.close()
		return c.send("someone@far.example", to, message("by LMTP"))
	}
	d.Ctl("route", "set", "dest.example.com", "lmtp:"+addr)
	_, err := stranger("carol@dest.example.com")
	require.ErrorContains(t, err, "Relaying denied")
	d.Ctl("route", "set", "dest.example.com", "lmtp:"+addr, "--callout")
	_, err = stranger("nobody@dest.example.com")
	require.ErrorContains(t, err, "550 5.1.1 Recipient refused by its host")
	_, err = stranger("carol@below.dest.example.com")
	require.ErrorContains(t, err, "Relaying denied")
	id, err := stranger("carol@dest.example.com")
	require.NoError(t, err)
	d.Await(20*time.Second, "it is delivered", func() bool { return d.trace(id).Recipients[0].State == "delivered" })
	got := maildir(filepath.Join(dir, "mail", "carol", "new"), "Subject: by LMTP")
	require.Len(t, got, 1)
	require.Contains(t, got[0], id)

	id = submit(t, d, 2, "dora@dest.example.com", "quota")
	d.Await(20*time.Second, "it is full", func() bool {
		r := d.trace(id).Recipients[0]
		return r.State != "queued" && strings.Contains(r.LastReply, "Quota exceeded")
	})
	d.verify()
}
