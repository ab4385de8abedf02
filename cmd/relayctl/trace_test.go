package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

func TestTimesOfTrace(t *testing.T) {
	now := time.Date(2026, 11, 29, 13, 30, 0, 0, time.UTC)
	a := &app{now: func() time.Time { return now }}
	for text, want := range map[string][2]string{ // as --since, as --until
		"yesterday":                 {"2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z"},
		"today":                     {"2026-11-29T00:00:00Z", "2026-11-30T00:00:00Z"},
		"2026-11-28":                {"2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z"},
		"2h":                        {"2026-11-29T11:30:00Z", "2026-11-29T11:30:00Z"},
		"2h ago":                    {"2026-11-29T11:30:00Z", "2026-11-29T11:30:00Z"},
		"2 hours ago":               {"2026-11-29T11:30:00Z", "2026-11-29T11:30:00Z"},
		"1 day 2 hours ago":         {"2026-11-28T11:30:00Z", "2026-11-28T11:30:00Z"},
		"1w":                        {"2026-11-22T13:30:00Z", "2026-11-22T13:30:00Z"},
		"1W":                        {"2026-11-22T13:30:00Z", "2026-11-22T13:30:00Z"},
		"3d":                        {"2026-11-26T13:30:00Z", "2026-11-26T13:30:00Z"},
		"10:00":                     {"2026-11-29T10:00:00Z", "2026-11-29T10:00:00Z"},
		"9:05:07":                   {"2026-11-29T09:05:07Z", "2026-11-29T09:05:07Z"},
		"yesterday 10:00":           {"2026-11-28T10:00:00Z", "2026-11-28T10:00:00Z"},
		"Yesterday":                 {"2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z"},
		"yesterday 14:00":           {"2026-11-28T14:00:00Z", "2026-11-28T14:00:00Z"},
		"today 9:30":                {"2026-11-29T09:30:00Z", "2026-11-29T09:30:00Z"},
		"now":                       {"2026-11-29T13:30:00Z", "2026-11-29T13:30:00Z"},
		"2026-11-28 10:00:05Z":      {"2026-11-28T10:00:05Z", "2026-11-28T10:00:05Z"},
		"11-28 10:00:05Z":           {"2026-11-28T10:00:05Z", "2026-11-28T10:00:05Z"},
		"2026-11-28T10:00Z":         {"2026-11-28T10:00:00Z", "2026-11-28T10:00:00Z"},
		"2026-11-28t10:00z":         {"2026-11-28T10:00:00Z", "2026-11-28T10:00:00Z"},
		"2026-11-28T10:00:00+02:00": {"2026-11-28T08:00:00Z", "2026-11-28T08:00:00Z"},
		"2026-11-28 10:00+02:00":    {"2026-11-28T08:00:00Z", "2026-11-28T08:00:00Z"},
		"2026-11-28 10:00":          {"2026-11-28T10:00:00Z", "2026-11-28T10:00:00Z"},
		"2026-11-28T10:00:00Z":      {"2026-11-28T10:00:00Z", "2026-11-28T10:00:00Z"},
	} {
		for i, end := range []bool{false, true} {
			got, err := a.parseTime("--since", text, end)
			require.NoError(t, err)
			require.Equal(t, want[i], got.UTC().Format(time.RFC3339), text)
		}
	}
	for _, text := range []string{
		"soon", "25:00", "10:00 ago", "2 fortnights ago", "yesterday noon", "2026-11", "-2h", "2026-13-45",
	} {
		_, err := a.parseTime("--until", text, true)
		require.ErrorContains(t, err, "--until", text)
	}
}

// A trace says who handed the message in, and with --to only that recipient's
// lines.
func TestTraceAnswersWhoSentThisYesterday(t *testing.T) {
	w := newWorld(t)
	day := w.Now.Truncate(24 * time.Hour).Add(-12 * time.Hour)
	w.AddTrace(admin.Trace{
		ID: "01KWH000000000000000000000", Created: admin.At(day), Sender: "s@example.test",
		Client: admin.Origin{Node: "n1", Address: "192.0.2.7:4242", Helo: "pc7", User: "alice@example.test",
			Protocol: "ESMTPSA", Session: "abc-1"},
		Recipients: []admin.QueueRecipient{
			{Address: "a@far.test", State: "delivered"}, {Address: "b@far.test", State: "bounced"},
		},
		Events: []admin.TraceEvent{
			{What: "accepted"}, {What: "delivered", Recipient: "a@far.test"}, {What: "bounced", Recipient: "b@far.test"},
		},
	})
	for _, args := range [][]string{
		{"trace", "--user", "alice", "--since", "yesterday", "--until", "yesterday"}, {"trace", "--client", "192.0.2.0/24"},
		{"trace", "--helo", "pc7"}, {"trace", "01KWH000000000000000000000"},
	} {
		out, stderr, code := w.ctl(t, "", args...)
		require.Zero(t, code, stderr)
		require.Contains(t, out, "192.0.2.7:4242")
		require.Contains(t, out, "alice@example.test")
		require.Contains(t, out, "b@far.test")
	}
	out, stderr, code := w.ctl(t, "", "trace", "01KWH000000000000000000000", "--to", "b@far.test")
	require.Zero(t, code, stderr)
	require.Contains(t, out, "bounced")
	require.NotContains(t, out, "a@far.test")
	_, stderr, code = w.ctl(t, "", "trace", "01KWH000000000000000000000", "--to", "c@far.test")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "no recipient c@far.test")
	out, _, code = w.ctl(t, "", "trace", "--message-id", "<abc@example.test>")
	require.Zero(t, code)
	require.Contains(t, out, "01KD0NE0000000000000000000")
}

func TestClientsOfTrace(t *testing.T) {
	w := newWorld(t)
	for i, address := range []string{"192.0.2.7:4242", "[2001:db8::1]:4242", "local"} {
		w.AddTrace(admin.Trace{
			ID: fmt.Sprintf("01M0T4AAAABBBBBBBB%dCGGGGGG", i), Created: admin.At(w.Now), Client: admin.Origin{Address: address},
		})
	}
	for text, end := range map[string]string{
		"192.0.2.7": "0CGGGGGG", "192.0.2.0/24": "0CGGGGGG", "192.0.2.9/24": "0CGGGGGG", "::ffff:192.0.2.7": "0CGGGGGG",
		"192.0.*":        "0CGGGGGG",
		"192.0.2.7:4242": "0CGGGGGG", "2001:DB8::1": "1CGGGGGG", "[2001:db8::1]": "1CGGGGGG",
		"2001:db8:0:0:0:0:0:1": "1CGGGGGG",
		"2001:db8::/32":        "1CGGGGGG", "[2001:db8::1]:4242": "1CGGGGGG", "LOCAL": "2CGGGGGG",
	} {
		out, stderr, code := w.ctl(t, "", "trace", "--client", text)
		require.Zero(t, code, stderr)
		require.Contains(t, out, end+"\n", text)
	}
	for _, text := range []string{"192.0.2.0/99", "300.1.1.1", "localhost", "192.0.2"} {
		_, stderr, code := w.ctl(t, "", "trace", "--client", text)
		require.Equal(t, 2, code, text)
		require.Contains(t, stderr, "is not an address, a network")
	}
	out, _, _ := w.ctl(t, "", "trace", "--help")
	require.Contains(t, out, "yesterday 14:00")
}
