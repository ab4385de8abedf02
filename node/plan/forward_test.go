package plan

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/node/directory"
)

// TestForwardedSenders: only what an alias leads outside gets the other sender, which is asked for once; lists keep
// their owner, and mailboxes and direct recipients the sender.
func TestForwardedSenders(t *testing.T) {
	asked := 0
	p := &Transaction{Sender: "sam@far.example", Forward: func() string { asked++; return "srs@example.test" }}
	for _, c := range []struct {
		rcpt string
		to   directory.Target
		want string
	}{
		{"x@else.example", directory.Target{Recipient: "x@else.example"}, "sam@far.example"},
		{"X@ELSE.example", directory.Target{Recipient: "X@else.example"}, "sam@far.example"},
		{"x@bücher.example", directory.Target{Recipient: "x@xn--bcher-kva.example"}, "sam@far.example"},
		{"away@example.test", directory.Target{Recipient: "x@else.example"}, "srs@example.test"},
		{"away@example.test", directory.Target{Recipient: "y@else.example"}, "srs@example.test"},
		{"list@example.test", directory.Target{Recipient: "x@else.example", Owner: "o@example.test"}, "o@example.test"},
		{"info@example.test", directory.Target{Recipient: "bob@example.test", Mailbox: "bob@example.test"},
			"sam@far.example"},
	} {
		require.Equal(t, c.want, p.senderFor(&Recipient{Address: c.rcpt}, c.to), c.rcpt)
	}
	require.Equal(t, 1, asked)
	p.Sender = ""
	require.Empty(t, p.senderFor(&Recipient{Address: "away@example.test"}, directory.Target{Recipient: "x@else.example"}))
}
