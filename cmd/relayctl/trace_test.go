package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

func TestTimesOfTrace(t *testing.T) {
	now := time.Date(2026, 11, 29, 13, 30, 0, 0, time.UTC)
	a := &app{now: func() time.Time { return now }}
	for text, want := range map[string][2]string{ // as --since, as --until
		"yesterday":            {"2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z"},
		"today":                {"2026-11-29T00:00:00Z", "2026-11-30T00:00:00Z"},
		"2026-11-28":           {"2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z"},
		"2h":                   {"2026-11-29T11:30:00Z", "2026-11-29T11:30:00Z"},
		"2026-11-28 10:00":     {"2026-11-28T10:00:00Z", "2026-11-28T10:00:00Z"},
		"2026-11-28T10:00:00Z": {"2026-11-28T10:00:00Z", "2026-11-28T10:00:00Z"},
	} {
		for i, end := range []bool{false, true} {
			got, err := a.parseTime("--since", text, end)
			require.NoError(t, err)
			require.Equal(t, want[i], got.Format(time.RFC3339), text)
		}
	}
	_, err := a.parseTime("--until", "soon", true)
	require.ErrorContains(t, err, "--until")
}

// A trace says who handed the message in, and with --to only that recipient's
// lines.
func TestTraceAnswersWhoSentThisYesterday(t *testing.T) {
	w := newWorld(t)
	day := w.Now.Truncate(24 * time.Hour).Add(-12 * time.Hour)
	w.AddTrace(admin.Trace{
		ID: "01KWH000000000000000000000", Created: admin.At(day), Sender: "s@example.test",
		Client:     admin.Origin{Node: "n1", Address: "192.0.2.7:4242", Helo: "pc7", User: "alice@example.test", Protocol: "ESMTPSA", Session: "abc-1"},
		Recipients: []admin.QueueRecipient{{Address: "a@far.test", State: "delivered"}, {Address: "b@far.test", State: "bounced"}},
		Events:     []admin.TraceEvent{{What: "accepted"}, {What: "delivered", Recipient: "a@far.test"}, {What: "bounced", Recipient: "b@far.test"}},
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
