package nodetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"net/textproto"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"relay/node/admin"
	"relay/node/config"
	"relay/smtp"
)

// evilName is as bad as a name of the types that certificates write in ASCII can be.
const evilName = "a\x1b[2J\r\nX-Evil: \x00\x7f.example"

// evilPair is a certificate whose names hold what no name should: the subject and
// the issuer in UTF-8, the alternative names in ASCII.
func evilPair(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	name := func(who string) pkix.Name {
		return pkix.Name{
			CommonName: who + evilText + "\x1b[2J\r\n", Organization: []string{who + evilText}, SerialNumber: "\x07",
		}
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: name("subject"), DNSNames: []string{evilName},
		EmailAddresses: []string{evilName}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	change(template)
	parent := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: name("issuer"), NotBefore: template.NotBefore, NotAfter: template.NotAfter,
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// shown collects what a node shows of its mail and of itself, and checks all of it.
func shown(t *testing.T, m *Member, ids ...string) {
	t.Helper()
	ctx := within(t, 3*time.Minute)
	api := m.Client()
	var all []any
	add := func(one any, err error) {
		t.Helper()
		require.NoError(t, err)
		all = append(all, one)
	}
	for _, id := range ids {
		trace, err := api.Trace(ctx, id)
		add(trace, err)
	}
	list, _, err := api.Queue(ctx, admin.QueuePage{})
	add(list, err)
	status, err := api.Status(ctx)
	add(status, err)
	events, err := api.Find(ctx, admin.TraceQuery{From: "alice@example.test"})
	add(events, err)
	for _, one := range all {
		var text strings.Builder
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false)
		require.NoError(t, e.Encode(one))
		require.NotContains(t, text.String(), `\u`, "it escapes control characters")
		fit(t, text.String())
	}
	fit(t, strings.ReplaceAll(metrics(t, m), "\r\n", "\n"))
}

// TestNamesInCertificatesOfHops: the names in the certificate of a next hop, which
// the reason for not using it repeats, are cleaned before they are shown.
func TestNamesInCertificatesOfHops(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.DebugLevel)
	submission := freeAddr(t)
	c := New(t, Options{Nodes: 1, Log: zap.New(core), Configure: func(_ int, conf *config.Config) {
		s := config.NewSMTP()
		s.Listen, s.Role = submission, config.RoleSubmission
		conf.SMTP = append(conf.SMTP, s)
	}})
	m := c.Nodes[0]
	uri := func(x *x509.Certificate) { x.URIs = []*url.URL{{Scheme: "x", Opaque: "\x1b[2J%zz"}} }
	expired := func(x *x509.Certificate) { x.DNSNames, x.NotAfter = []string{"hop2.rude.example"}, x.NotBefore }
	unknown := func(x *x509.Certificate) { x.DNSNames = []string{"hop3.rude.example"} }
	want := []string{"TLS failed: tls: failed to verify certificate: x509: certificate is valid for a?[2J", "", "", ""}
	for i, change := range []func(*x509.Certificate){func(*x509.Certificate) {}, uri, expired, unknown} {
		domain := fmt.Sprintf("hop%d.rude.example", i)
		addr := hopWith(t, c.Sink, evilPair(t, change))
		_, port, err := net.SplitHostPort(addr)
		require.NoError(t, err)
		c.DNS.Add(t, domain+". A 127.0.0.1")
		require.NoError(t, m.Client().SetRoute(t.Context(), admin.By{Why: "test"},
			admin.Route{Domain: domain, Target: "smtp:" + domain + ":" + port}))
		d := talkTo(t, submission)
		d.startTLS()
		d.play(loginAlice, "S: 235")
		id := idOf(d.play(append([]string{
			"C: MAIL FROM:<alice@example.test> REQUIRETLS", "S: 250", "C: RCPT TO:<x@" + domain + ">", "S: 250",
		}, letter("names")...)...))
		said := ""
		c.Eventually(time.Minute, "no attempt", func() bool {
			trace, err := m.Client().Trace(t.Context(), id)
			said = fmt.Sprint(trace)
			return err == nil && strings.Contains(said, "TLS failed")
		})
		require.Contains(t, said, want[i])
		shown(t, m, id)
	}
	require.Empty(t, c.Sink.Got())
	fitLogs(t, logs)
}

// hopWith is a next hop with a certificate of its own.
func hopWith(t *testing.T, sink *Sink, pair tls.Certificate) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv, err := smtp.NewServer(smtp.ServerConfig{
		Hostname: "hop.test", Backend: sink, TLS: &tls.Config{Certificates: []tls.Certificate{pair}},
	})
	require.NoError(t, err)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(t.Context(), l) }()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// TestNamesInCertificatesOfClients: the names in a certificate that a client shows
// are in nothing that the node keeps or shows, whether the certificate counts, says
// nothing, or cannot be read.
func TestNamesInCertificatesOfClients(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.DebugLevel)
	known := evilPair(t, func(*x509.Certificate) {})
	sum := sha256.Sum256(known.Certificate[0])
	c := New(t, Options{Nodes: 1, Log: zap.New(core), Configure: func(_ int, conf *config.Config) {
		conf.Relay.ClientCertificates = []string{hex.EncodeToString(sum[:])}
	}})
	m := c.Nodes[0]
	unread := evilPair(t, func(x *x509.Certificate) { x.URIs = []*url.URL{{Scheme: "x", Opaque: "\x1b[2J%zz"}} })
	strange := evilPair(t, func(*x509.Certificate) {})
	var ids []string
	for _, one := range []struct {
		pair tls.Certificate
		to   string
	}{{known, "x@far.example"}, {known, "alice@example.test"}, {strange, "alice@example.test"}, {unread, ""}} {
		d := strangerTo(t, m.SMTP)
		d.play("S: 220", "C: EHLO c.example", "S: 250", "C: STARTTLS", "S: 220")
		conn := tls.Client(d.conn, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{one.pair}})
		err := conn.Handshake()
		d.conn, d.tp = conn, textproto.NewConn(conn)
		if one.to == "" {
			_, failed := d.tp.ReadLine() // TLS 1.3: the client hears of it later
			require.Error(t, failed, "%v", err)
			continue
		}
		require.NoError(t, err)
		d.play("C: EHLO c.example", "S: 250")
		ids = append(ids, idOf(d.mail("a@far.example", one.to, "Subject: x\r\n\r\nx\r\n")))
	}
	require.NoError(t, c.Sink.Wait(within(t, 3*time.Minute), 1))
	all := append(c.inbox("alice@example.test"), c.Sink.Got()[0].Body)
	require.Len(t, all, 3)
	for _, message := range all {
		fit(t, strings.NewReplacer("\r\n", " ", "\t", " ").Replace(message))
		require.NotContains(t, message, "X-Evil")
		require.NotContains(t, message, "subjecta")
	}
	c.Eventually(time.Minute, "no line about the handshake", func() bool {
		return strings.Contains(fmt.Sprint(logs.All()), "tls_failed") ||
			logs.FilterField(zap.String("reason", "tls_failed")).Len() > 0
	})
	shown(t, m, ids...)
	fitLogs(t, logs)
}
