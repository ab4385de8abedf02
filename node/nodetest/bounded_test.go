package nodetest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/timetest"
	"relay/node/config"
)

// openTo counts the sockets of this process over which a name server is asked
// something: one carries up to 256 questions, and is closed with the last of them.
func openTo(t *testing.T, server string) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/net/udp")
	if err != nil {
		t.Skip("sockets are counted in /proc/self/net/udp")
	}
	port := netip.MustParseAddrPort(server).Port()
	return strings.Count(string(text), fmt.Sprintf(" 0100007F:%04X 01 ", port))
}

// TestQuestionsEndWithTheirTransaction: questions that a stranger has us ask of name
// servers that do not answer are asked no longer than the transaction lives.
func TestQuestionsEndWithTheirTransaction(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1, Configure: func(_ int, conf *config.Config) {
		conf.Verify.Timeout = config.Duration(time.Minute)
		conf.Verify.DNSBLTimeout = config.Duration(time.Minute)
		conf.DNSBL = []config.DNSBL{{Zone: "bl.example", Action: config.DNSBLRefuse}}
		conf.SMTP[0].XClient = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}})
	machine := timetest.Watch(t)
	none := func(why string) {
		t.Helper()
		start, lost := time.Now(), machine.Lost()
		c.Eventually(time.Minute, why, func() bool { return openTo(t, c.DNS.Addr) == 0 })
		require.Less(t, time.Since(start), 2*time.Second+2*(machine.Lost()-lost), "a question alone takes six")
	}
	begin := func(n int) *talk {
		c.DNS.Hang(fmt.Sprintf("d%d.example.", n))
		d := c.stranger()
		d.play(fmt.Sprintf("C: MAIL FROM:<a@d%d.example>", n), "S: 250", "C: RCPT TO:<alice@example.test>", "S: 250")
		c.Eventually(time.Minute, "nothing is asked", func() bool { return openTo(t, c.DNS.Addr) > 0 })
		return d
	}
	none("before")
	for n, end := range []string{"RSET", "EHLO again.example", "QUIT"} {
		begin(n).play("C: "+end, "S: 2")
		none(end)
	}
	begin(10).conn.Close()
	none("disconnect")
	all := []*talk{}
	for n := range 20 {
		all = append(all, begin(100+n))
	}
	for _, d := range all {
		d.conn.Close()
	}
	none("many")
}

// TestAdminPortIsBounded: connections that say nothing, and bodies that do not
// come, keep nobody from the admin port of a node.
func TestAdminPortIsBounded(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	m := c.Nodes[0]
	address := strings.TrimPrefix(m.Admin, "http://")
	var bodies []net.Conn
	for n := range 300 {
		conn, err := net.Dial("tcp", address)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		switch n % 3 {
		case 0: // half a head
			_, err = io.WriteString(conn, "GET /healthz HTTP/1.1\r\n")
		case 1: // a body that never comes
			bodies = append(bodies, conn)
			_, err = io.WriteString(conn,
				"POST /v1/send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test\r\nContent-Type: application/json\r\n"+
					"Content-Length: 100\r\n\r\n{")
		}
		require.NoError(t, err)
	}
	client := http.Client{Timeout: 50 * time.Second}
	res, err := client.Get(m.Admin + "/healthz")
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, 200, res.StatusCode)
	if !timetest.Long() {
		return
	}
	for _, conn := range bodies {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(90*time.Second)))
		_, err := io.ReadAll(conn)
		require.False(t, errors.Is(err, os.ErrDeadlineExceeded), "still open")
	}
}
