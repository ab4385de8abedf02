package nodetest

import (
	"bufio"
	"net"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

// call connects from an address that nobody trusts.
func call(t *testing.T, addr string) *talk {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	conn, err := d.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(3 * time.Minute))
	return &talk{t, conn, textproto.NewConn(conn)}
}

// stranger is talkTo from there.
func stranger(t *testing.T, addr string) *talk {
	t.Helper()
	talk := call(t, addr)
	talk.play("S: 220", "C: EHLO client.test", "S: 250")
	return talk
}

// A client is put off at one node. The retry passes at another, whether or not
// the first one still lives.
func TestGreylistedAtOneNodePassesAtAnother(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: Lasting()})
	ctx := within(t, 3*time.Minute)
	api, by := c.Nodes[0].Client(), admin.By{Why: "test"}
	require.NoError(t,
		api.SetSettings(ctx, by, admin.Settings{Greylist: 1, GreylistTrust: -1, DefaultDomain: "example.test"}))
	c.Eventually(time.Minute, "not known everywhere", func() bool {
		for _, m := range c.Nodes {
			if s, err := m.Client().Settings(ctx); err != nil || s.Greylist != 1 {
				return false
			}
		}
		return true
	})
	to := "C: RCPT TO:<alice@example.test>"
	try := func(m *Member, from string) string {
		d := stranger(t, m.SMTP)
		defer d.conn.Close()
		reply := d.play("C: MAIL FROM:<"+from+">", "S: 250", to, "S: ")
		if strings.HasPrefix(reply, "250") {
			d.play(letter(from)...)
		}
		return reply
	}
	comesBack := func(m *Member, from string) {
		t.Helper()
		c.Eventually(time.Minute, "still put off", func() bool { return strings.HasPrefix(try(m, from), "250") })
	}

	require.Equal(t, "450 4.7.1 Greylisted, try again in 1 second", try(c.Nodes[0], "one@far.example"))
	require.Contains(t, try(c.Nodes[1], "One+tag@far.example"), "450 4.7.1", "too soon, and known to the second node")
	comesBack(c.Nodes[1], "one@far.example")
	d := stranger(t, c.Nodes[2].SMTP)
	d.play("C: MAIL FROM:<one@far.example>", "S: 250", to, "S: 250", "C: RCPT TO:<bob@example.test>", "S: 250",
		"C: RSET", "S: 250")

	// A known client is not asked to wait, nor is mail to the postmaster.
	d = talkTo(t, c.Nodes[2].SMTP)
	d.play("C: MAIL FROM:<two@far.example>", "S: 250", to, "S: 250")
	require.NoError(t,
		api.SetAlias(ctx, by, admin.Alias{Address: "postmaster@example.test", Targets: []string{"alice@example.test"}}))
	d = stranger(t, c.Nodes[0].SMTP)
	d.play("C: MAIL FROM:<two@far.example>", "S: 250", "C: RCPT TO:<postmaster>", "S: 250", "C: RSET", "S: 250")
	// A caller that only asks whether an address exists is answered; its message is put off.
	d.play("C: MAIL FROM:<>", "S: 250", to, "S: 250", "C: RCPT TO:<nobody@example.test>", "S: 550 5.1.1")
	d.play(append(letter("null")[:8], "S: 450 4.7.1")...)

	// A node that dies between the first attempt and the retry takes nothing along.
	require.Contains(t, try(c.Nodes[0], "three@far.example"), "450 4.7.1")
	c.Nodes[0].Kill()
	c.Eventually(time.Minute, "no service after a death", func() bool {
		d := call(t, c.Nodes[1].SMTP)
		defer d.conn.Close()
		return strings.HasPrefix(d.play("S: "), "220") // 421 until there is a leader
	})
	comesBack(c.Nodes[1], "three@far.example")

	// A domain of its own mind.
	none := int64(0)
	c.Eventually(time.Minute, "no leader", func() bool {
		return c.Nodes[1].Client().SetDomain(ctx, by, "example.test", admin.DomainSet{Greylist: &none}) == nil
	})
	require.Contains(t, try(c.Nodes[1], "four@far.example"), "250")
	c.Nodes[0].Start()
	c.WaitHealthy()
	c.Verify()
}

// Recipients that come in one packet cost one command, not one each.
func TestGreylistingCostsOneCommandForManyRecipients(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	ctx := within(t, 3*time.Minute)
	require.NoError(t, c.Nodes[0].Client().SetSettings(ctx, admin.By{Why: "test"},
		admin.Settings{Greylist: 60, DefaultDomain: "example.test"}))
	d := stranger(t, c.Nodes[0].SMTP)
	applied := func() uint64 {
		s, err := c.Nodes[0].Client().Status(ctx)
		require.NoError(t, err)
		return s.Nodes[0].Applied
	}
	before := applied()
	var b strings.Builder
	b.WriteString("MAIL FROM:<s@far.example>\r\n")
	for range 500 {
		b.WriteString("RCPT TO:<alice@example.test>\r\n")
	}
	_, err := d.conn.Write([]byte(b.String()))
	require.NoError(t, err)
	r := bufio.NewReader(d.tp.R)
	for range 501 {
		line, err := r.ReadString('\n')
		require.NoError(t, err)
		require.Contains(t, "24", line[:1])
	}
	require.Less(t, applied()-before, uint64(15), "besides this there are only renewals")
}
