package nodetest

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	wire "github.com/emersion/go-milter"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"relay/node/admin"
	"relay/node/config"
	"relay/pop3"
)

// The limit of 100 hops: a message may bring 100 Received fields, and with one
// more it is a loop (RFC 5321 §6.3).
func TestAHundredHopsAreTheLimit(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	c := New(t, Options{Nodes: 1, Log: zap.New(core)})
	d := stranger(t, c.Nodes[0].SMTP)
	message := func(hops int) string {
		return strings.Repeat("Received: from a.example by b.example; Mon, 30 Nov 2026 10:00:00 +0000\r\n", hops) +
			"From: a@far.example\r\nMessage-ID: <hops@far.example>\r\n\r\nx\r\n"
	}
	require.Equal(t, "554 5.4.6 Mail loop detected", d.mail("a@far.example", "alice@example.test", message(101)))
	line(c, logs, "refused", map[string]any{"reason": "loop", "stage": "data", "sender": "a@far.example"})
	require.Empty(t, c.inbox("alice"))
	require.NotEmpty(t, idOf(d.mail("a@far.example", "alice@example.test", message(100))))
	require.Equal(t, 101, strings.Count(c.inbox("alice")[0], "Received: "), "those and our own")
	require.Contains(t, metrics(t, c.Nodes[0]),
		`relay_refused_total{class="5xx",protocol="smtp",reason="loop",role="mx"} 1`)
}

// busyFilter puts one recipient off.
type busyFilter struct{ wire.NoOpMilter }

func (busyFilter) RcptTo(to string, _ *wire.Modifier) (wire.Response, error) {
	if strings.HasPrefix(to, "busy@") {
		return wire.RespTempFail, nil
	}
	return wire.RespContinue, nil
}

// refusing starts a node with everything that refuses mail, and tells its submission port.
func refusing(t *testing.T, log *zap.Logger) (c *Cluster, port string) {
	filter, _ := startFilter(t, func() wire.Milter { return busyFilter{} })
	port = freeAddr(t)
	c = New(t, Options{Nodes: 1, Log: log, Configure: func(_ int, conf *config.Config) {
		conf.SMTP[0].XClient = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		s := config.NewSMTP()
		s.Listen, s.Role = port, config.RoleSubmission
		conf.SMTP = append(conf.SMTP, s)
		conf.DNSBL = []config.DNSBL{{Zone: "bl.example", Action: config.DNSBLRefuse}}
		m := config.NewMilter()
		m.Address = filter
		conf.Milter = []config.Milter{m}
		conf.Limits.Recipients = 2
	}})
	c.DNS.Add(t, "1.2.0.192.bl.example. A 127.0.0.4", `bank.example. TXT "v=spf1 -all"`,
		`_dmarc.bank.example. TXT "v=DMARC1; p=reject"`, `old.example. TXT "v=spf1 -all"`)
	ctx, api, by := within(t, 3*time.Minute), c.Nodes[0].Client(), admin.By{Why: "test"}
	one, minute := uint64(1), int64(60)
	require.NoError(t, api.AddDomain(ctx, by, admin.Domain{Name: "strict.test", AuthPolicy: admin.AuthRefuse}))
	require.NoError(t, api.AddDomain(ctx, by, admin.Domain{Name: "grey.test"}))
	require.NoError(t, api.SetDomain(ctx, by, "grey.test", admin.DomainSet{Greylist: &minute}))
	for _, user := range []string{"carol@strict.test", "carol@grey.test", "busy@example.test", "full@example.test"} {
		require.NoError(t, api.AddUser(ctx, by, admin.UserAdd{Address: user, Password: "secret", QuotaMessages: 1}))
	}
	require.NoError(t, api.SetUser(ctx, by, "alice@example.test", admin.UserSet{SendLimitDay: &one}))
	c.Nodes[0].MustSend("a@far.example", "full@example.test", Letter("fills"))
	return c, port
}

// Each kind of refusal of mail, temporary ones too, leaves one line that says who
// was refused what, and counts one.
func TestEachRefusalOfMailLeavesALineAndACount(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	c, port := refusing(t, zap.New(core))
	mx := c.Nodes[0].SMTP
	from := func(sender, to string) []string {
		return []string{"C: MAIL FROM:<" + sender + ">", "S: 250", "C: RCPT TO:<" + to + ">"}
	}
	body := func(sender string) []string {
		return []string{"S: 250", "C: DATA", "S: 354", "M: From: " + sender, "M: ", "M: x", "M: ."}
	}
	for _, one := range []struct {
		reason, role, stage string
		reply               string
		sender, to          string
		dialogue            []string // up to the refusal
	}{
		{"dnsbl", "mx", "rcpt", "550 5.7.1 ", "a@far.example", "alice@example.test", append(
			[]string{"C: XCLIENT ADDR=192.0.2.1", "S: 220", "C: EHLO client.test", "S: 250"},
			from("a@far.example", "alice@example.test")...)},
		{"dmarc", "mx", "data", "550 5.7.26 ", "a@bank.example", "carol@strict.test",
			append(from("a@bank.example", "carol@strict.test"), body("a@bank.example")...)},
		{"spf", "mx", "data", "550 5.7.23 ", "a@old.example", "carol@strict.test",
			append(from("a@old.example", "carol@strict.test"), body("a@old.example")...)},
		{"greylist", "mx", "rcpt", "450 4.7.1 ", "a@far.example", "carol@grey.test",
			from("a@far.example", "carol@grey.test")},
		{"filter", "mx", "rcpt", "451 4.7.1 ", "a@far.example", "busy@example.test",
			from("a@far.example", "busy@example.test")},
		{"mailbox_full", "mx", "rcpt", "452 4.2.2 ", "a@far.example", "full@example.test",
			from("a@far.example", "full@example.test")},
		{"too_many_recipients", "mx", "rcpt", "452 4.5.3 ", "a@far.example", "third@example.test",
			append(from("a@far.example", "alice@example.test"), "S: 250", "C: RCPT TO:<bob@example.test>", "S: 250",
				"C: RCPT TO:<third@example.test>")},
		{"send_limit", "submission", "rcpt", "450 4.7.1 ", "alice@example.test", "y@far.example", append(
			append([]string{loginAlice, "S: 235"}, from("alice@example.test", "x@far.example")...),
			"S: 250", "C: RCPT TO:<y@far.example>")},
		{"sender_denied", "submission", "mail", "550 5.7.1 ", "bob@example.test", "",
			[]string{loginAlice, "S: 235", "C: MAIL FROM:<bob@example.test>"}},
	} {
		t.Run(one.reason, func(t *testing.T) {
			addr, client := mx, stranger
			if one.role == "submission" {
				addr, client = port, talkTo
			}
			d := client(t, addr)
			if one.role == "submission" {
				d.startTLS()
			}
			reply := d.play(append(one.dialogue, "S: "+one.reply)...)
			lines := logs.FilterMessage("refused").FilterField(zap.String("reason", one.reason)).All()
			require.Len(t, lines, 1, "written before the reply")
			l := lines[0].ContextMap()
			require.Subset(t, l, map[string]any{
				"protocol": "smtp", "role": one.role, "stage": one.stage, "reason": one.reason, "helo": "client.test",
				"sender": one.sender, "reply": strings.ReplaceAll(reply, "\n", " "),
			})
			require.NotEmpty(t, l["session"])
			require.NotEmpty(t, l["remote"])
			if one.stage == "rcpt" { // a refusal lends its recipients, an observer reads too late
				require.Contains(t, l["recipients"], one.to)
			}
			require.Contains(t, metrics(t, c.Nodes[0]), fmt.Sprintf(
				`relay_refused_total{class="%cxx",protocol="smtp",reason="%s",role="%s"} 1`, reply[0], one.reason, one.role))
		})
	}
}

// A connection that does nothing leaves a debug line with its session and its
// address, at SMTP and at POP3.
func TestConnectionsAreLinesOfDebug(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	c := New(t, Options{Nodes: 1, Log: zap.New(core)})
	for protocol, addr := range map[string]string{"smtp": c.Nodes[0].SMTP, "pop3": c.Nodes[0].POP3} {
		d := call(t, addr)
		_, err := d.tp.ReadLine()
		require.NoError(t, err)
		l := line(c, logs, "connected", map[string]any{"remote": d.conn.LocalAddr().String()})
		require.NotEmpty(t, l["session"], protocol)
		require.NoError(t, d.conn.Close())
		line(c, logs, "disconnected", map[string]any{"session": l["session"], "remote": l["remote"]})
	}
}

// A TLS handshake that fails at POP3 leaves a warning and a count.
func TestFailedTLSOfPOP3IsAWarning(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.WarnLevel)
	c := New(t, Options{Nodes: 1, Log: zap.New(core)})
	m := c.Nodes[0]
	d := call(t, m.POP3)
	_, err := d.tp.ReadLine()
	require.NoError(t, err)
	d.raw("STLS\r\n")
	_, err = d.tp.ReadLine()
	require.NoError(t, err)
	d.raw("no handshake at all\r\n")
	l := line(c, logs, "refused", map[string]any{"protocol": "pop3", "reason": "tls_failed", "stage": "tls"})
	require.Equal(t, d.conn.LocalAddr().String(), l["remote"])
	require.NotEmpty(t, l["session"])
	require.NotEmpty(t, l["error"])
	require.Contains(t, metrics(t, m), `relay_refused_total{class="none",protocol="pop3",reason="tls_failed",role=""} 1`)
}

// saslNames are what EHLO and CAPA of a node offer inside TLS.
func saslNames(t *testing.T, m *Member) (atSMTP, atPOP3 string) {
	d := call(t, m.SMTP)
	d.play("S: 220", "C: EHLO client.test", "S: 250")
	d.startTLS()
	for row := range strings.SplitSeq(d.play("C: EHLO client.test", "S: 250"), "\n") {
		if names, ok := strings.CutPrefix(row, "AUTH "); ok {
			atSMTP = names
		}
	}
	ctx := within(t, 3*time.Minute)
	p, err := pop3.Dial(ctx, m.POP3, nil)
	require.NoError(t, err)
	defer p.Close()
	require.NoError(t, p.StartTLS(ctx, &tls.Config{InsecureSkipVerify: true}))
	caps, err := p.Capa(ctx)
	require.NoError(t, err)
	return atSMTP, strings.Join(caps["SASL"], " ")
}

// The mechanisms of a listener are those that are listed, in that order, also SCRAM
// while an account cannot use it. If none are listed, SCRAM is hidden as long as an
// account has only an imported hash, and -PLUS is never offered.
func TestMechanismsOfListeners(t *testing.T) {
	t.Parallel()
	for _, one := range []struct {
		listed         []string
		all, oneCannot string
	}{
		{nil, "PLAIN LOGIN SCRAM-SHA-256", "PLAIN LOGIN"},
		{[]string{"plain", "SCRAM-SHA-256"}, "PLAIN SCRAM-SHA-256", "PLAIN SCRAM-SHA-256"},
		{[]string{"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"}, "SCRAM-SHA-256-PLUS SCRAM-SHA-256",
			"SCRAM-SHA-256-PLUS SCRAM-SHA-256"},
	} {
		t.Run(strings.Join(one.listed, " "), func(t *testing.T) {
			t.Parallel()
			c := New(t, Options{Nodes: 1, Configure: func(_ int, conf *config.Config) {
				conf.SMTP[0].SASLMechanisms, conf.POP3[0].SASLMechanisms = one.listed, one.listed
			}})
			atSMTP, atPOP3 := saslNames(t, c.Nodes[0])
			require.Equal(t, one.all, atSMTP)
			require.Equal(t, one.all, atPOP3)
			require.NoError(t, c.Nodes[0].Client().AddUser(within(t, 3*time.Minute), admin.By{Why: "test"}, admin.UserAdd{
				Address: "old@example.test", PasswordHash: "$2a$04$n9XCtu8.trSkSa39bDR4ruJ0JUUnVDIPkMHHnjuu1UWCfVSeY5NvS",
			}))
			atSMTP, atPOP3 = saslNames(t, c.Nodes[0])
			require.Equal(t, one.oneCannot, atSMTP)
			require.Equal(t, one.oneCannot, atPOP3)
		})
	}
}
