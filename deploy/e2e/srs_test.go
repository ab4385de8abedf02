package e2e

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestForwardedMailAndPostfix: an alias leads a stranger's mail to Postfix, which takes it in, finds out later that its
// own alias leads nowhere, and sends the bounce to the return address that it was given. The stranger has it, and
// nobody else. Where Postfix has a mailbox the message is in it with that return address and is otherwise as it came.
func TestForwardedMailAndPostfix(t *testing.T) {
	t.Parallel()
	d := Start(t)
	_, port, err := net.SplitHostPort(d.Addr(2, SMTP))
	require.NoError(t, err)
	p := startPostfix(t, "relayhost = [127.0.0.1]:"+port, "smtp_bind_address = "+postfixHost,
		"virtual_alias_maps = texthash:DIR/conf/virtual", "smtp_host_lookup = native")
	p.write("virtual", "gone@dest.example.com nobody.of.that.name@example.test\n")
	p.command("reload")
	d.Ctl("route", "set", "dest.example.com", "smtp:"+p.addr)
	d.Ctl("alias", "set", "away@example.test", "gone@dest.example.com")
	d.Ctl("alias", "set", "moved@example.test", "new@dest.example.com")
	d.Await(30*time.Second, "the cluster can make return addresses", func() bool {
		_, err := d.Try("", d.bin+"/relayctl", "settings", "set", "--srs", "example.test")
		return err == nil
	})
	send := func(to, subject string) {
		l := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.9")}}
		conn, err := l.Dial("tcp", d.Addr(1, SMTP))
		require.NoError(t, err)
		c, err := greeted(conn, 20*time.Second)
		require.NoError(t, err)
		defer c.close()
		_, err = c.send("sam@far.example", []string{to}, message(subject))
		require.NoError(t, err)
	}
	send("moved@example.test", "has moved")
	d.Await(30*time.Second, "Postfix has it", func() bool { return len(p.delivered("Subject: has moved")) > 0 })
	got := lf(p.delivered("Subject: has moved")[0])
	require.Regexp(t, `(?m)^Return-Path: <SRS0=[a-z2-7]{8}=[a-z2-7]{2}=far\.example=sam@example\.test>$`, got)
	require.True(t, strings.HasSuffix(strings.TrimRight(got, "\n"), strings.TrimRight(lf(message("has moved")), "\n")))

	send("away@example.test", "has gone")
	bounce := d.AwaitSink("Subject: has gone")
	require.Contains(t, bounce.Envelope, "sam@far.example")
	require.Contains(t, bounce.Message, "<MAILER-DAEMON@mx2.dest.example.com>")
	require.Contains(t, lf(bounce.Message), "Final-Recipient: rfc822; nobody.of.that.name@example.test\n"+
		"Original-Recipient: rfc822;away@example.test\n")
	d.drained(1, 20*time.Second)
	require.Len(t, d.Sink(), 1)
}
