package bounce

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the expected notices")

// read makes a Report of a case folder: report.json, and the message in
// message.eml, with line ends of any kind.
func read(t *testing.T, dir string) *Report {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "report.json"))
	require.NoError(t, err)
	r := new(Report)
	in := struct {
		Kind string
		*noKind
	}{noKind: (*noKind)(r)}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	require.NoError(t, dec.Decode(&in))
	r.Kind = map[string]Kind{"": Failure, "delay": Delay, "success": Success}[in.Kind]
	if msg, err := os.ReadFile(filepath.Join(dir, "message.eml")); err == nil {
		msg = bytes.ReplaceAll(msg, []byte("\n"), []byte("\r\n"))
		r.Size = int64(len(msg))
		r.Open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(msg)), nil }
	}
	return r
}

// noKind has the fields of a Report that JSON can set.
type noKind Report

// TestCases: each folder of testdata/cases has a report, a message, and the
// notice that is expected; why.txt says what it is there for.
func TestCases(t *testing.T) {
	dirs, err := filepath.Glob("testdata/cases/*")
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			got, utf8 := Write(read(t, dir))
			check(t, got, utf8)
			if utf8 {
				got = append([]byte("(needs SMTPUTF8)\r\n"), got...)
			}
			got = bytes.ReplaceAll(got, []byte("\r\n"), []byte("\n"))
			golden := filepath.Join(dir, "notice.eml")
			if *update {
				require.NoError(t, os.WriteFile(golden, got, 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// check holds a notice against what every notice must be.
func check(t testing.TB, b []byte, global bool) {
	t.Helper()
	for rest := b; len(rest) > 0; {
		n := bytes.IndexByte(rest, '\n')
		if n < 1 || rest[n-1] != '\r' || n > 999 || bytes.IndexByte(rest[:n-1], '\r') >= 0 ||
			bytes.IndexByte(rest[:n], 0) >= 0 {
			t.Fatalf("bad line: %.80q", rest[:max(n, 0)])
		}
		rest = rest[n+1:]
	}
	head, _, _ := bytes.Cut(b, []byte("\r\n\r\n"))
	if !utf8.Valid(head) || !global && !ascii(head) {
		t.Fatalf("header: %q", head)
	}
	m, err := mail.ReadMessage(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Fatal(kind, params, err)
	}
	for _, name := range []string{"From", "To", "Subject", "Date", "Message-Id", "Auto-Submitted", "Mime-Version"} {
		if len(m.Header[name]) != 1 {
			t.Fatalf("%s: %q", name, m.Header[name])
		}
	}
	if !ascii(b) && m.Header.Get("Content-Transfer-Encoding") != "8bit" {
		t.Fatal("8 bits without saying so")
	}
	parts := 0
	for r := multipart.NewReader(m.Body, params["boundary"]); ; parts++ {
		p, err := r.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		if !ascii(body) && p.Header.Get("Content-Transfer-Encoding") != "8bit" {
			t.Fatal("a part of 8 bits without saying so")
		}
		if kind := p.Header.Get("Content-Type"); parts == 1 && kind != "message/delivery-status" &&
			kind != "message/global-delivery-status" {
			t.Fatal(kind)
		}
	}
	if parts != 2 && parts != 3 {
		t.Fatalf("%d parts", parts)
	}
}

func report(message string) *Report {
	return &Report{
		Hostname: "relay.example.com", ID: "01ARZ3NDEKTSV4RRFFQ69G5FAV", To: "s@example.net", Now: time.Unix(1e9, 0).UTC(),
		Size:       int64(len(message)),
		Recipients: []Recipient{{Address: "r@example.org", Action: Failed, Reply: "550 5.1.1 no"}},
		Open:       func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(message)), nil },
	}
}

func TestBounds(t *testing.T) {
	long := "Subject: x\r\n\r\n" + strings.Repeat("0123456789\r\n", 10_000)
	b, _ := Write(report(long))
	require.Contains(t, string(b), "text/rfc822-headers")
	require.Less(t, len(b), 4<<10)

	r := report("Subject: x\r\n\r\nshort\r\n")
	for range 1000 {
		r.Recipients = append(r.Recipients, r.Recipients[0])
	}
	b, _ = Write(r)
	require.Contains(t, string(b), "and 951 more")
	require.Equal(t, 1001, strings.Count(string(b), "Final-Recipient:"))
	check(t, b, false)

	header := "Subject: " + strings.Repeat("x", 5000) + "\r\n" +
		strings.Repeat("X-Long: "+strings.Repeat("y", 60)+"\r\n", 1000) + "\r\nbody\r\n"
	r = report(header)
	r.Limit = 8 << 10
	b, _ = Write(r)
	require.LessOrEqual(t, len(b), 8<<10)
	check(t, b, false)
}

func TestWithoutTheMessage(t *testing.T) {
	r := report("")
	r.Open = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
	b, _ := Write(r)
	check(t, b, false)
	r.Open = nil
	b, _ = Write(r)
	check(t, b, false)
	require.NotContains(t, string(b), "rfc822-headers")
}

func TestBoundaryIsNotInTheMessage(t *testing.T) {
	first, _ := Write(report("Subject: x\r\n\r\n"))
	at := bytes.Index(first, []byte("\r\n--")) + 2
	line, _, _ := bytes.Cut(first[at:], []byte("\r\n"))
	b, _ := Write(report("Subject: x\r\n\r\n" + string(line) + "\r\n" + string(line) + "--\r\n"))
	check(t, b, false)
	require.Contains(t, string(b), string(line)+"--\r\n")
}

func TestEnhanced(t *testing.T) {
	for in, want := range map[string]string{
		"550 5.1.1 no": "5.1.1", "5.1.1 no": "5.1.1", "550 no": "", "550 4.1.1 no": "", "4.4.1 x": "4.4.1",
		"250 2.0.0": "2.0.0",
		"":          "", "550": "", "550 5.1": "", "550 5.1.1.1": "", "550 5.1.x": "", "550 5.1234.1": "",
		"3.1.1 x": "", "550 5..1": "",
	} {
		require.Equal(t, want, Enhanced(in), in)
	}
}

func FuzzWrite(f *testing.F) {
	f.Add("Subject: x\r\nMessage-ID: <a@b>\r\n\r\nbody\r\n", "s@x", "r@x", "550 5.1.1 no\r\nBcc: x",
		"rfc822;r@x", "FULL", true)
	f.Add("Subject: \xff\n\rx\x00", "ä@x", "\r\n.\r\n", "", "utf-8;ä@ü", "", false)
	f.Add("\r\n", "", "", "\x00", ";", "HDRS", true)
	f.Add("no header at all", "<>", "a b", "4.4.1 x", "x;;y", "FULL", false)
	f.Fuzz(func(t *testing.T, message, to, rcpt, reply, orcpt, ret string, global bool) {
		if to == "" || strings.ContainsAny(to, " <>\t\r\n\x00") || !utf8.ValidString(to) {
			to = "s@example.net"
		}
		r := report(message)
		r.To, r.Ret, r.UTF8, r.EnvID, r.Subject = to, ret, global, orcpt, reply
		r.Recipients[0] = Recipient{Address: rcpt, Original: orcpt, Reply: reply, Action: Failed, Host: reply}
		r.Recipients = append(r.Recipients, r.Recipients[0])
		b, utf8 := Write(r)
		check(t, b, utf8)
	})
}

// TestFoldedMessageID: a notice refers to the message, however its field is folded.
func TestFoldedMessageID(t *testing.T) {
	for head, want := range map[string]string{
		"Message-ID: <a@b>\r\n":                   "<a@b>",
		"Subject: s\r\nMessage-ID:\r\n <a@b>\r\n": "<a@b>",
		"Message-ID:\r\n\t<a@b>\r\n\r\nTo: x\r\n": "<a@b>",
		"X: y\r\n message-id: <a@b>\r\n":          "",
		"Message-ID:\r\n <a@b>\r\n <c@d>\r\n":     "<a@b>",
		"Message-ID:\r\n":                         "",
		"Message-ID: no brackets\r\n":             "",
		"message-id\t: (by\r\n us) <a@b>\r\n":     "<a@b>",
		"Message-ID: (by us\r\n":                  "",
	} {
		require.Equal(t, want, messageID([]byte(head)), "%q", head)
	}
}
