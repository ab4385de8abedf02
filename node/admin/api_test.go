package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"relay/node/admin"
	"relay/node/admin/admintest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

type world struct {
	*admintest.Fake
	*admin.Client
	url string
	log *observer.ObservedLogs
}

// start serves a fake behind the real server and returns a client for it.
func start(t *testing.T, change func(*admin.Options)) *world {
	t.Helper()
	f := admintest.New()
	core, logs := observer.New(zap.DebugLevel)
	o := admin.Options{
		Ports: f.Ports(), Token: func() string { return "s3cret\nrobot r0bot\n" }, Log: zap.New(core), Version: "1.2.3",
	}
	if change != nil {
		change(&o)
	}
	srv := httptest.NewServer(admin.NewServer(o))
	t.Cleanup(srv.Close)
	c, err := admin.NewClient(admin.ClientOptions{Addrs: []string{srv.URL}, Token: "s3cret"})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return &world{Fake: f, Client: c, url: srv.URL, log: logs}
}

func message(n int, recipients ...admin.QueueRecipient) admin.QueueMessage {
	now := admintest.New().Now
	return admin.QueueMessage{ID: fmt.Sprintf("01M%023d", n), Created: admin.At(now.Add(-time.Duration(n) * time.Minute)),
		Size: 4096, Sender: "alice@example.test", Owner: "n1", Recipients: recipients}
}

func rcpt(address, state string) admin.QueueRecipient {
	_, domain, _ := strings.Cut(address, "@")
	return admin.QueueRecipient{Address: address, Domain: domain, State: state}
}

var by = admin.By{Why: "a tëst & more"}

func TestDirectoryThroughTheWire(t *testing.T) {
	w, ctx := start(t, nil), t.Context()
	require.NoError(t, w.Client.AddDomain(ctx, by, admin.Domain{Name: "other.test"}))
	domains, err := w.Client.Domains(ctx)
	require.NoError(t, err)
	require.Len(t, domains, 2)
	require.EqualValues(t, 2, domains[0].Users)
	minute, none := int64(60), int64(-1)
	require.NoError(t, w.Client.SetDomain(ctx, by, "other.test", admin.DomainSet{Greylist: &minute}))
	domains, err = w.Client.Domains(ctx)
	require.NoError(t, err)
	require.Equal(t, &minute, domains[1].Greylist)
	require.NoError(t, w.Client.SetDomain(ctx, by, "other.test", admin.DomainSet{Greylist: &none}))
	refuse := admin.AuthRefuse
	require.NoError(t, w.Client.SetDomain(ctx, by, "other.test", admin.DomainSet{AuthPolicy: &refuse}))
	domains, err = w.Client.Domains(ctx)
	require.NoError(t, err)
	require.Equal(t, refuse, domains[1].AuthPolicy)
	require.ErrorIs(t, w.Client.SetDomain(ctx, by, "nowhere.test", admin.DomainSet{}), admin.ErrNotFound)

	require.NoError(t,
		w.Client.AddUser(ctx, by, admin.UserAdd{Address: "carol@other.test", Password: "pw", QuotaBytes: 1 << 30}))
	require.Equal(t, "pw", w.Password("carol@other.test"))
	name, senders := "Carol C", []string{"c@other.test"}
	require.NoError(t, w.Client.SetUser(ctx, by, "carol@other.test", admin.UserSet{Name: &name, Senders: &senders}))
	u, err := w.Client.User(ctx, "carol@other.test")
	require.NoError(t, err)
	require.Equal(t, "Carol C", u.Name)
	require.Equal(t, senders, u.Senders)
	require.EqualValues(t, 1<<30, u.QuotaBytes)
	users, err := w.Client.Users(ctx, "other.test")
	require.NoError(t, err)
	require.Len(t, users, 1)

	_, err = w.Client.RemoveDomain(ctx, by, "other.test", admin.DropOptions{})
	require.ErrorIs(t, err, admin.ErrConflict)
	require.ErrorContains(t, err, "remove them first")
	out, err := w.Client.RemoveUser(ctx, by, "carol@other.test", admin.DropOptions{DryRun: true})
	require.NoError(t, err)
	require.True(t, out.DryRun)
	_, err = w.Client.RemoveUser(ctx, by, "carol@other.test", admin.DropOptions{})
	require.NoError(t, err)
	_, err = w.Client.User(ctx, "carol@other.test")
	require.ErrorIs(t, err, admin.ErrNotFound)
	_, err = w.Client.RemoveDomain(ctx, by, "other.test", admin.DropOptions{})
	require.NoError(t, err)

	odd := `odd/one?#%@example.test`
	require.NoError(t, w.Client.SetAlias(ctx, by, admin.Alias{
		Address: odd, Targets: []string{"alice@example.test"}, Owner: "list@example.test",
	}))
	aliases, err := w.Client.Aliases(ctx)
	require.NoError(t, err)
	require.Equal(t, odd, aliases[0].Address)
	require.NoError(t, w.Client.RemoveAlias(ctx, by, odd))
	require.NoError(t, w.Client.SetRoute(ctx, by, admin.Route{Domain: "*", Target: "smtp:127.0.0.1:12025"}))
	routes, err := w.Client.Routes(ctx)
	require.NoError(t, err)
	require.Equal(t, []admin.Route{{Domain: "*", Target: "smtp:127.0.0.1:12025"}}, routes)
	require.NoError(t, w.Client.RemoveRoute(ctx, by, "*", admin.RouteSenders{}))
	require.NoError(t, w.Client.SetSettings(ctx, by, admin.Settings{ExpireSeconds: 60}))
	settings, err := w.Client.Settings(ctx)
	require.NoError(t, err)
	require.Equal(t, &admin.Settings{ExpireSeconds: 60, Changed: new(uint64(1))}, settings)

	for _, c := range w.Changes() {
		require.Equal(t, "admin", c.By.Who)
		require.Equal(t, by.Why, c.By.Why)
		require.Len(t, c.By.Request, 26)
	}
	entries, err := w.Client.Audit(ctx, admin.AuditQuery{Limit: 2, Since: admin.At(w.Now)})
	require.NoError(t, err)
	require.Len(t, entries, 2)
	require.Equal(t, "settings", entries[0].What)
	entries, err = w.Client.Audit(ctx, admin.AuditQuery{Since: admin.At(w.Now.Add(time.Second))})
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestClusterThroughTheWire(t *testing.T) {
	w, ctx := start(t, nil), t.Context()
	s, err := w.Client.Status(ctx)
	require.NoError(t, err)
	require.Equal(t, "dev n1 3", fmt.Sprint(s.Cluster, " ", s.Leader, " ", len(s.Nodes)))
	require.Equal(t, admin.At(w.Now), s.Nodes[0].LastSeen)
	token, err := w.Client.Token(ctx, by, admin.TokenRequest{Uses: 2, TTLSeconds: 60})
	require.NoError(t, err)
	require.Equal(t, 2, token.Uses)
	would, err := w.Client.Remove(ctx, by, "n1", admin.RemoveOptions{DryRun: true})
	require.NoError(t, err)
	require.Contains(t, would.Effects, "the leadership moves to another node first")
	_, err = w.Client.Drain(ctx, by, "n2", admin.DrainOptions{DryRun: true})
	require.NoError(t, err)
	_, err = w.Client.Drain(ctx, by, "n2", admin.DrainOptions{})
	require.NoError(t, err)
	s, _ = w.Client.Status(ctx)
	require.Equal(t, admin.NodeDrained, s.Nodes[1].State)
	_, err = w.Client.Drain(ctx, by, "n2", admin.DrainOptions{Off: true})
	require.NoError(t, err)
	out, err := w.Client.Transfer(ctx, by, "n3")
	require.NoError(t, err)
	require.Equal(t, "n3", out.ID)
	_, err = w.Client.Remove(ctx, by, "n1", admin.RemoveOptions{Force: true})
	require.NoError(t, err)
	v, err := w.Client.Verify(ctx, admin.VerifyOptions{Bodies: true})
	require.NoError(t, err)
	require.True(t, v.OK)
	require.Len(t, v.Nodes, 2)
}

func TestQueueThroughTheWire(t *testing.T) {
	w, ctx := start(t, nil), t.Context()
	for i := range 2500 {
		state := admin.StateQueued
		if i%10 == 0 {
			state = admin.StateDeferred
		}
		w.Enqueue(message(i, rcpt(fmt.Sprintf("u%d@remote.test", i), state)), fmt.Sprintf("Subject: %d\r\n\r\n", i))
	}
	count := func(f admin.QueueFilter, limit int) (n int) {
		require.NoError(t,
			w.EachQueued(ctx, admin.QueuePage{Filter: f}, limit, func(admin.QueueMessage) error { n++; return nil }))
		return n
	}
	require.Equal(t, 2500, count(admin.QueueFilter{}, 0))
	require.Equal(t, 1500, count(admin.QueueFilter{}, 1500))
	require.Equal(t, 250, count(admin.QueueFilter{State: "deferred"}, 0))
	require.Equal(t, 11, count(admin.QueueFilter{Recipient: "u240*", Sender: "@example.test"}, 0))
	require.Equal(t, 1, count(admin.QueueFilter{Recipient: "u1@remote.test"}, 0))
	require.Equal(t, 2500-60, count(admin.QueueFilter{OlderThanSeconds: 3600}, 0))
	stop := errors.New("stop")
	require.ErrorIs(t, w.EachQueued(ctx, admin.QueuePage{}, 0, func(admin.QueueMessage) error { return stop }), stop)

	id := message(7).ID
	d, err := w.Client.Message(ctx, id)
	require.NoError(t, err)
	require.Equal(t, []string{"u7@remote.test is queued"}, d.Why)
	body, size, err := w.Client.Open(ctx, id)
	require.NoError(t, err)
	data, err := io.ReadAll(body)
	require.NoError(t, err)
	require.NoError(t, body.Close())
	require.Equal(t, "Subject: 7\r\n\r\n", string(data))
	require.EqualValues(t, len(data), size)
	_, _, err = w.Client.Open(ctx, "01NONE")
	require.ErrorIs(t, err, admin.ErrNotFound)

	stats, err := w.Client.Stats(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2500, stats.Destinations[0].Total)
	require.Len(t, stats.Destinations[0].Ages, len(stats.Ages)+1)

	hold := admin.QueueAction{
		Action: admin.ActionHold, All: true, Filter: admin.QueueFilter{State: "deferred"}, DryRun: true,
	}
	out, err := w.Client.Manage(ctx, by, hold)
	require.NoError(t, err)
	require.Equal(t, 250, out.Changed)
	require.Equal(t, 0, count(admin.QueueFilter{State: "held"}, 0))
	hold.DryRun = false
	_, err = w.Client.Manage(ctx, by, hold)
	require.NoError(t, err)
	require.Equal(t, 250, count(admin.QueueFilter{State: "held"}, 0))
	out, err = w.Client.Manage(ctx, by, admin.QueueAction{Action: admin.ActionRemove, IDs: []string{id, "01NONE"}})
	require.NoError(t, err)
	require.Equal(t, 1, out.Changed)
	require.Equal(t, []admin.QueueRefusal{{ID: "01NONE", Why: "it is not in the queue"}}, out.Refused)

	for _, bad := range []admin.QueueAction{
		{Action: admin.ActionRemove},
		{Action: admin.ActionRemove, IDs: []string{id}, All: true},
		{Action: admin.ActionRemove, IDs: []string{id}, Filter: admin.QueueFilter{State: "held"}},
		{Action: admin.ActionReroute, IDs: []string{id}},
		{Action: "explode", IDs: []string{id}},
		{Action: admin.ActionRemove, All: true, Filter: admin.QueueFilter{State: "delivered"}},
	} {
		_, err := w.Client.Manage(ctx, by, bad)
		require.ErrorIs(t, err, admin.ErrInvalid, "%+v", bad)
	}
}

func TestMailThroughTheWire(t *testing.T) {
	w, ctx := start(t, nil), t.Context()
	r, err := w.Client.Send(ctx, by, admin.Envelope{
		Sender: "a@b.test", Recipients: []string{"alice@example.test", "x@remote.test", "no@example.test"},
	},
		strings.NewReader("Subject: hi\r\n\r\nhello\r\n"))
	require.NoError(t, err)
	require.Equal(t, []bool{true, true, false}, []bool{
		r.Recipients[0].Accepted, r.Recipients[1].Accepted, r.Recipients[2].Accepted,
	})
	m, err := w.Client.Mailbox(ctx, "alice@example.test")
	require.NoError(t, err)
	require.Len(t, m.Content, 1)
	body, _, err := w.Client.OpenMail(ctx, "alice@example.test", m.Content[0].UID)
	require.NoError(t, err)
	data, _ := io.ReadAll(body)
	require.NoError(t, body.Close())
	require.Equal(t, "Subject: hi\r\n\r\nhello\r\n", string(data))

	id, err := w.Client.PutMail(ctx, by, "bob@example.test", admin.At(w.Now.Add(-time.Hour)), strings.NewReader("x"))
	require.NoError(t, err)
	require.NotEmpty(t, id)
	m, _ = w.Client.Mailbox(ctx, "bob@example.test")
	require.Equal(t, admin.At(w.Now.Add(-time.Hour)), m.Content[0].Received)
	_, err = w.Client.PutMail(ctx, by, "bob@example.test", admin.Time{}, strings.NewReader(""))
	require.ErrorContains(t, err, "empty")

	w.Lock("bob@example.test", admin.Lock{Node: "n2", Session: "s1", Remote: "192.0.2.1:999", Token: 9})
	boxes, err := w.Client.Mailboxes(ctx)
	require.NoError(t, err)
	require.Nil(t, boxes[0].Lock)
	require.Equal(t, "n2", boxes[1].Lock.Node)
	_, err = w.Client.Unlock(ctx, by, "bob@example.test", 8)
	require.ErrorContains(t, err, "held by another session by now")
	gone, err := w.Client.Unlock(ctx, by, "bob@example.test", 9)
	require.NoError(t, err)
	require.EqualValues(t, 9, gone.Lock.Token)
	gone, err = w.Client.Unlock(ctx, by, "bob@example.test", 0)
	require.NoError(t, err)
	require.Nil(t, gone.Lock)

	w.AddTrace(admin.Trace{
		ID: "01T", MessageID: "m@x", Sender: "a@b.test", Created: admin.At(w.Now),
		Recipients: []admin.QueueRecipient{rcpt("x@remote.test", "delivered")},
	})
	one, err := w.Client.Trace(ctx, "01T")
	require.NoError(t, err)
	require.Equal(t, "delivered", one.Recipients[0].State)
	found, err := w.Client.Find(ctx, admin.TraceQuery{
		MessageID: "m@x", From: "@b.test", To: "x@*", Since: admin.At(w.Now),
	})
	require.NoError(t, err)
	require.Len(t, found, 1)
}

func (w *world) raw(t *testing.T, method, path, kind, body string, set ...string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.url+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer s3cret")
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	for i := 0; i < len(set); i += 2 {
		if set[i] == "Host" {
			req.Host = set[i+1]
		}
		req.Header.Set(set[i], set[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(data), resp.Header
}

func TestLetter(t *testing.T) {
	w := start(t, nil)
	status, body, _ := w.raw(t, "POST", "/v1/messages?why=x", "application/json",
		`{"from":"alice@example.test","to":["bob@example.test"],"subject":"Grüße","text":"é\n.\n"}`)
	require.Equal(t, 200, status, body)
	status, body, _ = w.raw(t, "POST", "/v1/messages", "application/json", `{"from":"a@b","to":["c@d"],"sbuject":"x"}`)
	require.Equal(t, 422, status)
	require.Contains(t, body, `unknown field \"sbuject\"`)
	status, body, _ = w.raw(t, "POST", "/v1/messages", "application/json", `{"from":"a@b\r\nBcc: x","to":["c@d"]}`)
	require.Equal(t, 422, status, body)
	status, body, _ = w.raw(t, "POST", "/v1/messages", "text/plain", `hello`)
	require.Equal(t, 415, status, body)
	status, body, _ = w.raw(t, "POST", "/v1/messages?from=a@b", "message/rfc822", `hello`)
	require.Equal(t, 422, status, body)
}

func TestContractNames(t *testing.T) {
	w := start(t, nil)
	m := message(1, rcpt("x@remote.test", admin.StateDeferred))
	m.Recipients[0].LastReply, m.Recipients[0].LastAttempt, m.Recipients[0].Attempts = "451 later",
		admin.At(w.Now.Add(1500*time.Microsecond)), 2
	w.Enqueue(m, "")
	_, body, _ := w.raw(t, "GET", "/v1/queue", "", "")
	require.Equal(t, `[{"id":"01M00000000000000000000001","created":"2026-03-04T05:05:07.000Z","age_seconds":60,"size":4096,"sender":"alice@example.test","owner":"n1",`+
		`"recipients":[{"address":"x@remote.test","domain":"remote.test","state":"deferred","attempts":2,"next_attempt":null,"last_reply":"451 later","last_attempt":"2026-03-04T05:06:07.001Z"}]}]`+"\n", body)

	_, body, _ = w.raw(t, "GET", "/v1/status", "", "")
	var status map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(body), &status))
	for _, name := range []string{"cluster", "healthy", "leader", "term", "nodes", "queue"} {
		require.Contains(t, status, name)
	}
	require.Equal(t, `[]`, string(status["problems"]))
	require.Equal(t, `{"messages":1,"recipients":1,"bytes":4096}`, string(status["queue"]))
	var nodes []map[string]any
	require.NoError(t, json.Unmarshal(status["nodes"], &nodes))
	for _, name := range []string{"id", "state", "role", "applied", "lag", "owned", "pop3_sessions", "version"} {
		require.Contains(t, nodes[0], name)
	}
	w = start(t, nil)
	_, body, _ = w.raw(t, "GET", "/v1/queue", "", "")
	require.Equal(t, "[]\n", body)
	_, body, _ = w.raw(t, "GET", "/v1/users/bob@example.test", "", "")
	require.Contains(t, body, `"senders":[]`)
}

func TestWhoMayAsk(t *testing.T) {
	w := start(t, func(o *admin.Options) {
		o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "relay_up 1\n") })
	})
	status, body, h := w.raw(t, "GET", "/v1/status", "", "", "Authorization", "")
	require.Equal(t, 401, status)
	require.Contains(t, body, "RELAY_TOKEN")
	require.Equal(t, "application/problem+json", h.Get("Content-Type"))
	require.Contains(t, h.Get("WWW-Authenticate"), "Bearer")
	for path, want := range map[string]int{
		"/": 200, "/healthz": 200, "/readyz": 200, "/metrics": 200, "/openapi.json": 401, "/debug/pprof/": 401, "/v1/x": 401,
	} {
		status, _, _ := w.raw(t, "GET", path, "", "", "Authorization", "")
		require.Equal(t, want, status, path)
	}
	status, _, _ = w.raw(t, "GET", "/metrics", "", "", "Authorization", "", "X-Forwarded-For", "192.0.2.1")
	require.Equal(t, 401, status, "by a proxy")
	status, _, _ = w.raw(t, "GET", "/v1/status", "", "", "Authorization", "bearer r0bot")
	require.Equal(t, 200, status)
	status, _, _ = w.raw(t, "POST", "/v1/nodes/n2/drain", "", "", "Authorization", "Bearer r0bot", "Relay-Why",
		"50%25 f%C3%BCr", "Idempotency-Key", "my key")
	require.Equal(t, 200, status)
	change := w.Changes()[0]
	require.Equal(t, "robot", change.By.Who)
	require.Equal(t, "50% für", change.By.Why)
	require.Len(t, change.By.Request, 26)

	far := httptest.NewRequest("GET", "/metrics", nil) // from 192.0.2.1
	rec := httptest.NewRecorder()
	admin.NewServer(admin.Options{Token: func() string { return "x" }}).ServeHTTP(rec, far)
	require.Equal(t, 401, rec.Code)
}

// A web page in a browser on this host must not steer the relay.
func TestForeignPages(t *testing.T) {
	w := start(t, func(o *admin.Options) { o.Token, o.Anonymous = nil, func() bool { return true } })
	status, _, _ := w.raw(t, "GET", "/v1/status", "", "", "Authorization", "")
	require.Equal(t, 200, status)
	status, _, _ = w.raw(t, "POST", "/v1/nodes/n2/drain", "", "", "Authorization", "", "Origin", "https://evil.example")
	require.Equal(t, 403, status)
	status, body, _ := w.raw(t, "GET", "/v1/status", "", "", "Authorization", "", "Host", "rebound.example:7180")
	require.Equal(t, 403, status)
	require.Contains(t, body, "token_file")
	status, _, _ = w.raw(t, "GET", "/v1/status", "", "", "Authorization", "", "Host", "[::1]:7180")
	require.Equal(t, 200, status)
	require.Empty(t, w.Changes())
}

func TestReadiness(t *testing.T) {
	ready := errors.New("it has no leader")
	w := start(t, func(o *admin.Options) { o.Ready = func() error { return ready } })
	status, body, _ := w.raw(t, "GET", "/readyz", "", "")
	require.Equal(t, 503, status)
	require.Equal(t, "not ready: it has no leader\n", body)
	status, _, _ = w.raw(t, "GET", "/healthz", "", "")
	require.Equal(t, 200, status)
}

func TestProblems(t *testing.T) {
	w := start(t, nil)
	fail := error(nil)
	w.Fail = func(string) error { return fail }
	for _, test := range []struct {
		err    error
		status int
		text   string
	}{
		{admin.NoQuorum("no majority answers"), 503, "no majority answers"},
		{fmt.Errorf("while asking: %w", admin.Unknown("lost")), 504, "lost"},
		{context.DeadlineExceeded, 504, "in time"},
		{errors.New("disk path /secret"), 500, "its log says why"},
	} {
		fail = test.err
		status, body, h := w.raw(t, "GET", "/v1/domains", "", "")
		require.Equal(t, test.status, status)
		require.Contains(t, body, test.text)
		require.NotContains(t, body, "secret")
		require.Equal(t, "application/problem+json", h.Get("Content-Type"))
		var p admin.Error
		require.NoError(t, json.Unmarshal([]byte(body), &p))
		require.Equal(t, test.status, p.Status)
		require.NotEmpty(t, p.Title)
	}
	require.Equal(t, 1, w.log.FilterMessage("admin request failed").Len())
	fail = nil
	for _, test := range []struct{ method, path, kind, body, want string }{
		{"GET", "/v1/nothing", "", "", `"status":404`},
		{"GET", "/v1/queue?limit=0", "", "", "limit has to be"},
		{"GET", "/v1/queue?state=delivered", "", "", "state has to be"},
		{"GET", "/v1/queue?stat=held", "", "", "unknown query parameter"},
		{"GET", "/v1/trace?since=yesterday", "", "", "since"},
		{"POST", "/v1/users", "application/json", `{"addres":"x"}`, "unexpected property"},
		{"POST", "/v1/users", "application/json", `{`, `"status":400`},
		{"PUT", "/v1/aliases/a@b", "application/json", `{"targets":[]}`, "targets"},
	} {
		_, body, h := w.raw(t, test.method, test.path, test.kind, test.body)
		require.Contains(t, body, test.want)
		require.Equal(t, "application/problem+json", h.Get("Content-Type"), body)
	}
}

func TestAbsentPorts(t *testing.T) {
	w := start(t, func(o *admin.Options) { o.Ports = admin.Ports{Queue: o.Ports.Queue} })
	_, err := w.Client.Status(t.Context())
	require.ErrorIs(t, err, admin.ErrUnsupported)
	_, err = w.Client.Trace(t.Context(), "x")
	require.ErrorIs(t, err, admin.ErrUnsupported)
	_, err = w.Client.Stats(t.Context())
	require.NoError(t, err)
}

type panicking struct{ admin.Policy }

func TestPanic(t *testing.T) {
	w := start(t, func(o *admin.Options) { o.Ports.Policy = panicking{} })
	_, err := w.Client.Settings(t.Context())
	require.ErrorContains(t, err, "its log says why")
	require.Equal(t, 1, w.log.FilterMessage("admin request panicked").Len())
}

func TestBarrier(t *testing.T) {
	asked := 0
	w := start(t, func(o *admin.Options) {
		o.Barrier = func(context.Context) error {
			if asked++; asked > 1 {
				return admin.NoQuorum("no majority")
			}
			return nil
		}
	})
	c, err := admin.NewClient(admin.ClientOptions{Addrs: []string{w.url}, Token: "s3cret", Consistent: true})
	require.NoError(t, err)
	_, err = c.Domains(t.Context())
	require.NoError(t, err)
	_, err = w.Client.Domains(t.Context())
	require.NoError(t, err)
	_, _, err = c.Queue(t.Context(), admin.QueuePage{})
	require.ErrorIs(t, err, admin.ErrNoQuorum)
	require.Equal(t, 2, asked)
}

// A message that breaks off must not look whole to the client.
type queuePort = admin.Queue

type shortQueue struct{ queuePort }

func (shortQueue) Open(context.Context, string) (io.ReadCloser, int64, error) {
	return io.NopCloser(strings.NewReader("Subject: cut")), 4096, nil
}

func TestCutMessage(t *testing.T) {
	w := start(t, func(o *admin.Options) { o.Ports.Queue = shortQueue{o.Ports.Queue} })
	body, _, err := w.Client.Open(t.Context(), "x")
	if err == nil {
		_, err = io.ReadAll(body)
		require.NoError(t, body.Close())
	}
	require.Error(t, err)
}

func TestPageIsSelfContained(t *testing.T) {
	w := start(t, nil)
	_, body, h := w.raw(t, "GET", "/", "", "")
	require.Contains(t, h.Get("Content-Security-Policy"), "default-src 'none'")
	for _, foreign := range []string{"http://", "https://", "src=", "@import", "url("} {
		require.NotContains(t, body, foreign)
	}
}

// The description is part of the contract; a change shows in review.
func TestOpenAPI(t *testing.T) {
	w := start(t, nil)
	_, body, _ := w.raw(t, "GET", "/openapi.json", "", "")
	var doc bytes.Buffer
	require.NoError(t, json.Indent(&doc, []byte(body), "", " "))
	const file = "testdata/openapi.json"
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, doc.Bytes(), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(string(want), doc.String()))
	require.Contains(t, doc.String(), `"openapi": "3.1.0"`)
}

func TestNoSecretsInTheLog(t *testing.T) {
	w := start(t, nil)
	require.NoError(t, w.Client.AddUser(t.Context(), by, admin.UserAdd{Address: "z@example.test", Password: "hunter2"}))
	for _, line := range w.log.All() {
		text := fmt.Sprint(line.Message, line.ContextMap())
		require.NotContains(t, text, "hunter2")
		require.NotContains(t, text, "s3cret")
	}
}
