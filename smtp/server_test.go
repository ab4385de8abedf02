package smtp

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"relay/smtp/mailaddr"
	"relay/smtp/sasl"
	"relay/smtp/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testBackend knows ann and bob at example.test, whose password is secret. It
// relays for trusted and authenticated peers.
type testBackend struct {
	refuse error
	block  chan struct{} // Data waits for it to be closed, if not nil

	mu       sync.Mutex
	messages []testMessage
	log      []string // calls in their order
}

type testMessage struct {
	from  string
	opts  MailOptions
	to    []string
	rcpts []RcptOptions
	body  string
	proto string
	helo  string
}

func (b *testBackend) NewSession(_ context.Context, p *Peer) (Session, error) {
	if b.refuse != nil {
		return nil, b.refuse
	}
	return &testSession{b: b, p: p}, nil
}

func (b *testBackend) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log = append(b.log, fmt.Sprintf(format, args...))
}

func (b *testBackend) last() (testMessage, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.messages) == 0 {
		return testMessage{}, false
	}
	return b.messages[len(b.messages)-1], true
}

type testSession struct {
	b   *testBackend
	p   *Peer
	msg testMessage
}

func (s *testSession) Mail(_ context.Context, from string, opts *MailOptions) error {
	if strings.HasPrefix(from, "spammer@") {
		return NewReply(550, "5.7.1", "Go away")
	}
	if strings.HasPrefix(from, "broken@") {
		return errors.New("disk on fire")
	}
	s.msg = testMessage{from: from, opts: *opts, proto: s.p.Protocol(), helo: s.p.Helo}
	return nil
}

func (s *testSession) Rcpt(ctx context.Context, to string, opts *RcptOptions) error {
	local, domain := mailaddr.Split(to)
	switch {
	case local == "slow":
		<-ctx.Done()
		return ctx.Err()
	case mailaddr.RoutesOn(local) || domain != "" && domain != "example.test" && !s.p.Trusted && s.p.User == "":
		return NewReply(550, "5.7.1", "Relaying denied")
	case domain == "example.test" && local != "ann" && local != "bob" && local != "postmaster":
		return NewReply(550, "5.1.1", "No such user here")
	}
	s.msg.to = append(s.msg.to, to)
	s.msg.rcpts = append(s.msg.rcpts, *opts)
	return nil
}

func (s *testSession) Data(ctx context.Context, r io.Reader) (string, error) {
	body, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	if bytes.Contains(body, []byte("REJECT")) {
		return "", NewReply(554, "5.7.1", "Not this")
	}
	if bytes.Contains(body, []byte("BREAK")) {
		return "", errors.New("disk on fire")
	}
	if bytes.Contains(body, []byte("HANG")) {
		<-ctx.Done()
		return "", ctx.Err()
	}
	if s.b.block != nil {
		s.b.note("data")
		select {
		case <-s.b.block:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	s.msg.body = string(body)
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.b.messages = append(s.b.messages, s.msg)
	return "M" + strconv.Itoa(len(s.b.messages)), nil
}

func (s *testSession) Reset()       { s.b.note("reset") }
func (s *testSession) Close() error { s.b.note("close"); return nil }

// fullSession has every optional power.
type fullBackend struct{ *testBackend }

type fullSession struct{ *testSession }

func (b fullBackend) NewSession(ctx context.Context, p *Peer) (Session, error) {
	s, err := b.testBackend.NewSession(ctx, p)
	if err != nil {
		return nil, err
	}
	return fullSession{s.(*testSession)}, nil
}

func (s fullSession) Authenticate(_ context.Context, user, secret string) error {
	switch {
	case user == "broken":
		return errors.New("no directory")
	case user != "ann" && user != "bob" || secret != "secret":
		return ErrCredentials
	}
	return nil
}

func (fullSession) SameAccount(context.Context, string, string) bool { return false }

func (fullSession) Welcome() {}

func (s fullSession) ScramKeys(_ context.Context, user string) (*sasl.Keys, error) {
	if user != "ann" {
		return nil, nil
	}
	return sasl.NewKeys("secret", []byte("salty"), 4096)
}

// Disproven takes "eve" for somebody whose keys are not known for sure.
func (s fullSession) Disproven(_ context.Context, user string, told *sasl.Keys) error {
	switch {
	case user == "eve":
		return errors.New("no directory")
	case user == "ann" && string(told.Salt) != "salty":
		return errors.New("these are not the keys that were told")
	}
	return nil
}

func (s fullSession) Verify(_ context.Context, what string) (Member, error) {
	switch what {
	case "ann":
		return Member{"Ann Example", "ann@example.test"}, nil
	case "jürgen":
		return Member{"Jürgen", "jürgen@example.test"}, nil
	case "eva":
		return Member{"Évá", "eva@example.test"}, nil
	}
	return Member{}, NewReply(550, "5.1.1", "No such user here")
}

func (s fullSession) Expand(_ context.Context, list string) ([]Member, error) {
	if list == "empty" {
		return nil, nil
	}
	if list == "choir" {
		return []Member{{"Ann Example", "ann@example.test"}, {"", "jürgen@example.test"}}, nil
	}
	if list == "staff" {
		return []Member{{"Ann Example", "ann@example.test"}, {"", "bob@example.test"}}, nil
	}
	return nil, NewReply(550, "5.1.1", "No such list here")
}

func (s fullSession) StartQueue(_ context.Context, node string) (int, error) {
	switch node {
	case "one.example":
		return 1, nil
	case "none.example":
		return 0, nil
	case "many.example":
		return -1, nil
	case "no.example":
		return 0, NewReply(459, "4.7.1", "Node not allowed")
	}
	return 0, errors.New("what?")
}

// testTLS makes a certificate for mx.example.test.
func testTLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"mx.example.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return server, &tls.Config{ServerName: "mx.example.test", RootCAs: pool}
}

// start serves the configuration on loopback until the test ends.
func start(t testing.TB, cfg ServerConfig) (*Server, string) {
	t.Helper()
	if cfg.Hostname == "" {
		cfg.Hostname = "mx.example.test"
	}
	if cfg.AuthDelay == nil { // all tests come from one network
		cfg.AuthDelay = func(netip.Addr, error) time.Duration { return 0 }
	}
	s, err := NewServer(cfg)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return s, l.Addr().String()
}

func all(netip.Addr) bool { return true }

// scripted makes the server that a transcript asks for.
func scripted(t *testing.T, s *wiretest.Script) *wiretest.Player {
	on := func(name string) bool { _, ok := s.Options[name]; return ok }
	number := func(name string) int { n, _ := strconv.Atoi(s.Options[name]); return n }
	backend := &testBackend{}
	cfg := ServerConfig{
		Backend:         fullBackend{backend},
		ImplicitTLS:     on("implicit"),
		RequireAuth:     on("submission"),
		LenientSyntax:   on("lenient"),
		LegacyVerbs:     on("legacy"),
		Verify:          on("verify"),
		Expand:          on("expand"),
		MaxSize:         int64(number("maxsize")),
		MaxRecipients:   number("maxrecipients"),
		MaxTransactions: number("maxtransactions"),
		MaxErrors:       number("maxerrors"),
		DefaultDomain:   func() string { return s.Options["domain"] },
		Without:         Extension(number("without")),
		Limits: Limits{NetMessages: number("netmessages"), NetRecipients: number("netrecipients"),
			NetErrors: number("neterrors"), NetBytes: int64(number("netbytes")),
			Messages: number("messages"), Recipients: number("recipients"), Errors: number("errors"),
			Bytes: int64(number("bytes"))},
		MinDeliverBy: time.Duration(number("minby")) * time.Second,
	}
	if on("plain") {
		cfg.Backend = backend
	}
	if on("trusted") {
		cfg.Trusted = func(a netip.Addr) bool { return a.IsLoopback() }
	}
	if on("xclient") {
		cfg.XClient = all
	}
	if on("xclient-others") {
		cfg.XClient = func(netip.Addr) bool { return false }
	}
	if on("timeout") {
		cfg.CommandTimeout = time.Duration(number("timeout")) * time.Millisecond
		cfg.BlockTimeout = cfg.CommandTimeout
	}
	if on("calltimeout") {
		cfg.CallTimeout = time.Duration(number("calltimeout")) * time.Millisecond
	}
	cfg.GreetPause = time.Duration(number("pause")) * time.Millisecond
	if code := number("refuse"); code > 0 {
		backend.refuse = NewReply(code, "4.3.2", "Not now")
	}
	if code := number("refuse"); code == 1 {
		backend.refuse = errors.New("disk on fire")
	}
	var client *tls.Config
	if on("tls") || on("implicit") {
		cfg.TLS, client = testTLS(t)
	}
	var srv *Server
	var addr string
	t.Cleanup(func() { require.Zero(t, srv.Stats().Panics.Load(), "the server panicked") })
	srv, addr = start(t, cfg)
	return &wiretest.Player{
		TLS: client,
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		},
		Calls: map[string]func(string) error{
			"message": func(want string) error { return backend.check(want, func(m testMessage) string { return m.body }) },
			"from":    func(want string) error { return backend.check(want, func(m testMessage) string { return m.from }) },
			"to": func(want string) error {
				return backend.check(want, func(m testMessage) string { return strings.Join(m.to, " ") })
			},
			"proto": func(want string) error { return backend.check(want, func(m testMessage) string { return m.proto }) },
			"helo":  func(want string) error { return backend.check(want, func(m testMessage) string { return m.helo }) },
			"rcpts": func(want string) error {
				return backend.check(want, func(m testMessage) string { return fmt.Sprintf("%+v", m.rcpts) })
			},
			"opts": func(want string) error {
				return backend.check(want, func(m testMessage) string { return m.opts.text() })
			},
			"none": func(string) error {
				if m, ok := backend.last(); ok {
					return fmt.Errorf("there is a message: %q", m.body)
				}
				return nil
			},
		},
	}
}

// text shows the options without their times.
func (o MailOptions) text() string {
	s := fmt.Sprintf("size=%d body=%v utf8=%v tls=%v ret=%s envid=%s auth=%s", o.Size, o.Body, o.UTF8, o.RequireTLS,
		o.Ret, o.EnvID, o.Auth)
	if o.DeliverBy != nil {
		s += fmt.Sprintf(" by=%v return=%v trace=%v", time.Until(o.DeliverBy.Until).Round(time.Minute), o.DeliverBy.Return,
			o.DeliverBy.Trace)
	}
	if !o.HoldUntil.IsZero() {
		s += fmt.Sprintf(" hold=%v", time.Until(o.HoldUntil).Round(time.Minute))
	}
	if o.Priority != nil {
		s += fmt.Sprintf(" priority=%d", *o.Priority)
	}
	return s
}

func (b *testBackend) check(want string, part func(testMessage) string) error {
	if unquoted, err := strconv.Unquote(want); err == nil {
		want = unquoted
	}
	m, ok := b.last()
	if !ok {
		return errors.New("no message")
	}
	if got := part(m); got != want {
		return fmt.Errorf("\n  want %q\n  got  %q", want, got)
	}
	return nil
}

func TestTranscripts(t *testing.T) {
	wiretest.Run(t, "testdata/*.txt", scripted)
}
