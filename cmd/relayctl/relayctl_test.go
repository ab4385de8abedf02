package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"gopkg.in/yaml.v3"

	"relay/cmd/relayctl/link"
	"relay/node/admin"
	"relay/node/admin/admintest"
)

var update = flag.Bool("update", false, "rewrite the transcripts")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a fake relay behind the real server.
type world struct {
	*admintest.Fake
	url string
	ctx context.Context  // nil: the test's
	now func() time.Time // nil: what the relay thinks
	env map[string]string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return worldOf(t, fill)
}

func worldOf(t *testing.T, fill func(*admintest.Fake)) *world {
	t.Helper()
	f := admintest.New()
	fill(f)
	srv := httptest.NewServer(admin.NewServer(admin.Options{Ports: f.Ports(), Token: func() string { return "s3cret" }}))
	t.Cleanup(srv.Close)
	return &world{Fake: f, url: srv.URL}
}

// fill gives the transcripts something to show.
func fill(f *admintest.Fake) {
	at := func(d time.Duration) admin.Time { return admin.At(f.Now.Add(d)) }
	f.Enqueue(admin.QueueMessage{ID: "01KDEFERRED000000000000000", Created: at(-26 * time.Hour), Size: 4096, Sender: "alice@example.test", Owner: "n1",
		Recipients: []admin.QueueRecipient{
			{Address: "x@remote.test", Domain: "remote.test", State: admin.StateDeferred, Attempts: 3, NextAttempt: at(7 * time.Minute), LastReply: "451 4.7.1 Greylisted,\r\n\x1b[31mtry later", LastAttempt: at(-time.Minute), Class: "greylist"},
			{Address: "y@other.test", Domain: "other.test", State: admin.StateHeld},
		}}, "Subject: one\r\n\r\nhello\r\n")
	f.Enqueue(admin.QueueMessage{ID: "01KQVEVED00000000000000000", Created: at(-30 * time.Second), Size: 20 << 20, Owner: "n2",
		Recipients: []admin.QueueRecipient{{Address: "z@remote.test", Domain: "remote.test", State: admin.StateQueued, NextAttempt: at(0)}}}, "Subject: two\r\n\r\n")
	f.AddTrace(admin.Trace{ID: "01KD0NE0000000000000000000", MessageID: "abc@example.test", Created: at(-time.Hour), Sender: "alice@example.test", Size: 512,
		Recipients: []admin.QueueRecipient{{Address: "x@remote.test", Domain: "remote.test", State: admin.StateDelivered, Attempts: 2, LastReply: "250 Ok", LastAttempt: at(-time.Minute)}},
		Events: []admin.TraceEvent{
			{At: at(-time.Hour), What: "accepted", Node: "n1", Detail: "ESMTP from 127.0.0.1:4242"},
			{At: at(-50 * time.Minute), What: "deferred", Node: "n1", Recipient: "x@remote.test", Attempt: 1, Host: "mx.remote.test [192.0.2.1]:25", TLS: "TLS1.3", Reply: "451 busy", Class: "system", NextAttempt: at(-time.Minute)},
			{At: at(-40 * time.Minute), What: "retried", Node: "n2", Who: "admin", Why: "they fixed it"},
			{At: at(-time.Minute), What: "delivered", Node: "n2", Recipient: "x@remote.test", Attempt: 2, Host: "mx.remote.test [192.0.2.1]:25", Reply: "250 Ok", MaybeDuplicate: true},
		}})
	f.AddTrace(admin.Trace{ID: "01KD0NE0000000000000000001", MessageID: "def@example.test", Created: at(-time.Minute), Sender: "",
		Recipients: []admin.QueueRecipient{{Address: "alice@example.test", Domain: "example.test", State: admin.StateDelivered}}})
	f.Lock("bob@example.test", admin.Lock{Node: "n2", Session: "s7", Remote: "192.0.2.9:5555", Since: at(-90 * time.Second), AgeSeconds: 90, Token: 42})
}

// ctl runs relayctl as from a shell, at the fake's time.
func (w *world) ctl(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	env := map[string]string{"RELAY_ADDR": w.url, "RELAY_TOKEN": "s3cret"}
	maps.Copy(env, w.env)
	var out, errs bytes.Buffer
	a := &app{stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs, now: func() time.Time { return w.Now },
		getenv: func(name string) string { return env[name] }, tick: time.Millisecond}
	if w.now != nil {
		a.now = w.now
	}
	ctx := t.Context()
	if w.ctx != nil {
		ctx = w.ctx
	}
	code = a.run(ctx, args)
	return out.String(), errs.String(), code
}

// crowd gives tables something to leave out: ids that begin alike, long and wide
// texts.
func crowd(f *admintest.Fake) {
	at := func(d time.Duration) admin.Time { return admin.At(f.Now.Add(d)) }
	long := strings.Repeat("very.", 12) + "long.example"
	for i, to := range []string{"x@" + long, "山田太郎山田太郎山田太郎山田太郎@例え.テスト", "c@short.test", "d@short.test"} {
		f.Enqueue(admin.QueueMessage{
			ID: fmt.Sprintf("01M0T4AAAABBBBBBBB%dCDDDDDD", i), Created: at(-30 * time.Hour), Size: 123456, Sender: "newsletter+list=" + long, Owner: "n2",
			Recipients: []admin.QueueRecipient{{
				Address: to, Domain: "short.test", State: admin.StateDeferred, Attempts: 7, NextAttempt: at(10*time.Hour + 59*time.Minute),
				LastReply: "451 4.7.1 <client.example[192.0.2.7]>: 抱歉，稍后再试 Client host rejected: try again later, please, in half an hour",
				Class:     "policy",
			}},
		}, "Subject: one\r\n\r\n")
	}
	for i := range 4 {
		f.AddTrace(admin.Trace{
			ID: fmt.Sprintf("01M0T4AAAABBBBBBBB%dCFFFFFF", i), Created: at(-time.Hour), Sender: "s@" + long, Size: 1 << 20,
			Client:     admin.Origin{Node: "n1", Address: "192.0.2.7:4242"},
			Recipients: []admin.QueueRecipient{{Address: "x@short.test", State: admin.StateDelivered, Attempts: 1, LastReply: "250 2.0.0 Ok: queued as 4711ABCDEF"}},
		})
	}
	f.AddTrace(admin.Trace{
		ID: "01M0T4AAAABBBBBBBB9CEEEEEE", Created: at(-400 * 24 * time.Hour), Sender: "s@" + long, Size: 1 << 20,
		Client:     admin.Origin{Node: "n1", Address: "[2001:db8::1]:4242", User: "alice@example.test"},
		Recipients: []admin.QueueRecipient{{Address: "x@" + long, State: admin.StateBounced, Attempts: 1, LastReply: "550 5.1.1 no such user here, and there never was", Class: "bad_address"}},
		Events: []admin.TraceEvent{
			{At: at(-400 * 24 * time.Hour), What: "accepted", Node: "n1", Detail: "ESMTPSA from [2001:db8::1]:4242"},
			{At: at(-time.Hour), What: "bounced", Node: "n1", Recipient: "x@" + long, Attempt: 1, Host: "mx." + long + " [192.0.2.1]:25", Reply: "550 5.1.1 no such user here, and there never was"},
		},
	})
	f.Cluster(func(s *admin.Status) {
		s.Nodes[0].Hostname, s.Nodes[2].State, s.Nodes[2].SilentSeconds = "mx1."+long, admin.NodeSilent, 4000
		s.Nodes[0].Version, s.Nodes[0].Owned, s.Nodes[0].Applied = "1.2.3-rc4+abcdef0123", 1234567, 123456789
	})
	f.Lock("alice@example.test", admin.Lock{Node: "n1", Remote: "[2001:db8:1111:2222:3333:4444:5555:6666]:55555", Since: at(-time.Hour), AgeSeconds: 3600})
}

// ail gives the doctor something to find.
func ail(f *admintest.Fake) {
	f.Found = []admin.Condition{
		{Name: "domain-mx", Severity: admin.SeverityUnknown, Summary: "can not be judged", Evidence: []string{"DNS does not answer"}},
		{
			Name: "disk-room", Severity: admin.SeverityWarning, Summary: "a disk is full or nearly so",
			Evidence: []string{"node n2: 3.1 GB of 100 GB free (3%), which is far less than a node that has many large messages to keep should have"},
			Next:     "make room on it, or shorten what is kept: relayctl settings show",
		},
		{Name: "node-dead", Severity: admin.SeverityError, Summary: "a node is dead", Evidence: []string{"node n3\x1b[31m has not been heard of for 12s"}, Next: "start node n3"},
	}
}

// TestTranscripts plays each file of testdata on a fresh relay: lines that
// begin with "$ " are run, and what follows is what they print. "<<< TEXT"
// gives them input, NAME=VALUE in front is for their environment.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			with := fill
			switch filepath.Base(file) {
			case "tables.txt":
				with = crowd
			case "doctor.txt":
				with = ail
			}
			w := worldOf(t, with)
			var got strings.Builder
			for line := range strings.Lines(string(want)) {
				switch {
				case strings.HasPrefix(line, "#"):
					got.WriteString(line)
				case strings.HasPrefix(line, "$ "):
					got.WriteString(line)
					command, stdin, _ := strings.Cut(strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "$ "), " <<< ")
					words := split(command)
					w.env = map[string]string{}
					for len(words) > 0 && strings.ToUpper(words[0]) == words[0] && strings.Contains(words[0], "=") {
						name, value, _ := strings.Cut(words[0], "=")
						w.env[name], words = value, words[1:]
					}
					stdout, stderr, code := w.ctl(t, strings.ReplaceAll(stdin, `\n`, "\n"), words...)
					show(&got, "", strings.ReplaceAll(stdout, "\r", "␍"))
					show(&got, "! ", stderr)
					if code != 0 {
						fmt.Fprintf(&got, "exit %d\n", code)
					}
					got.WriteString("\n")
				}
			}
			text := strings.ReplaceAll(got.String(), w.url, "http://NODE")
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
				return
			}
			require.Empty(t, cmp.Diff(string(want), text))
		})
	}
}

func show(to *strings.Builder, mark, text string) {
	for line := range strings.Lines(text) {
		to.WriteString(mark + strings.TrimSuffix(line, "\n") + "\n")
	}
}

// split cuts a command line at blanks outside single quotes.
func split(line string) (words []string) {
	word, quoted, any := "", false, false
	for _, r := range line + " " {
		switch {
		case r == '\'':
			quoted, any = !quoted, true
		case r == ' ' && !quoted:
			if any {
				words = append(words, word)
			}
			word, any = "", false
		default:
			word, any = word+string(r), true
		}
	}
	return words
}

func TestJSONAndYAMLSayTheSame(t *testing.T) {
	w := newWorld(t)
	for _, command := range []string{"status", "node ls", "queue ls", "queue stats", "queue show 01KDEFERRED000000000000000", "domain ls", "user ls",
		"user show alice@example.test", "alias ls", "route ls", "route recipients ls x.example", "trace 01KD0NE0000000000000000000", "trace --since 2h", "mailbox ls",
		"mailbox show bob@example.test", "audit", "rule ls", "suppress ls", "rule test --recipient x@remote.test", "verify", "version", "queue ls --state suspended"} {
		j, stderr, code := w.ctl(t, "", append(split(command), "-o", "json")...)
		require.Zero(t, code, stderr)
		y, _, _ := w.ctl(t, "", append(split(command), "-o", "yaml")...)
		var fromJSON, fromYAML any
		require.NoError(t, json.Unmarshal([]byte(j), &fromJSON), command)
		require.NoError(t, yaml.Unmarshal([]byte(y), &fromYAML), command)
		again, err := json.Marshal(fromYAML)
		require.NoError(t, err)
		want, err := json.Marshal(fromJSON)
		require.NoError(t, err)
		require.JSONEq(t, string(want), string(again), command)
		require.NotContains(t, j, "null,\n  \"recipients\"")
	}
}

func TestQueueContract(t *testing.T) {
	w := newWorld(t)
	out, _, _ := w.ctl(t, "", "queue", "ls", "-o", "json", "--state", "deferred")
	var list []map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &list))
	require.Len(t, list, 1)
	keys := func(m map[string]any) (names []string) {
		for k := range m {
			names = append(names, k)
		}
		return names
	}
	require.ElementsMatch(t, []string{"id", "created", "age_seconds", "size", "sender", "owner", "recipients"}, keys(list[0]))
	recipient := list[0]["recipients"].([]any)[0].(map[string]any)
	require.ElementsMatch(t, []string{"address", "domain", "state", "attempts", "next_attempt", "last_reply", "last_attempt"}, keys(recipient))
	out, _, _ = w.ctl(t, "", "queue", "ls", "-o", "json", "--state", "suspended")
	require.Equal(t, "[]\n", out)
}

func TestLongQueue(t *testing.T) {
	w := newWorld(t)
	for i := range 3000 {
		w.Enqueue(admin.QueueMessage{ID: fmt.Sprintf("01L%023d", i), Created: admin.At(w.Now.Add(-time.Hour)), Owner: "n1",
			Recipients: []admin.QueueRecipient{{Address: "u@long.test", Domain: "long.test", State: "queued"}}}, "")
	}
	out, _, code := w.ctl(t, "", "queue", "ls", "--domain", "long.test", "-o", "json")
	require.Zero(t, code)
	var list []admin.QueueMessage
	require.NoError(t, json.Unmarshal([]byte(out), &list))
	require.Len(t, list, 3000)
	out, _, _ = w.ctl(t, "", "queue", "ls", "--domain", "long.test", "--limit", "1200")
	require.Equal(t, 1202, strings.Count(out, "\n"))
	require.Contains(t, out, "1,800 more; --limit 0 shows all.")
	out, _, _ = w.ctl(t, "", "queue", "hold", "--all", "--domain", "long.test", "--dry-run")
	require.Contains(t, out, "3000 messages would be held")
}

func TestWhy(t *testing.T) {
	w := newWorld(t)
	_, _, code := w.ctl(t, "", "domain", "add", "new.test", "--why", "a new customer, Ticket #7")
	require.Zero(t, code)
	require.Equal(t, "a new customer, Ticket #7", w.Changes()[0].By.Why)
	require.Equal(t, "admin", w.Changes()[0].By.Who)
}

func TestPasswords(t *testing.T) {
	w := newWorld(t)
	_, stderr, code := w.ctl(t, "pass word \r\n", "user", "add", "carol@example.test", "--password-stdin", "--quota", "1GB", "--name", "Carol")
	require.Zero(t, code, stderr)
	require.Equal(t, "pass word ", w.Password("carol@example.test"))
	_, _, code = w.ctl(t, "next", "user", "passwd", "carol@example.test", "--password-stdin")
	require.Zero(t, code)
	require.Equal(t, "next", w.Password("carol@example.test"))
	for _, stdin := range []string{"", "\n"} {
		_, stderr, code = w.ctl(t, stdin, "user", "passwd", "carol@example.test", "--password-stdin")
		require.Equal(t, 1, code)
		require.Contains(t, stderr, "no password on standard input")
	}
	_, stderr, code = w.ctl(t, "x", "user", "passwd", "carol@example.test")
	require.Equal(t, 2, code)
	require.Contains(t, stderr, "--password-stdin")
}

func TestStatusWaitComesBack(t *testing.T) {
	w := newWorld(t)
	asked := 0
	w.Fail = func(call string) error {
		if asked++; asked < 5 {
			return admin.NoQuorum("starting")
		}
		return nil
	}
	out, stderr, code := w.ctl(t, "", "status", "--wait", "30")
	require.Zero(t, code, stderr)
	require.Contains(t, out, "is healthy")
	require.Equal(t, 5, asked)
}

func TestStatusWaitGivesUp(t *testing.T) {
	w := newWorld(t)
	w.Cluster(func(s *admin.Status) { s.Healthy, s.Problems = false, []string{"n3 does not answer"} })
	out, stderr, code := w.ctl(t, "", "status", "--wait", "500ms") // time for one answer on a busy machine
	require.Equal(t, 1, code)
	require.Contains(t, out, "! n3 does not answer")
	require.Contains(t, stderr, "not healthy after")
	w.url = "http://127.0.0.1:1"
	_, stderr, code = w.ctl(t, "", "status", "--wait", "500ms")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "no node runs at http://127.0.0.1:1")
}

// Figures that a node has not told in time are shown as unknown, not as 0.
func TestUnknownFigures(t *testing.T) {
	w := newWorld(t)
	w.Cluster(func(s *admin.Status) { n := &s.Nodes[1]; n.UptimeSeconds, n.DiskTotal, n.DiskFree = 0, 0, 0 })
	out, _, code := w.ctl(t, "", "node", "ls")
	require.Zero(t, code)
	require.Regexp(t, `(?m)^n2 +alive +follower +\S+ +4711 +0 +0 +- +- +- +- `, out)
	require.Regexp(t, `(?m)^n3 +alive +follower +\S+ +4711 +0 +0 +0 +0 +40 GB`, out)
	w.Cluster(func(s *admin.Status) { s.Nodes[1].State, s.Nodes[1].SilentSeconds = admin.NodeSilent, 0.1 })
	out, _, _ = w.ctl(t, "", "node", "ls")
	require.Regexp(t, `(?m)^n2 +silent +follower`, out, "the others hear of it")
}

func TestDrainWaits(t *testing.T) {
	w := newWorld(t)
	looks := 0
	w.Fail = func(call string) error {
		if call == "Status" {
			looks++
			w.Cluster(func(s *admin.Status) {
				n := &s.Nodes[1]
				n.State, n.Drained, n.Owned = admin.NodeDraining, false, uint64(max(0, 3-looks))
				n.SilentSeconds = 0
				switch looks {
				case 4: // the node that is asked has lost the others
					n.State, n.SilentSeconds = admin.NodeDead, 6
				case 5:
					n.State, n.Drained = admin.NodeDrained, true
				}
			})
		}
		return nil
	}
	out, stderr, code := w.ctl(t, "", "node", "drain", "n2", "--wait")
	require.Zero(t, code, stderr)
	require.Equal(t, "n2 is drained and safe to stop.\n", out)
	require.Contains(t, stderr, "n2 still has 1 recipient, 0 SMTP connections and 0 POP3 sessions\n")
	require.Contains(t, stderr, "n2 does not answer, so that nobody knows what it still has\n")

	looks = 0
	w.Fail = func(call string) error {
		if call == "Status" {
			looks++
			w.Cluster(func(s *admin.Status) {
				s.Nodes[1].State, s.Nodes[1].Drained = admin.NodeDraining, false
				if looks > 1 {
					s.Nodes[1].State = admin.NodeAlive
				}
			})
		}
		return nil
	}
	_, stderr, code = w.ctl(t, "", "node", "drain", "n2", "--wait")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "n2 is in service again: somebody has ended its drain")
	w.Fail = nil
	w.Cluster(func(s *admin.Status) { s.Nodes[2].ID = "nx" })
	_, stderr, code = w.ctl(t, "", "node", "drain", "n3", "--wait")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "there is no node n3")
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	code := run(ctx, []string{"status", "--addr", "http://127.0.0.1:1"}, strings.NewReader(""), &out, &errs)
	require.Equal(t, 1, code)
	require.Equal(t, "relayctl: interrupted\n", errs.String())
}

func TestTokens(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	require.NoError(t, os.WriteFile(file, []byte("# the operators\nrobot s3cret\n"), 0o600))
	call := func(args ...string) (string, int) {
		var out, errs bytes.Buffer
		a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, now: time.Now, getenv: func(string) string { return "" }}
		code := a.run(t.Context(), append([]string{"status", "--addr", w.url}, args...))
		return errs.String(), code
	}
	_, code := call("--token-file", file)
	require.Zero(t, code)
	stderr, code := call()
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "RELAY_TOKEN")
	stderr, code = call("--token-file", filepath.Join(dir, "none"))
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "no such file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	stderr, _ = call("--token-file", file)
	require.Contains(t, stderr, "is empty")
	_, code = call("--token-file", file, "--token", "x")
	require.Equal(t, 2, code)
	stderr, code = call("--ca", file)
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "no certificate")

}

// TestTokenIsFound: relayctl on the machine of a node needs no --token.
func TestTokenIsFound(t *testing.T) {
	dir := t.TempDir()
	file, secret := filepath.Join(dir, "admin.token"), filepath.Join(dir, "id_rsa")
	require.NoError(t, os.WriteFile(file, []byte("s3cret-of-a-node\n"), 0o600))
	require.NoError(t, os.WriteFile(secret, []byte("private\n"), 0o600))
	var named string
	var given []string
	node := admin.NewServer(admin.Options{Ports: admintest.New().Ports(), Token: func() string { return "s3cret-of-a-node" }, TokenFile: file})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given = append(given, r.Header.Get("Authorization"))
		if named != "" {
			w.Header().Set(admin.TokenFileHeader, named)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		node.ServeHTTP(w, r)
	}))
	defer srv.Close()
	call := func() (string, int) {
		var out, errs bytes.Buffer
		a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, now: time.Now, getenv: func(string) string { return "" }}
		code := a.run(t.Context(), []string{"queue", "ls", "--addr", srv.URL})
		return errs.String(), code
	}
	stderr, code := call()
	require.Zero(t, code, stderr)
	require.Equal(t, []string{"", "Bearer s3cret-of-a-node"}, given)
	for _, named = range []string{secret, "admin.token", filepath.Join(dir, "none", "admin.token")} {
		given = nil
		stderr, code = call()
		require.Equal(t, 1, code)
		require.Contains(t, stderr, named)
		require.Equal(t, []string{""}, given, "no secret of this machine goes to a program that waits at a node's port")
	}

	for _, addr := range []string{"http://127.0.0.1:12180", "http://localhost:12180", "http://[::1]:12180"} {
		token, err := link.FindToken(addr, "")
		require.NoError(t, err)
		require.Equal(t, "dev", token)
	}
	for _, named := range []string{"", file} {
		token, err := link.FindToken("https://mx1.example.com:7180", named)
		require.NoError(t, err)
		require.Empty(t, token)
	}
}

func TestHelpEverywhere(t *testing.T) {
	w := newWorld(t)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		out, _, code := w.ctl(t, "", "completion", shell)
		require.Zero(t, code)
		require.Contains(t, out, "relayctl")
	}
	var walk func(path []string)
	walk = func(path []string) {
		out, stderr, code := w.ctl(t, "", append(path, "--help")...)
		require.Zero(t, code, stderr)
		require.Contains(t, out, "Usage:")
		_, commands, ok := strings.Cut(out, "Available Commands:\n")
		if !ok {
			return
		}
		for line := range strings.Lines(commands) {
			words := strings.Fields(line)
			if len(words) == 0 {
				return
			}
			if words[0] != "help" {
				walk(append(path[:len(path):len(path)], words[0]))
			}
		}
	}
	walk(nil)
}

func TestUnits(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KB", 10 << 10: "10 KB", 1536: "1.5 KB", 20 << 20: "20 MB", 3 << 40: "3.0 TB"} {
		require.Equal(t, want, size(n))
	}
	for d, want := range map[time.Duration]string{0: "0s", 59 * time.Second: "59s", time.Hour: "1h", 26 * time.Hour: "1d2h", 130 * time.Minute: "2h10m", 400 * time.Hour: "16d"} {
		require.Equal(t, want, age(d))
	}
	for text, want := range map[string]time.Duration{"30": 30 * time.Second, "2h": 2 * time.Hour, "1d": 24 * time.Hour, "1d12h": 36 * time.Hour, "1w": 168 * time.Hour,
		"1.5h": 90 * time.Minute, "2 hours": 2 * time.Hour, "1 day 12 hours": 36 * time.Hour, "30 min": 30 * time.Minute, "500ms": time.Second / 2, "2H": 2 * time.Hour, "3 Days": 72 * time.Hour} {
		got, err := parseAge(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, text := range []string{"", "x", "-1", "1d-2h", "xd", "d", "1 fortnight", "1h2", "99999999999w", "1e3s", "6M"} {
		_, err := parseAge(text)
		require.Error(t, err, text)
	}
	n, err := parseSize("1.5gb")
	require.NoError(t, err)
	require.EqualValues(t, 3<<29, n)
	for _, text := range []string{"", "GB", "-1", "1e99TB", "NaN"} {
		_, err := parseSize(text)
		require.Error(t, err, text)
	}
	require.Equal(t, "a b·[31m c", clean("a\tb\x1b[31m\nc"))
}
