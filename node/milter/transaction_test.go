package milter

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/emersion/go-milter"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"relay/cluster/porttest"
	"relay/smtp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a filter that answers as a test says, and remembers what it heard.
type script struct {
	wire.NoOpMilter
	mu     sync.Mutex
	heard  []string
	macros map[string]string
	answer map[string]wire.Response // by "stage", or "stage what"
	end    func(*wire.Modifier) error
}

func (s *script) hear(stage, what string, m *wire.Modifier) wire.Response {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = append(s.heard, stage+" "+what)
	for k, v := range m.Macros {
		s.macros[k] = v
	}
	if a := s.answer[stage+" "+what]; a != nil {
		return a
	}
	if a := s.answer[stage]; a != nil {
		return a
	}
	return wire.RespContinue
}

func (s *script) Connect(host, family string, port uint16, a net.IP, m *wire.Modifier) (wire.Response, error) {
	return s.hear("connect", host+" "+family+" "+a.String(), m), nil
}
func (s *script) Helo(n string, m *wire.Modifier) (wire.Response, error) {
	return s.hear("helo", n, m), nil
}
func (s *script) MailFrom(f string, m *wire.Modifier) (wire.Response, error) {
	return s.hear("mail", f, m), nil
}
func (s *script) RcptTo(r string, m *wire.Modifier) (wire.Response, error) {
	return s.hear("rcpt", r, m), nil
}
func (s *script) Header(n, v string, m *wire.Modifier) (wire.Response, error) {
	return s.hear("header", n+"="+v, m), nil
}
func (s *script) Headers(_ textproto.MIMEHeader, m *wire.Modifier) (wire.Response, error) {
	return s.hear("headers", "", m), nil
}
func (s *script) BodyChunk(b []byte, m *wire.Modifier) (wire.Response, error) {
	return s.hear("body", string(b[:min(len(b), 10)]), m), nil
}
func (s *script) Body(m *wire.Modifier) (wire.Response, error) {
	if s.end != nil {
		if err := s.end(m); err != nil {
			return nil, err
		}
	}
	return s.hear("end", "", m), nil
}

// play starts a filter.
func (s *script) play(t *testing.T, o Options) *Filter {
	s.macros = map[string]string{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &wire.Server{
		NewMilter: func() wire.Milter { return s },
		Actions: wire.OptAddHeader | wire.OptChangeBody | wire.OptAddRcpt | wire.OptRemoveRcpt | wire.OptChangeHeader |
			wire.OptQuarantine,
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = l.Close(); <-done }) // the listener ends Serve; Close of the library races with it
	o.Address = "inet:" + l.Addr().String()
	f, err := New(o)
	require.NoError(t, err)
	return f
}

var aClient = &Client{Remote: netip.MustParseAddrPort("192.0.2.1:4711"), Helo: "client.test", User: "ann@example.test",
	TLS: "TLSv1.3", Listener: "mx"}

// send plays a whole message.
func send(t *testing.T, c Chain, body string) (*Verdict, error) {
	ctx := t.Context()
	tx, err := c.Begin(ctx, aClient, "a@far.example", nil)
	if err != nil {
		return nil, err
	}
	defer tx.Close()
	for _, to := range []string{"x@example.test", "y@example.test"} {
		if err := tx.Rcpt(ctx, to, nil); err != nil {
			return nil, err
		}
	}
	tx.Header(ctx, "ID1", []byte(section))
	tx.Body(ctx, []byte(body))
	return tx.End(ctx, "ID1", 1000)
}

func TestFilterHearsAll(t *testing.T) {
	s := &script{}
	f := s.play(t, Options{Host: "mx.example.test", Version: "1"})
	v, err := send(t, Chain{f}, "body text")
	require.NoError(t, err)
	require.False(t, v.Changes())
	require.Equal(t, []string{
		"connect [192.0.2.1] tcp4 192.0.2.1", "helo client.test", "mail a@far.example", "rcpt x@example.test",
		"rcpt y@example.test",
		"header From=a@far.example", "header Subject=one\n two", "header X-A=1", "header x-a=2", "headers ",
		"body body text", "end ",
	}, s.heard)
	for name, want := range map[string]string{
		"j": "mx.example.test", "{daemon_name}": "mx.example.test", "{if_name}": "mx", "{client_addr}": "192.0.2.1",
		"{client_port}": "4711", "{auth_authen}": "ann@example.test",
		"{tls_version}": "TLSv1.3", "i": "ID1", "{rcpt_addr}": "y@example.test", "{mail_addr}": "a@far.example",
	} {
		require.Equal(t, want, s.macros[name], name)
	}
	require.EqualValues(t, 1, f.Stats.Messages.Load())
}

func TestFilterAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		stage  string
		answer wire.Response
		want   string // of the refusal; "": none
	}{
		"refused at MAIL": {"mail", wire.RespReject, "550 5.7.1 Command rejected"},
		"put off at RCPT": {"rcpt y@example.test", wire.RespTempFail,
			"451 4.7.1 Service unavailable, try again later"},
		"refused by a field":     {"header X-A=1", wire.RespReject, "550 5.7.1 Message rejected"},
		"refused by the body":    {"body", wire.RespReject, "550 5.7.1 Message rejected"},
		"a reply of its own":     {"end", wire.NewResponseStr('y', "550 5.7.9 This is spam"), "550 5.7.9 This is spam"},
		"accepted early":         {"rcpt", wire.RespAccept, ""},
		"refused at the connect": {"connect", wire.RespTempFail, "451 4.7.1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{answer: map[string]wire.Response{c.stage: c.answer}}
			_, err := send(t, Chain{s.play(t, Options{})}, strings.Repeat("x", 200_000))
			if c.want == "" {
				require.NoError(t, err)
				require.NotContains(t, strings.Join(s.heard, "|"), "header")
				return
			}
			var r *smtp.Reply
			require.ErrorAs(t, err, &r)
			require.Contains(t, r.Error(), c.want)
		})
	}
	t.Run("discarded", func(t *testing.T) {
		f, after := (&script{answer: map[string]wire.Response{"headers": wire.RespDiscard}}).play(t, Options{}), &script{}
		v, err := send(t, Chain{f, after.play(t, Options{})}, "x")
		require.NoError(t, err)
		require.Equal(t, f.Address(), v.Discard)
		require.NotContains(t, after.heard, "end ")
	})
}

func TestFiltersChangeMessages(t *testing.T) {
	one := &script{end: func(m *wire.Modifier) error {
		return errors.Join(m.AddHeader("X-Spam", "no"), m.AddRecipient("<z@example.test>"),
			m.DeleteRecipient("x@example.test"), m.Quarantine("why"), m.ReplaceBody([]byte("new")))
	}}
	two := &script{end: func(m *wire.Modifier) error { return m.ChangeHeader(1, "X-Spam", "yes") }}
	v, err := send(t, Chain{one.play(t, Options{}), two.play(t, Options{})}, "old")
	require.NoError(t, err)
	require.Equal(t, []string{"z@example.test"}, v.Add)
	require.Equal(t, []string{"x@example.test"}, v.Drop)
	require.NotEmpty(t, v.Dropper)
	require.Equal(t, "new", string(v.Body))
	require.Equal(t, "X-Quarantine: why\r\n"+section+"X-Spam: yes\r\n", string(v.Edit(nil, []byte(section))))

	large := &script{end: func(m *wire.Modifier) error { return m.ReplaceBody(make([]byte, 2000)) }}
	_, err = send(t, Chain{large.play(t, Options{})}, "old")
	var r *smtp.Reply
	require.ErrorAs(t, err, &r)
	require.Equal(t, 451, r.Code)
}

// A filter's answer is bounded while it is read, not when all of it is there.
func TestFilterThatSaysTooMuch(t *testing.T) {
	endless := &script{end: func(m *wire.Modifier) error {
		for range 1000 { // 60 MB
			if err := m.AddHeader("X-A", strings.Repeat("x", 60<<10)); err != nil {
				return err
			}
		}
		return nil
	}}
	_, err := send(t, Chain{endless.play(t, Options{})}, "old")
	var r *smtp.Reply
	require.ErrorAs(t, err, &r)
	require.Equal(t, 451, r.Code)
	require.ErrorIs(t, r.Cause, errAnswer)
}

func TestFilterThatIsDown(t *testing.T) {
	l, err := net.Listen("tcp", porttest.Addr(t, "127.0.0.1"))
	require.NoError(t, err)
	deaf, err := New(Options{Address: "inet:" + l.Addr().String(), Timeout: 50 * time.Millisecond})
	require.NoError(t, err)
	_, err = send(t, Chain{deaf}, "x")
	var r *smtp.Reply
	require.ErrorAs(t, err, &r)
	require.Equal(t, "451 4.7.1", r.Error()[:9])
	require.NoError(t, l.Close())
	_, err = send(t, Chain{deaf}, "x")
	require.ErrorAs(t, err, &r)

	gone, err := New(Options{Address: deaf.Address(), Accept: true})
	require.NoError(t, err)
	s := &script{}
	_, err = send(t, Chain{gone, s.play(t, Options{})}, "x")
	require.NoError(t, err, "it may be passed by")
	require.NotEmpty(t, s.heard)
	require.EqualValues(t, 1, gone.Stats.Failed.Load())
	tx, err := Chain{gone}.Begin(t.Context(), aClient, "", nil)
	require.NoError(t, err)
	require.Equal(t, []string{gone.Address()}, tx.Unasked())
	tx.Close()

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Chain{s.play(t, Options{})}.Begin(ctx, aClient, "", nil)
	require.Error(t, err)
	var none Chain
	tx, err = none.Begin(t.Context(), aClient, "", nil)
	require.NoError(t, err)
	require.NoError(t, tx.Rcpt(t.Context(), "x", nil))
	tx.Header(t.Context(), "", nil)
	tx.Body(t.Context(), nil)
	v, err := tx.End(t.Context(), "", 0)
	require.NoError(t, err)
	require.False(t, v.Changes() || tx.Discarded())
	require.Empty(t, v.Discard)
	require.Empty(t, tx.Unasked())
	tx.Close()
}
