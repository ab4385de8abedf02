package mailheader

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMailboxLineBecomesAField(t *testing.T) {
	const trace = "Received: here\r\n"
	for text, want := range map[string]string{
		"From a@b Thu Nov 26 10:00:00 2026\r\nSubject: s\r\n\r\nx\r\n": "X-Mailbox-Line: From a@b Thu Nov 26 10:00:00 " +
			"2026\r\nSubject: s\r\n\r\nx\r\n",
		">From a\r\nSubject: s\r\n\r\n": "X-Mailbox-Line: >From a\r\nSubject: s\r\n\r\n",
		"From: a@b\r\n\r\n":             "From: a@b\r\n\r\n",
		"":                              "",
		"Subject: s\r\nFrom a\r\n\r\n":  "Subject: s\r\nFrom a\r\n\r\n",
	} {
		got := NameMailboxLine([]byte(trace+text), len(trace))
		require.Equal(t, trace+want, string(got))
		if want != text {
			h := Parse(got[len(trace):])
			require.False(t, h.NoGap)
			require.True(t, h.Whole)
		}
	}
}
