package nodetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	wire "github.com/emersion/go-milter"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"relay/node/admin"
	"relay/node/config"
	"relay/smtp"
	"relay/smtp/printable"
)

// TestStrangersText: whatever a stranger says, what is kept and shown of it can
// neither steer a terminal nor break a program that reads it.
func TestStrangersText(t *testing.T) {
	t.Parallel()
	const evil = evilText
	core, logs := observer.New(zapcore.DebugLevel)
	c := New(t, Options{Nodes: 1, Log: zap.New(core)})
	ctx := within(t, 3*time.Minute)
	c.Sink.Answer(func(string) error { return smtp.NewReply(451, "4.2.0", "later "+evil) })
	m := c.Nodes[0]
	d := talkTo(t, m.SMTP)
	for _, line := range []string{"HELO " + evil, "EHLO " + evil, "VRFY " + evil, evil} {
		d.raw(line + "\r\n")
		d.play("S: 5")
	}
	d = talkTo(t, m.SMTP) // ten errors end a session
	for _, line := range []string{
		"MAIL FROM:<" + evil + "@far.example> SMTPUTF8", "MAIL FROM:<\"" + evil + "\"@far.example> SMTPUTF8",
		"MAIL FROM:<a@" + evil + ".example> SMTPUTF8", "MAIL FROM:<a@far.example> SMTPUTF8 ENVID=a+C2+85",
	} {
		d.raw(line + "\r\n")
		d.play("S: 5")
	}
	d = talkTo(t, m.SMTP)
	d.play("C: MAIL FROM:<alice@example.test> SMTPUTF8", "S: 250")
	for _, line := range []string{
		"RCPT TO:<" + evil + "@far.example>", "RCPT TO:<x@far.example> ORCPT=utf-8;\\x{202E}a@b.example",
	} {
		d.raw(line + "\r\n")
		d.play("S: 5")
	}
	d.play("C: RCPT TO:<x@far.example>", "S: 250", "C: DATA", "S: 354")
	d.raw("Message-ID: <" + evil + "@x>\r\nSubject: " + evil + "\r\nFrom: " + evil +
		" <alice@example.test>\r\n\r\nx\r\n.\r\n")
	id := idOf(d.play("S: 250"))
	_, err := m.Login(ctx, evil)
	require.Error(t, err)

	api := m.Client()
	c.Eventually(time.Minute, "no word of the hop", func() bool {
		one, err := api.Trace(ctx, id)
		return err == nil && strings.Contains(fmt.Sprint(one), "later a")
	})
	trace, err := api.Trace(ctx, id)
	require.NoError(t, err)
	detail, err := api.Message(ctx, id)
	require.NoError(t, err)
	events, err := api.Find(ctx, admin.TraceQuery{From: "alice@example.test"})
	require.NoError(t, err)
	for _, shown := range []any{trace, detail, events} {
		text, err := json.Marshal(shown)
		require.NoError(t, err)
		fit(t, string(text))
	}
	fitLogs(t, logs)
}

func fit(t *testing.T, text string) {
	t.Helper()
	require.False(t, strings.ContainsFunc(strings.ReplaceAll(text, "\n", ""),
		func(r rune) bool { return !printable.Rune(r) }), "%q", text)
}

// rude is a content filter that speaks as TestStrangersText does.
type rude struct{ wire.NoOpMilter }

func (rude) RcptTo(to string, _ *wire.Modifier) (wire.Response, error) {
	if strings.HasPrefix(to, "bob@") {
		return wire.NewResponseStr('y', "550 5.7.9 "+evilText), nil
	}
	return wire.RespContinue, nil
}

func (rude) Header(name, value string, m *wire.Modifier) (wire.Response, error) {
	if name == "Subject" && value == "hold" {
		return wire.RespContinue, m.Quarantine(evilText)
	}
	return wire.RespContinue, nil
}

func (rude) Body(m *wire.Modifier) (wire.Response, error) {
	return wire.RespContinue, errors.Join(m.AddHeader("X-Rude", evilText), m.Quarantine("why "+evilText))
}

const evilText = "a\u0085\u009b2J\u202eexe\u2066\u2028"

// TestOthersText is TestStrangersText for what is not said by SMTP: records in
// DNS (names of clients, reasons of lists, what SPF and DKIM say) and filters.
func TestOthersText(t *testing.T) {
	t.Parallel()
	const escaped = `a\194\133\194\155\226\128\174exe\226\129\166`
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	filter := &wire.Server{
		NewMilter: func() wire.Milter { return rude{} }, Actions: wire.OptAddHeader | wire.OptQuarantine,
	}
	go func() { _ = filter.Serve(l) }()
	t.Cleanup(func() { _ = l.Close() })
	core, logs := observer.New(zapcore.DebugLevel)
	c := New(t, Options{Nodes: 1, Log: zap.New(core), Configure: func(_ int, conf *config.Config) {
		m := config.NewMilter()
		m.Address = "inet:" + l.Addr().String()
		conf.Milter = []config.Milter{m}
		conf.SMTP[0].XClient = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		conf.DNSBL = []config.DNSBL{
			{Zone: "tag.example", Action: config.DNSBLTag}, {Zone: "bl.example", Action: config.DNSBLRefuse},
		}
	}})
	c.DNS.Add(t, "7.2.0.192.tag.example. A 127.0.0.2", `7.2.0.192.tag.example. TXT "`+escaped+`"`,
		"8.2.0.192.bl.example. A 127.0.0.2", `8.2.0.192.bl.example. TXT "`+escaped+`"`,
		"7.2.0.192.in-addr.arpa. PTR "+escaped+".rude.example.", escaped+".rude.example. A 192.0.2.7",
		`rude.example. TXT "v=spf1 ptr exists:%{p}.rude.example ?include:`+escaped+`.example -all exp=why.rude.example"`,
		`why.rude.example. TXT "`+escaped+`"`, `_dmarc.rude.example. TXT "v=DMARC1; p=none; rua=`+escaped+`"`,
		`sel._domainkey.rude.example. TXT "v=`+escaped+`; k=`+escaped+`; p=`+escaped+`"`)
	ctx := within(t, 3*time.Minute)
	from := func(address string) *talk {
		d := strangerTo(t, c.Nodes[0].SMTP)
		d.play("S: 220", "C: XCLIENT ADDR="+address, "S: 220", "C: EHLO rude.example", "S: 250")
		return d
	}
	d := from("192.0.2.7")
	message := "From: " + evilText +
		" <a@rude.example>\r\nDKIM-Signature: v=1; a=rsa-sha256; d=rude.example; s=sel; h=from; bh=AAAA; b=AAAA\r\n" +
		"DKIM-Signature: v=1; a=rsa-sha256; d=" + evilText + ".example; s=" + evilText + "; h=from; bh=AAAA; b=" + evilText +
		"\r\nSubject: x\r\n\r\nx\r\n"
	id := idOf(d.mail("a@rude.example", "alice@example.test", message))
	d.play("C: MAIL FROM:<a@rude.example>", "S: 250", "C: RCPT TO:<bob@example.test>")
	said := d.play("S: 550 5.7.9")
	d = from("192.0.2.8")
	d.play("C: MAIL FROM:<a@rude.example>", "S: 250", "C: RCPT TO:<alice@example.test>")
	said += d.play("S: 550 5.7.1")
	fit(t, strings.ReplaceAll(said, "\r", ""))

	api := c.Nodes[0].Client()
	trace, err := api.Trace(ctx, id)
	require.NoError(t, err)
	list, _, err := api.Queue(ctx, admin.QueuePage{})
	require.NoError(t, err)
	events, err := api.Find(ctx, admin.TraceQuery{From: "a@rude.example"})
	require.NoError(t, err)
	for _, shown := range []any{trace, list, events} {
		text, err := json.Marshal(shown)
		require.NoError(t, err)
		fit(t, string(text))
	}
	for _, field := range results(c.last("alice@example.test")) {
		fit(t, strings.ReplaceAll(field, "\t", " "))
	}
	fitLogs(t, logs)
}

func fitLogs(t *testing.T, logs *observer.ObservedLogs) {
	t.Helper()
	require.NotEmpty(t, logs.All())
	for _, e := range logs.All() {
		fit(t, e.Message)
		for _, f := range e.Context {
			fit(t, f.String)
			if err, ok := f.Interface.(error); ok {
				fit(t, err.Error())
			}
		}
	}
}
