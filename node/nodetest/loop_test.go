package nodetest

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"relay/node/admin"
	"relay/node/config"
)

// ownMX are domains of strangers whose mail leads to the node itself: by a loopback
// address, an address of this machine, or the node's own name.
func ownMX(t *testing.T, d *DNS) (domains []string) {
	hosts := map[string]string{
		"A 127.0.0.1": "", "A 127.9.8.7": "", "A 0.0.0.0": "", "AAAA ::1": "", "AAAA ::": "", "AAAA ::ffff:127.0.0.3": "",
		"AAAA ::ffff:0.0.0.0": "", "CNAME localhost.far.example.": "",
	}
	d.Add(t, "localhost.far.example. A 127.0.0.1")
	addresses, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() && p.Addr().Is4() {
			hosts["A "+p.Addr().String()] = ""
			hosts["AAAA ::ffff:"+p.Addr().String()] = ""
		}
	}
	n := 0
	for record := range hosts {
		n++
		domain := fmt.Sprintf("d%d.example", n)
		d.Add(t, domain+". MX 10 mx."+domain+".", "mx."+domain+". "+record)
		domains = append(domains, domain)
	}
	d.Add(t, "name.example. MX 10 N1.Example.TEST.") // has no address
	d.Add(t, "bare.example. A 127.0.0.1")
	d.Add(t, "equal.example. MX 10 far.equal.example.", "equal.example. MX 10 n1.example.test.",
		"far.equal.example. A 192.0.2.1")
	d.Add(t, "behind.example. MX 10 n1.example.test.", "behind.example. MX 20 mx.behind.example.",
		"mx.behind.example. A 127.0.0.1")
	return append(domains, "name.example", "bare.example", "equal.example", "behind.example", "[127.0.0.1]", "[IPv6:::1]",
		"[IPv6:::ffff:127.0.0.1]", "[0.0.0.0]")
}

// strange is a node whose port is where its own mail by MX goes, at any address of
// this machine; only mail to good.example has a way out.
func strange(t *testing.T, log *zap.Logger) (*Cluster, string) {
	submission := freeAddr(t)
	c := New(t, Options{Nodes: 1, Log: log, Configure: func(_ int, conf *config.Config) {
		_, port, err := net.SplitHostPort(conf.SMTP[0].Listen)
		require.NoError(t, err)
		conf.SMTP[0].Listen = net.JoinHostPort("0.0.0.0", port)
		conf.Delivery.LoopbackHops = false
		conf.Delivery.Port, err = strconv.Atoi(port)
		require.NoError(t, err)
		s := config.NewSMTP()
		s.Listen, s.Role = submission, config.RoleSubmission
		conf.SMTP = append(conf.SMTP, s)
	}})
	ctx, by := within(t, 3*time.Minute), admin.By{Why: "test"}
	api := c.Nodes[0].Client()
	require.NoError(t, api.RemoveRoute(ctx, by, "*", admin.RouteSenders{}))
	require.NoError(t, api.SetRoute(ctx, by, admin.Route{Domain: "good.example", Target: "smtp:" + c.Sink.Addr}))
	return c, submission
}

func (c *Cluster) waitEmpty(d time.Duration) {
	c.t.Helper()
	var left []admin.QueueMessage
	empty := func() bool {
		var err error
		left, _, err = c.Nodes[0].Client().Queue(c.t.Context(), admin.QueuePage{})
		return err == nil && len(left) == 0
	}
	if !poll(d, empty) {
		require.Empty(c.t, left)
	}
}

// TestReportsDoNotComeBack: a stranger asks for reports of success to a domain whose
// MX is this node. Each message has one report, which ends here, and no connection of
// the node to itself carries it.
func TestReportsDoNotComeBack(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	c, _ := strange(t, zap.New(core))
	domains := ownMX(t, c.DNS)
	for i, domain := range domains {
		d := strangerTo(t, c.Nodes[0].SMTP)
		d.play("S: 220", "C: EHLO far.example", "S: 250")
		d.play(append([]string{"C: MAIL FROM:<x@" + domain + ">", "S: 250",
			"C: RCPT TO:<alice@example.test> NOTIFY=SUCCESS,FAILURE,DELAY", "S: 250"}, letter(fmt.Sprint("n", i))...)...)
		d.play("C: QUIT", "S: 221")
		d.closed()
	}
	c.waitEmpty(60 * time.Second)
	require.Len(t, c.inbox("alice"), len(domains))
	require.Len(t, smtpConnections(logs), len(domains), "no connection but the strangers'")
	reports := logs.FilterMessage("bounced").All()
	require.Len(t, reports, len(domains), "each report ends")
	for _, e := range reports {
		require.Contains(t, fmt.Sprint(e.ContextMap()), "5.4.6", "%v", e.ContextMap())
	}
	require.Empty(t, c.Sink.Got())
	c.Verify()
}

// smtpConnections are from where the node's SMTP ports were connected to.
func smtpConnections(logs *observer.ObservedLogs) (from []any) {
	for _, e := range logs.FilterMessage("connected").All() {
		if strings.Contains(e.LoggerName, "smtp") {
			from = append(from, e.ContextMap()["remote"])
		}
	}
	return from
}

// TestNoSuccessWhereNothingWentOut: mail to such a domain has failed, by whomever it
// was sent and however it got its recipient; no report says that it was relayed or
// delivered.
func TestNoSuccessWhereNothingWentOut(t *testing.T) {
	t.Parallel()
	c, port := strange(t, zap.NewNop())
	ctx, by := within(t, 3*time.Minute), admin.By{Why: "test"}
	reports := 0
	for i, domain := range ownMX(t, c.DNS) {
		d := talkTo(t, port)
		d.play(loginAlice, "S: 235")
		got := d.play("C: MAIL FROM:<alice@example.test>", "S: 250",
			"C: RCPT TO:<x@"+domain+"> NOTIFY=SUCCESS,FAILURE", "S: ")
		if strings.HasPrefix(domain, "[") && strings.HasPrefix(got, "550 5.1.1") {
			continue // the node's own address, where nobody has a mailbox
		}
		reports++
		d.play(letter(fmt.Sprint("n", i))...)
		c.waitEmpty(20 * time.Second)
		require.Len(t, c.inbox("alice"), reports, domain)
		text := c.last("alice")
		require.Contains(t, text, "\r\nAction: failed\r\n", domain)
		require.Contains(t, text, "\r\nStatus: 5.4.6\r\n", domain)

		if strings.HasPrefix(domain, "[") {
			continue
		}
		away := fmt.Sprintf("away%d@example.test", i)
		alias := admin.Alias{Address: away, Targets: []string{"y@" + domain}}
		require.NoError(t, c.Nodes[0].Client().SetAlias(ctx, by, alias))
		for _, notify := range []string{"SUCCESS", "SUCCESS,FAILURE"} {
			d = strangerTo(t, c.Nodes[0].SMTP)
			d.play("S: 220", "C: EHLO far.example", "S: 250")
			d.play(append([]string{"C: MAIL FROM:<s@good.example>", "S: 250",
				"C: RCPT TO:<" + away + "> NOTIFY=" + notify, "S: 250"}, letter(fmt.Sprint("a", i, notify))...)...)
		}
		c.waitEmpty(20 * time.Second)
	}
	for _, got := range c.Sink.Got() {
		require.Contains(t, got.Body, "\r\nAction: failed\r\n")
		for _, action := range []string{"relayed", "delivered", "expanded"} {
			require.NotContains(t, got.Body, "\r\nAction: "+action)
		}
	}
	require.NotEmpty(t, c.Sink.Got())
}
