package tlsrpt

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCounts(t *testing.T) {
	good := &Session{Domain: "x.example", Kind: STS, Strings: []string{"version: STSv1"}, MX: []string{"*.x.example"}}
	bad := *good
	bad.Host, bad.IP, bad.Failure, bad.Reason = "mx.x.example", "192.0.2.1", Expired, strings.Repeat("r", 1000)
	dane := &Session{Domain: "x.example", Kind: TLSA, Strings: []string{"3 1 1 00"}}
	one := Counts(nil).Add(good).Add(good).Add(&bad).Add(dane)
	two := Counts(nil).Add(dane).Add(&bad)
	all := Counts(nil).Merge(one).Merge(two)
	require.Len(t, all, 2)
	require.Equal(t, Summary{2, 2}, all[0].Summary)
	require.Equal(t, []Failure{{Expired, "192.0.2.1", "mx.x.example", strings.Repeat("r", maxReason), 2}}, all[0].Failures)
	require.Equal(t, Summary{2, 0}, all[1].Summary)
	require.Equal(t, Summary{2, 1}, one[0].Summary, "what is put together stays as it was")
	for i := range 1000 {
		bad.Host, bad.Strings = fmt.Sprint(i), []string{fmt.Sprint(i % 20)}
		all = all.Add(&bad)
	}
	require.Len(t, all, maxPolicies)
	total := uint64(0)
	for _, r := range all {
		require.LessOrEqual(t, len(r.Failures), maxFailures)
		total += r.Summary.Failures
	}
	require.EqualValues(t, 1002, total, "none is lost")
}

func TestURIs(t *testing.T) {
	for text, want := range map[string][]string{
		"v=TLSRPTv1; rua=mailto:a@x.example":                                {"mailto:a@x.example"},
		"v=TLSRPTv1;rua=mailto:a@x.example , https://x.example/r ; x=y":     {"mailto:a@x.example", "https://x.example/r"},
		"v=TLSRPTv1; rua=http://x.example,https:,ftp://x.example,file:///a": nil,
		"v=TLSRPTv1":                 nil,
		"v=TLSRPTv2; rua=mailto:a@b": nil,
	} {
		require.Equal(t, want, URIs([]string{"other", text}), text)
		require.Nil(t, URIs([]string{text, text}), "two records are none")
	}
	require.Len(t, URIs([]string{"v=TLSRPTv1; rua=" + strings.Repeat("mailto:a@x.example,", 20)}), maxURIs)
	a, err := Address("mailto:tls%2Breports@x.example?subject=x")
	require.NoError(t, err)
	require.Equal(t, "tls+reports@x.example", a)
	for _, bad := range []string{"https://x", "mailto:", "mailto:a", "mailto:a%0d%0aTo:b@c", "mailto:A%20%3Ca@b%3E"} {
		_, err := Address(bad)
		require.Error(t, err, bad)
	}
}

func TestMail(t *testing.T) {
	day := time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
	r := &Report{Domain: "x.example", Day: day, ID: "20261130.x.example", Submitter: "mx1.relay.example",
		Contact: "postmaster@mx1.relay.example", Counts: Counts(nil).Add(&Session{Domain: "x.example", Kind: STS})}
	text, err := r.Mail("tls@x.example", day.Add(26*time.Hour))
	require.NoError(t, err)
	m, err := mail.ReadMessage(bytes.NewReader(text))
	require.NoError(t, err)
	require.Equal(t, "x.example", m.Header.Get("TLS-Report-Domain"))
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	require.NoError(t, err)
	require.Equal(t, "multipart/report tlsrpt", kind+" "+params["report-type"])
	parts := multipart.NewReader(m.Body, params["boundary"])
	_, err = parts.NextPart()
	require.NoError(t, err)
	part, err := parts.NextPart()
	require.NoError(t, err)
	require.Equal(t, "application/tlsrpt+gzip", part.Header.Get("Content-Type"))
	unpacked, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, part))
	require.NoError(t, err)
	body, err := io.ReadAll(unpacked)
	require.NoError(t, err)
	var got map[string]any
	require.NoError(t, json.Unmarshal(body, &got))
	require.Equal(t, map[string]any{"start-datetime": "2026-11-30T00:00:00Z", "end-datetime": "2026-11-30T23:59:59Z"},
		got["date-range"])
	require.Contains(t, string(body), `"policies":[{"policy":{"policy-type":"sts","policy-domain":"x.example"},`+
		`"summary":{"total-successful-session-count":1,"total-failure-session-count":0}}]`)
}
