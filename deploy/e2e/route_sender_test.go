package e2e

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRouteBySender: mail of one domain's senders goes by Postfix, in the name of an account there; all other mail goes
// elsewhere, also that of a stranger who forges such a sender. While the login is refused the fallback has it, and
// status tells.
func TestRouteBySender(t *testing.T) {
	t.Parallel()
	d := Start(t)
	d.settings(map[string]any{"retry_first_seconds": 600}) // nothing happens by itself
	h, other, last := postfixSmart(t, "plain login"), startHop(t), startHop(t)
	set := func(password string, more ...string) {
		d.Run(password+"\n", append([]string{d.bin + "/relayctl", "route", "set", smartDomain, "smtp:" + h.addr, "--from",
			"@a.example", "--tls", "verify", "--tls-ca", h.cert, "--user", "relay", "--password-stdin"}, more...)...)
	}
	d.Ctl("route", "set", smartDomain, "smtp:"+other.addr)
	set("secret")
	send := func(from, to, sender, subject string) string {
		l := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := l.Dial("tcp", d.Addr(2, SMTP))
		require.NoError(t, err)
		c, err := greeted(conn, 20*time.Second)
		require.NoError(t, err)
		defer c.close()
		id, err := c.send(sender, []string{to}, message(subject))
		require.NoError(t, err)
		return id
	}
	arrived := func(id string) {
		t.Helper()
		d.Await(20*time.Second, "it is delivered", func() bool { return d.trace(id).Recipients[0].State == "delivered" })
	}
	const one = "someone@" + smartDomain
	mine := send("127.0.0.1", one, "ann@A.example", "of the sender")
	arrived(mine)
	d.Await(20*time.Second, "Postfix has it", func() bool { return len(h.took("Subject: of the sender")) == 1 })
	arrived(send("127.0.0.1", one, "ann@b.example", "of another"))
	require.Len(t, other.taken(), 1)
	d.Ctl("alias", "set", "out-by-sender@example.test", one)
	forged := send("127.0.0.9", "out-by-sender@example.test", "ann@a.example", "forged")
	arrived(forged)
	require.Len(t, other.taken(), 2)

	name := "route " + smartDomain + " from @a.example"
	set("wrong")
	waits := send("127.0.0.1", one, "ann@a.example", "refused")
	d.Await(20*time.Second, "the login is refused", func() bool {
		r := d.trace(waits).Recipients[0]
		return r.State == "deferred" && strings.Contains(r.LastReply, name) && strings.Contains(r.LastReply, "535")
	})
	d.Await(20*time.Second, "status tells", func() bool { return strings.Contains(d.Ctl("status"), name) })
	arrived(send("127.0.0.1", one, "ann@b.example", "of another still"))
	set("wrong", "--fallback", "smtp:"+last.addr)
	d.Ctl("queue", "retry", waits)
	arrived(waits)
	require.Len(t, last.taken(), 1)
	d.Await(20*time.Second, "status still tells", func() bool { return strings.Contains(d.Ctl("status"), name) })

	d.Ctl("route", "rm", smartDomain, "--from", "@a.example")
	arrived(send("127.0.0.1", one, "ann@a.example", "without its route"))
	require.Len(t, other.taken(), 4)
	require.Len(t, h.took("Subject: "), 1)
	d.verify()
}
