package admin

import (
	"bytes"
	"encoding/json"
	"io"
	"net/mail"
	"strings"
	"testing"
	"time"

	"mime/quotedprintable"

	"github.com/stretchr/testify/require"
)

func TestMatchAddress(t *testing.T) {
	for _, test := range []struct {
		pattern, address string
		want             bool
	}{
		{"a@b.test", "A@B.test", true},
		{"<a@b.test>", "a@b.test", true},
		{"a@b.test", "aa@b.test", false},
		{"@b.test", "x@b.test", true},
		{"@b.test", "x@c.b.test", false},
		{"*@*.b.test", "x@c.b.test", true},
		{"a*", "", false},
		{"*", "", true},
		{"<>", "", true},
		{"<>", "a@b", false},
		{"a*a", "a", false},
		{"a*b*c", "axxbyyc", true},
		{"a*b*c", "acb", false},
		{"**", "x", true},
	} {
		require.Equal(t, test.want, MatchAddress(test.pattern, test.address), "%s %s", test.pattern, test.address)
	}
}

func TestPick(t *testing.T) {
	m := QueueMessage{Sender: "s@x.test", Owner: "n1", AgeSeconds: 100, Recipients: []QueueRecipient{
		{Address: "a@one.test", Domain: "one.test", State: "deferred", LastReply: "451 Greylisted"},
		{Address: "b@sub.two.test", Domain: "sub.two.test", State: "held"},
	}}
	for _, test := range []struct {
		f    QueueFilter
		want string
	}{
		{QueueFilter{}, "ab"},
		{QueueFilter{State: "held"}, "b"},
		{QueueFilter{Domain: "ONE.test"}, "a"},
		{QueueFilter{Domain: "*.two.test"}, "b"},
		{QueueFilter{Domain: "two.test"}, ""},
		{QueueFilter{Recipient: "@one.test"}, "a"},
		{QueueFilter{Error: "greylist"}, "a"},
		{QueueFilter{Error: "greylist", State: "held"}, ""},
		{QueueFilter{Sender: "s@x.test", Owner: "n1", OlderThanSeconds: 100}, "ab"},
		{QueueFilter{OlderThanSeconds: 101}, ""},
		{QueueFilter{Owner: "n2"}, ""},
		{QueueFilter{Sender: "<>"}, ""},
	} {
		got, ok := test.f.Pick(m)
		letters := ""
		for _, r := range got.Recipients {
			letters += r.Address[:1]
		}
		require.Equal(t, test.want != "", ok, "%+v", test.f)
		if ok {
			require.Equal(t, test.want, letters, "%+v", test.f)
		}
		require.Len(t, m.Recipients, 2)
	}
}

func TestTime(t *testing.T) {
	data, err := json.Marshal([]Time{
		{}, At(time.Date(2026, 1, 2, 3, 4, 5, 6e8, time.FixedZone("x", 3600))), AtMs(0), AtMs(1),
	})
	require.NoError(t, err)
	require.Equal(t, `[null,"2026-01-02T02:04:05.600Z",null,"1970-01-01T00:00:00.001Z"]`, string(data))
	var back []Time
	require.NoError(t, json.Unmarshal(data, &back))
	require.True(t, back[0].IsZero())
	require.Error(t, json.Unmarshal([]byte(`["today"]`), &back))
	require.Error(t, json.Unmarshal([]byte(`[7]`), &back))
}

func TestCompose(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	data, err := Letter{From: "a@b.test", To: []string{"c@d.test", "e@f.test"}, Subject: "Grüße", Text: "one\ntwo",
		Headers: map[string]string{"X-Test": "1"}, MessageID: "m@b.test"}.Compose(now)
	require.NoError(t, err)
	require.Equal(t, "Date: Fri, 02 Jan 2026 03:04:05 +0000\r\nFrom: a@b.test\r\nTo: c@d.test,\r\n e@f.test\r\n"+
		"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMessage-ID: <m@b.test>\r\nX-Test: 1\r\n"+
		"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\n"+
		"one\r\ntwo\r\n", string(data))
	for _, bad := range []Letter{
		{From: "a\r\nb"}, {To: []string{"a\nb"}}, {MessageID: "a\rb"}, {Headers: map[string]string{"a b": "x"}},
		{Headers: map[string]string{"": "x"}},
	} {
		_, err := bad.Compose(now)
		require.Error(t, err)
	}
}

// For any text the message parses, has CRLF line ends only, and says the same.
func FuzzCompose(f *testing.F) {
	f.Add("subject", "text\n.\n", "value")
	f.Add("Grüße\r\nBcc: x", strings.Repeat("é", 600)+"\r\rx", "a\nb")
	f.Add("", strings.Repeat("x", 2000), "\x00")
	f.Fuzz(func(t *testing.T, subject, text, value string) {
		data, err := Letter{
			From: "a@b.test", To: []string{"c@d.test"}, Subject: subject, Text: text, Headers: map[string]string{"X-A": value},
		}.Compose(time.Unix(0, 0).UTC())
		require.NoError(t, err)
		require.Equal(t, bytes.Count(data, []byte("\n")), bytes.Count(data, []byte("\r\n")))
		m, err := mail.ReadMessage(bytes.NewReader(data))
		require.NoError(t, err)
		require.Len(t, m.Header["Bcc"], 0)
		body := m.Body
		if m.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
			body = quotedprintable.NewReader(body)
		}
		got, err := io.ReadAll(body)
		require.NoError(t, err)
		want := strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n")
		require.Equal(t, strings.TrimSuffix(want, "\n"),
			strings.TrimSuffix(strings.ReplaceAll(string(got), "\r\n", "\n"), "\n"))
	})
}

func FuzzMatchAddress(f *testing.F) {
	f.Add("*@b.test", "a@b.test")
	f.Add("a*b*", "aabb")
	f.Fuzz(func(t *testing.T, pattern, address string) {
		MatchAddress(pattern, address)
		require.True(t, MatchAddress("*", address))
	})
}
