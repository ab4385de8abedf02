package nodetest

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/node/config"
)

const pause = 300 * time.Millisecond

// header is what a load balancer says of a client.
func header(t *testing.T, version byte, client string) string {
	from := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(client))
	to := &net.TCPAddr{IP: net.IPv4(198, 51, 100, 25), Port: 25}
	if from.IP.To4() == nil {
		to.IP = net.ParseIP("2001:db8::25")
	}
	b, err := proxyproto.HeaderProxyFromAddrs(version, from, to).Format()
	require.NoError(t, err)
	return string(b)
}

// through opens a connection as a load balancer does and writes parts of what a
// client says, apart in time.
func through(t *testing.T, m *Member, parts ...string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", m.SMTP)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(3 * time.Minute))
	for i, part := range parts {
		if i > 0 { // both ends are in this process: what a real client's packets are to each other
			timer := time.NewTimer(pause / 6)
			<-timer.C
		}
		_, err := io.WriteString(conn, part)
		require.NoError(t, err)
	}
	return conn
}

// balanced is a cluster of one behind a load balancer at 127.0.0.1.
func balanced(t *testing.T, more func(*config.Config)) *Cluster {
	return New(t, Options{Nodes: 1, Configure: func(_ int, conf *config.Config) {
		conf.SMTP[0].ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
		conf.SMTP[0].GreetPause = config.Duration(pause)
		if more != nil {
			more(conf)
		}
	}})
}

// The words of a load balancer are no talking before the greeting; its client's words
// behind them are, whatever packets they come in.
func TestGreetPauseBehindProxy(t *testing.T) {
	c := balanced(t, nil)
	m := c.Nodes[0]
	const early = "554 n1.example.test You talk before you are greeted"
	for version, name := range map[byte]string{1: "v1", 2: "v2"} {
		t.Run(name, func(t *testing.T) {
			h, home := header(t, version, "192.0.2.1:4711"), header(t, version, "127.0.0.1:4711")
			v6 := header(t, version, "[2001:db8::1]:4711")
			for name, c := range map[string]struct {
				parts []string
				want  string
				least time.Duration // from the first octet to the greeting
			}{
				"header alone":           {[]string{h}, "220 n1.example.test", pause},
				"header of IPv6":         {[]string{v6}, "220 n1.example.test", pause},
				"all in one":             {[]string{h + "EHLO early\r\n"}, early, 0},
				"right behind":           {[]string{h, "EHLO early\r\n"}, early, 0},
				"a second header":        {[]string{h, h}, early, 0},
				"trusted is not tested":  {[]string{home}, "220 n1.example.test", 0},
				"trusted may talk early": {[]string{home + "EHLO early\r\n"}, "220 n1.example.test", 0},
			} {
				t.Run(name, func(t *testing.T) {
					began := time.Now()
					conn := through(t, m, c.parts...)
					line, err := textproto.NewConn(conn).ReadLine()
					require.NoError(t, err)
					require.Contains(t, line, c.want)
					require.GreaterOrEqual(t, time.Since(began), c.least)
				})
			}
		})
	}
	// Version 2 may come in parts; of version 1 senders send all at once.
	h := header(t, 2, "192.0.2.1:4711")
	began := time.Now()
	line, err := textproto.NewConn(through(t, m, h[:5], h[5:20], h[20:])).ReadLine()
	require.NoError(t, err)
	require.Equal(t, "220 n1.example.test ESMTP", line)
	require.GreaterOrEqual(t, time.Since(began), pause+pause/3)
	line, err = textproto.NewConn(through(t, m, h[:20], h[20:]+"EHLO")).ReadLine()
	require.NoError(t, err)
	require.Equal(t, early, line)

	// A client that is no load balancer sends no header, and a load balancer does.
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	conn, err := d.Dial("tcp", m.SMTP)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, header(t, 1, "127.0.0.1:4711"))
	require.NoError(t, err)
	line, err = textproto.NewConn(conn).ReadLine()
	require.NoError(t, err)
	require.Equal(t, early, line)
	for _, said := range []string{
		"EHLO balancer\r\n", "PROXY TCP4 192.0.2.1 nonsense\r\n", "PROXY TCP4 192.0.2.300 198.51.100.25 1 25\r\n",
	} {
		got, _ := io.ReadAll(through(t, m, said))
		require.Empty(t, string(got), "%q", said)
	}
	require.Contains(t, metrics(t, m),
		`relay_refused_total{class="none",protocol="smtp",reason="no_proxy_header",role="mx"} 3`)
	// A load balancer's own connection, such as a check of the node's health.
	for _, said := range []string{"PROXY UNKNOWN\r\n", "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"} {
		line, err := textproto.NewConn(through(t, m, said)).ReadLine()
		require.NoError(t, err, "%q", said)
		require.Equal(t, "220 n1.example.test ESMTP", line)
	}
}

// Lists, greylisting, limits, trust and history go by the client's address, not
// by that of the load balancer.
func TestPoliciesBehindProxy(t *testing.T) {
	c := balanced(t, func(conf *config.Config) {
		conf.SMTP[0].GreetPause = 0
		conf.DNSBL = []config.DNSBL{
			{Zone: "bl.example", Name: "bl.example", Action: config.DNSBLRefuse, Codes: []string{"127.0.0.2"}},
		}
		conf.Limits.ConnectionsPerClient = 2
		conf.Limits.RecipientsPerMinute = 3
	})
	c.DNS.Add(t, "1.2.0.192.bl.example. A 127.0.0.2",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.bl.example. A 127.0.0.2")
	m, ctx := c.Nodes[0], within(t, 3*time.Minute)
	meet := func(version byte, client string) *talk {
		t.Helper()
		conn := through(t, m, header(t, version, client))
		d := &talk{t, conn, textproto.NewConn(conn)}
		d.play("S: 220", "C: EHLO client.test", "S: 250", "C: MAIL FROM:<a@far.example>", "S: 250")
		return d
	}
	const rcpt = "C: RCPT TO:<alice@example.test>"
	for _, version := range []byte{1, 2} {
		d := meet(version, "192.0.2.1:4711")
		d.play(rcpt, "S: 550 5.7.1 Client [192.0.2.1] is on bl.example", "C: QUIT", "S: 221")
		d = meet(version, "[2001:db8::1]:4711")
		d.play(rcpt, "S: 550 5.7.1 Client [2001:db8::1] is on bl.example", "C: QUIT", "S: 221")
		// The load balancer is trusted, its clients are not.
		d = meet(version, "192.0.2.2:4711")
		d.play("C: RCPT TO:<x@far.example>", "S: 550 5.7.1 Relaying denied", "C: QUIT", "S: 221")
	}
	d := meet(2, "192.0.2.3:4711")
	id := idOf(d.play(append([]string{rcpt, "S: 250"}, letter("three")...)...))
	trace, err := m.Client().Trace(ctx, id)
	require.NoError(t, err)
	require.Equal(t, "192.0.2.3:4711", trace.Client.Address)
	all := c.inbox("alice@example.test")
	require.Contains(t, all[len(all)-1], "Received: from client.test ([192.0.2.3])")

	// Connections and recipients are counted for each client.
	first, second := meet(1, "192.0.2.4:1"), meet(2, "192.0.2.4:2")
	line, err := textproto.NewConn(through(t, m, header(t, 1, "192.0.2.4:3"))).ReadLine()
	require.NoError(t, err)
	require.Contains(t, line, "421 ")
	other := meet(1, "192.0.2.5:1")
	first.play(rcpt, "S: 250", rcpt, "S: 250")
	second.play(rcpt, "S: 250", rcpt, "S: 45")
	other.play(rcpt, "S: 250", "C: RSET", "S: 250")

	// The triplet is that of the client's network.
	require.NoError(t, m.Client().SetSettings(ctx, admin.By{Why: "test"},
		admin.Settings{Greylist: 1, GreylistTrust: -1, DefaultDomain: "example.test"}))
	try := func(version byte, client string) string {
		d := meet(version, client)
		defer d.conn.Close()
		return d.play(rcpt, "S: ")
	}
	require.Contains(t, try(1, "203.0.113.1:4711"), "450 4.7.1 Greylisted")
	host := 1 // each may say but three recipients
	c.Eventually(time.Minute, "still put off", func() bool {
		host++
		return strings.HasPrefix(try(2, fmt.Sprintf("203.0.113.%d:4711", host%250+1)), "250")
	})
	require.Contains(t, try(2, "198.51.100.1:4711"), "450 4.7.1 Greylisted", "another network")
	require.False(t, slices.ContainsFunc(c.inbox("alice@example.test"),
		func(text string) bool { return strings.Contains(text, "127.0.0.1") }))
}
