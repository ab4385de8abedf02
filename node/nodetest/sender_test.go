package nodetest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/node/config"
)

// domainKey signs for the domains of TestWhoSends.
func domainKey() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) }

func dkimSigned(t *testing.T, domain, message string) string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, dkim.Sign(&out, strings.NewReader(message), &dkim.SignOptions{
		Domain: domain, Selector: "sel", Signer: domainKey(), Hash: crypto.SHA256, HeaderKeys: []string{"From", "Subject"},
		HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed,
	}))
	return out.String()
}

// mail hands in a message of CRLF lines, none of which begins with a dot, and
// returns the reply.
func (d *talk) mail(from, to, message string) string {
	d.t.Helper()
	d.play("C: MAIL FROM:<"+from+">", "S: 250", "C: RCPT TO:<"+to+">", "S: 250", "C: DATA", "S: 354")
	d.raw(message + ".\r\n")
	return d.play("S: ")
}

// senders starts nodes of which the first stores mail for example.test, which
// tags, strict.test, which refuses, and open.test, which looks nothing up.
func senders(t *testing.T, nodes int, more func(*config.Config)) *Cluster {
	t.Helper()
	tuning := Lasting()
	if nodes > 1 { // one may be killed
		tuning = Quick()
	}
	c := New(t, Options{Nodes: nodes, Tuning: tuning, Configure: func(_ int, conf *config.Config) {
		conf.Verify.Timeout = config.Duration(2 * time.Second)
		conf.SMTP[0].XClient = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		if more != nil {
			more(conf)
		}
	}})
	c.DNS.Add(t,
		`good.example. TXT "v=spf1 ip4:127.0.0.9 -all"`,
		`_dmarc.good.example. TXT "v=DMARC1; p=reject"`,
		`sel._domainkey.good.example. TXT "v=DKIM1; k=ed25519; p=`+base64.StdEncoding.EncodeToString(domainKey().Public().(ed25519.PublicKey))+`"`,
		`bank.example. TXT "v=spf1 -all"`,
		`_dmarc.bank.example. TXT "v=DMARC1; p=reject"`,
		`careful.example. TXT "v=spf1 -all"`,
		`_dmarc.careful.example. TXT "v=DMARC1; p=quarantine"`,
		`old.example. TXT "v=spf1 -all"`)
	ctx := within(t, 3*time.Minute)
	api, by := c.Nodes[0].Client(), admin.By{Why: "test"}
	for domain, policy := range map[string]string{"strict.test": admin.AuthRefuse, "open.test": admin.AuthNone} {
		require.NoError(t, api.AddDomain(ctx, by, admin.Domain{Name: domain, AuthPolicy: policy}))
		require.NoError(t, api.AddUser(ctx, by, admin.UserAdd{Address: "carol@" + domain, Password: "secret"}))
	}
	return c
}

func (c *Cluster) stranger() *talk {
	d := strangerTo(c.t.(*testing.T), c.Nodes[0].SMTP)
	d.play("S: 220", "C: EHLO mail.good.example", "S: 250")
	return d
}

// last is the newest message of a mailbox.
func (c *Cluster) last(user string) string {
	c.t.Helper()
	all := c.inbox(user)
	require.NotEmpty(c.t, all)
	return all[len(all)-1]
}

// results are the Authentication-Results fields of a message, unfolded.
func results(message string) []string {
	head, _, _ := strings.Cut(message, "\r\n\r\n")
	head = strings.ReplaceAll(head, "\r\n\t", " ")
	var all []string
	for _, line := range strings.Split(head, "\r\n") {
		if strings.HasPrefix(strings.ToLower(line), "authentication-results:") {
			all = append(all, line)
		}
	}
	return all
}

func TestWhoSends(t *testing.T) {
	t.Parallel()
	c := senders(t, 1, nil)
	ctx := within(t, 3*time.Minute)
	api := c.Nodes[0].Client()
	good := func(subject string) string {
		return dkimSigned(t, "good.example",
			"From: A <a@good.example>\r\nSubject: "+subject+"\r\n"+
				"Message-ID: <"+subject+"@good.example>\r\n\r\nthe text of it\r\n")
	}
	stored := func() uint64 {
		s, err := api.Status(ctx)
		require.NoError(t, err)
		var n uint64
		for _, user := range []string{"alice@example.test", "bob@example.test", "carol@strict.test", "carol@open.test"} {
			n += uint64(len(c.inbox(user)))
		}
		return n + s.Queue.Messages
	}

	t.Run("a good message says so on its top and in its history", func(t *testing.T) {
		d := c.stranger()
		id := idOf(d.mail("a@good.example", "alice@example.test", good("good")))
		require.NotEmpty(t, id)
		got := c.last("alice@example.test")
		require.Contains(t, got, "Delivered-To: alice@example.test\r\nAuthentication-Results: n1.example.test;\r\n"+
			"\tspf=pass smtp.mailfrom=a@good.example;\r\n\tdkim=pass header.d=good.example header.s=sel header.b=")
		require.Contains(t, got, ";\r\n\tdmarc=pass (p=reject dis=none) header.from=good.example\r\nReceived: from ")
		require.True(t, strings.HasSuffix(got, good("good")[strings.Index(good("good"), "From: "):]))
		trace, err := api.Trace(ctx, id)
		require.NoError(t, err)
		require.Equal(t, "spf=pass dkim=pass (good.example) dmarc=pass (good.example p=reject)", trace.Events[0].Detail)
		require.NotEmpty(t, idOf(d.mail("a@good.example", "carol@strict.test", good("strict"))))
		require.Contains(t, results(c.last("carol@strict.test"))[0], "dmarc=pass")
	})
	t.Run("a changed body fails, and is refused where that is wanted, with nothing stored", func(t *testing.T) {
		d := c.stranger()
		broken := strings.Replace(good("broken"), "the text", "some text", 1)
		require.NotEmpty(t, idOf(d.mail("a@bank.example", "alice@example.test", broken)))
		require.Contains(t, results(c.last("alice@example.test"))[0], `dkim=fail reason="body hash did not verify"`)
		require.Contains(t, results(c.last("alice@example.test"))[0], "dmarc=fail (p=reject dis=reject)")
		before := stored()
		require.Contains(t, d.mail("a@bank.example", "carol@strict.test", broken), "550 5.7.26 ")
		require.Equal(t, before, stored())
		d.play("C: NOOP", "S: 250")
	})
	t.Run("quarantine is only said", func(t *testing.T) {
		d := c.stranger()
		require.NotEmpty(t, idOf(d.mail("a@careful.example", "carol@strict.test", "From: a@careful.example\r\n\r\nx\r\n")))
		require.Contains(t, results(c.last("carol@strict.test"))[0], "dmarc=fail (p=quarantine dis=quarantine)")
	})
	t.Run("more authors than are asked about", func(t *testing.T) {
		d := c.stranger()
		crowd := "From: s@a.example, s@b.example, s@c.example, s@d.example, s@e.example, s@f.example, s@g.example, " +
			"s@h.example\r\nFrom: a@bank.example\r\n\r\nx\r\n"
		require.Contains(t, d.mail("a@good.example", "carol@strict.test", crowd), "550 5.7.1 The From field")
		require.NotEmpty(t, idOf(d.mail("a@good.example", "alice@example.test", crowd)))
		require.Contains(t, results(c.last("alice@example.test"))[0], `dmarc=permerror reason="too many authors"`)
	})
	t.Run("SPF alone counts where the author's domain says nothing", func(t *testing.T) {
		d := c.stranger()
		require.Contains(t, d.mail("a@old.example", "carol@strict.test", "From: a@old.example\r\n\r\nx\r\n"), "550 5.7.23 ")
		require.NotEmpty(t, idOf(d.mail("a@old.example", "alice@example.test", "From: a@old.example\r\n\r\nx\r\n")))
	})
	t.Run("what DNS does not say now is asked for again", func(t *testing.T) {
		c.DNS.Fail("_dmarc.down.example.")
		d := c.stranger()
		letter := "From: a@down.example\r\n\r\nx\r\n"
		require.Contains(t, d.mail("a@down.example", "carol@strict.test", letter), "451 4.4.3 ")
		require.NotEmpty(t, idOf(d.mail("a@down.example", "alice@example.test", letter)))
		require.Contains(t, results(c.last("alice@example.test"))[0], "dmarc=temperror header.from=down.example")
	})
	t.Run("nothing is looked up where nobody wants it", func(t *testing.T) {
		d := c.stranger()
		require.NotEmpty(t, idOf(d.mail("a@bank.example", "carol@open.test", "From: a@bank.example\r\n\r\nx\r\n")))
		require.Empty(t, results(c.last("carol@open.test")))
	})
	t.Run("recipients under other rules come in a message of their own", func(t *testing.T) {
		d := c.stranger()
		d.play("C: MAIL FROM:<a@good.example>", "S: 250", "C: RCPT TO:<alice@example.test>", "S: 250",
			"C: RCPT TO:<carol@open.test>", "S: 250",
			"C: RCPT TO:<carol@strict.test>", "S: 452 4.5.3", "C: RSET", "S: 250",
			"C: MAIL FROM:<a@good.example>", "S: 250", "C: RCPT TO:<carol@strict.test>", "S: 250",
			"C: RCPT TO:<alice@example.test>", "S: 452 4.5.3", "C: RSET", "S: 250")
	})
	t.Run("a postmaster gets everything", func(t *testing.T) {
		d := c.stranger()
		require.NoError(t,
			api.SetAlias(ctx, admin.By{}, admin.Alias{
				Address: "postmaster@strict.test", Targets: []string{"carol@strict.test"},
			}))
		require.NotEmpty(t, idOf(d.mail("a@bank.example", "postmaster@strict.test", "From: a@bank.example\r\n\r\nhelp\r\n")))
	})
	t.Run("who is known is not asked about", func(t *testing.T) {
		d := talkTo(t, c.Nodes[0].SMTP)
		require.NotEmpty(t,
			idOf(d.mail("a@bank.example", "carol@strict.test",
				"From: a@bank.example\r\nAuthentication-Results: n1.example.test; spf=pass\r\n\r\nx\r\n")))
		require.Equal(t, []string{"Authentication-Results: n1.example.test; spf=pass"}, results(c.last("carol@strict.test")))
		d = c.stranger()
		d.startTLS()
		d.play(loginAlice, "S: 235")
		senders := []string{"a@bank.example"}
		require.NoError(t, api.SetUser(ctx, admin.By{}, "alice@example.test", admin.UserSet{Senders: &senders}))
		require.NotEmpty(t,
			idOf(d.mail("alice@example.test", "carol@strict.test",
				"From: a@bank.example\r\nAuthentication-Results: n1.example.test; spf=pass\r\n\r\nx\r\n")))
		require.Empty(t, results(c.last("carol@strict.test")), "whoever logs in is not us")
	})
	t.Run("what claims to be from us goes", func(t *testing.T) {
		d := c.stranger()
		require.NotEmpty(t,
			idOf(d.mail("a@good.example", "carol@open.test",
				"Received: from x\r\nAuthentication-Results: N1.example.test;\r\n dmarc=pass\r\n"+
					"Authentication-Results: other.example; spf=fail\r\nFrom: a@good.example\r\n\r\n"+
					"Authentication-Results: n1.example.test; spf=pass\r\n")))
		got := c.last("carol@open.test")
		require.Equal(t, []string{"Authentication-Results: other.example; spf=fail"}, results(got))
		require.True(t, strings.HasSuffix(got, "Received: from x\r\nAuthentication-Results: other.example; spf=fail\r\n"+
			"From: a@good.example\r\n\r\nAuthentication-Results: n1.example.test; spf=pass\r\n"))
		huge := "From: a@good.example\r\n" + strings.Repeat("X-Filler: "+strings.Repeat("x", 900)+"\r\n", 300)
		require.Contains(t, d.mail("a@good.example", "carol@open.test", huge+"\r\nx\r\n"), "552 5.3.4")
	})
	c.Verify()
}

// A large message has been sent ahead when the result is there; it stands on
// top all the same, on every node, and a refusal leaves nothing behind.
func TestLargeMessageFromStranger(t *testing.T) {
	t.Parallel()
	c := senders(t, 3, nil)
	ctx := within(t, 3*time.Minute)
	large := "From: A <a@good.example>\r\nSubject: large\r\nMessage-ID: <large@good.example>\r\n\r\n" +
		strings.Repeat(strings.Repeat("x", 70)+"\r\n", 40_000)
	signed := dkimSigned(t, "good.example", large)
	d := c.stranger()
	forged := strings.Replace(signed, "From: A", "Authentication-Results: n3.example.test; spf=pass\r\nFrom: A", 1)
	id := idOf(d.mail("a@good.example", "carol@strict.test", forged))
	require.NotEmpty(t, id)
	got := c.last("carol@strict.test")
	require.Len(t, results(got), 1)
	for _, want := range []string{"n1.example.test;", "spf=pass", "dkim=pass", "dmarc=pass"} {
		require.Contains(t, results(got)[0], want)
	}
	// n1's field and the trace stand above what came, which is whole.
	require.Equal(t, sha256.Sum256([]byte(large)), sha256.Sum256([]byte(got[len(got)-len(large):])))
	// nothing says that the first 250 was read
	again := idOf(c.stranger().mail("a@good.example", "carol@strict.test", forged))
	require.Equal(t, id, again, "the same message, whatever stands on top of it")

	require.Contains(t,
		d.mail("a@bank.example", "carol@strict.test", strings.Replace(signed, "\r\nxxx", "\r\nyyy", 1)), "550 5.7.26")
	require.Len(t, c.inbox("carol@strict.test"), 1)
	// To two mailboxes and a list that goes on under another sender.
	require.NoError(t, c.Nodes[0].Client().SetAlias(ctx, admin.By{}, admin.Alias{
		Address: "list@example.test", Targets: []string{"alice@example.test", "x@far.example"}, Owner: "owner@example.test",
	}))
	require.NotEmpty(t, idOf(d.mail("a@good.example", "list@example.test", signed)))
	require.NoError(t, c.Sink.Wait(ctx, 1))
	require.Contains(t, results(c.Sink.Got()[0].Body)[0], "dkim=pass")
	require.True(t, strings.HasSuffix(c.Sink.Got()[0].Body, large))
	c.Verify() // bodies against their digests, on every node
}

// A signed message, half of it sent, is given up: nothing waits for it.
func TestStrangerHangsUp(t *testing.T) {
	t.Parallel()
	c := senders(t, 1, nil)
	message := dkimSigned(t, "good.example",
		"From: a@good.example\r\nSubject: s\r\n\r\n"+strings.Repeat("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n", 20_000))
	for _, part := range []int{0, 100, 400_000} {
		d := c.stranger()
		d.play("C: MAIL FROM:<a@good.example>", "S: 250", "C: RCPT TO:<alice@example.test>", "S: 250", "C: DATA", "S: 354")
		d.raw(message[:part])
		require.NoError(t, d.conn.Close())
	}
	d := c.stranger()
	require.NotEmpty(t, idOf(d.mail("a@good.example", "alice@example.test", message)))
	require.Len(t, c.inbox("alice@example.test"), 1)
}

func TestListsOfClients(t *testing.T) {
	c := senders(t, 1, func(conf *config.Config) {
		conf.DNSBL = []config.DNSBL{
			{Zone: "key.bl.example", Name: "bl.example", Action: config.DNSBLRefuse, Codes: []string{"127.0.0.2-11"}},
			{Zone: "tag.example", Action: config.DNSBLTag},
			{Zone: "white.example", Action: config.DNSBLExempt},
			{Zone: "dead.example", Action: config.DNSBLRefuse},
		}
		conf.Verify.DNSBLTimeout = config.Duration(300 * time.Millisecond)
		conf.Verify.DNSBLExempt = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	})
	c.DNS.Add(t,
		"1.2.0.192.key.bl.example. A 127.0.0.4", `1.2.0.192.key.bl.example. TXT "see https://bl.example/192.0.2.1"`,
		"2.2.0.192.key.bl.example. A 127.0.0.4", "2.2.0.192.white.example. A 127.0.0.1",
		"2.2.0.192.white.example. A 127.0.10.3",
		"3.2.0.192.tag.example. A 127.0.0.2",
		"4.2.0.192.key.bl.example. A 127.255.255.254",
		"1.100.51.198.key.bl.example. A 127.0.0.4",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.key.bl.example. A 127.0.0.2")
	for i := 1; i <= 9; i++ {
		c.DNS.Hang(fmt.Sprintf("%d.2.0.192.dead.example.", i))
	}
	from := func(address string) *talk {
		d := c.stranger()
		d.play("C: XCLIENT ADDR="+address, "S: 220", "C: EHLO mail.example", "S: 250")
		return d
	}
	d := from("192.0.2.1")
	d.play("C: MAIL FROM:<a@good.example>", "S: 250",
		"C: RCPT TO:<nobody@example.test>", "S: 550 5.1.1",
		"C: RCPT TO:<alice@example.test>",
		"S: 550 5.7.1 Client [192.0.2.1] is on bl.example: see https://bl.example/192.0.2.1",
		"C: RCPT TO:<Postmaster>", "S: 550 5.1.1", // none is set up here
		"C: RCPT TO:<x@far.example>", "S: 550 5.7.1 Relaying denied", "C: RSET", "S: 250")
	ctx := within(t, 3*time.Minute)
	require.NoError(t, c.Nodes[0].Client().SetAlias(ctx, admin.By{},
		admin.Alias{Address: "postmaster@example.test", Targets: []string{"bob@example.test"}}))
	require.NotEmpty(t, idOf(d.mail("a@good.example", "Postmaster", "From: a@good.example\r\n\r\nlet me in\r\n")))
	require.Contains(t, results(c.last("bob@example.test"))[0], `x-dnsbl=fail reason="see https://bl.example/192.0.2.1" policy.list=bl.example policy.code=127.0.0.4`)

	d = from("IPV6:2001:db8::1")
	d.play("C: MAIL FROM:<a@good.example>", "S: 250", "C: RCPT TO:<alice@example.test>",
		"S: 550 5.7.1 Client [2001:db8::1] is on bl.example")
	for _, address := range []string{"192.0.2.2", "192.0.2.4", "192.0.2.5", "198.51.100.1"} {
		d = from(address)
		d.play("C: MAIL FROM:<a@good.example>", "S: 250", "C: RCPT TO:<alice@example.test>", "S: 250")
	}
	d = from("192.0.2.3")
	id := idOf(d.mail("a@careful.example", "carol@open.test", "From: a@careful.example\r\n\r\nx\r\n"))
	require.Equal(t, []string{
		"Authentication-Results: n1.example.test; x-dnsbl=fail policy.list=tag.example policy.code=127.0.0.2",
	}, results(c.last("carol@open.test")))
	trace, err := c.Nodes[0].Client().Trace(ctx, id)
	require.NoError(t, err)
	require.Contains(t, trace.Events[0].Detail, "x-dnsbl=fail")

	// A login makes up for the address.
	d = from("192.0.2.1")
	d.startTLS()
	d.play(loginAlice, "S: 235", "C: MAIL FROM:<alice@example.test>", "S: 250", "C: RCPT TO:<x@far.example>", "S: 250")
}

// The policy is the cluster's: it holds at another node when the one that was
// told is gone.
func TestAuthPolicySurvives(t *testing.T) {
	t.Parallel()
	c := senders(t, 3, nil)
	c.Leader().Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	m := c.Up()[0]
	c.Eventually(time.Minute, "nobody leads", func() bool { return m.Node().Cluster().Consistent(ctx) == nil })
	m.WaitReady()
	d := strangerTo(t, m.SMTP)
	d.play("S: 220", "C: EHLO mail.good.example", "S: 250")
	require.Contains(t, d.mail("a@bank.example", "carol@strict.test", "From: a@bank.example\r\n\r\nx\r\n"), "550 5.7.26")
	domains, err := m.Client().Domains(ctx)
	require.NoError(t, err)
	require.Len(t, domains, 3)
}
