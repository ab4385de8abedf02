package node

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"relay/pop3"
	"relay/smtp"
)

// A network that is refused a hundred times a minute has sixty lines and one that
// sums up the rest; another one is not kept from its own, and the counts are exact.
func TestRefusalsBeyondSixtyAMinuteAreSummedUp(t *testing.T) {
	core, told := observer.New(zap.InfoLevel)
	l := newRefusalLog(zap.New(core))
	now := time.Unix(1_800_000_000, 0)
	l.now = func() time.Time { return now }
	refuse := func(from string) {
		l.smtp("mx", &smtp.Refusal{
			Peer: &smtp.Peer{Session: "s1", Remote: netip.MustParseAddrPort(from), Helo: "h"}, Stage: "rcpt",
			Reason: "unknown_user",
			InMail: true, Sender: "a@b.test", Recipients: []string{"c@d.test"},
			Reply: smtp.NewReply(550, "5.1.1", "No such user here"),
		})
	}
	for i := range 100 {
		refuse(fmt.Sprintf("[2001:db8::%x]:25", i)) // one /64
	}
	refuse("192.0.2.1:25")
	require.Equal(t, 61, told.FilterMessage("refused").Len())
	require.Zero(t, told.FilterMessage("refused more").Len())
	require.Equal(t, map[refusalKind]int64{{"smtp", "mx", "unknown_user", "5xx"}: 101}, l.counted())

	now = now.Add(61 * time.Second)
	l.sweep(now)
	more := told.FilterMessage("refused more").All()
	require.Len(t, more, 1)
	require.Equal(t, "2001:db8::/64", more[0].ContextMap()["network"])
	require.EqualValues(t, 40, more[0].ContextMap()["count"])
	refuse("[2001:db8::1]:25")
	require.Equal(t, 62, told.FilterMessage("refused").Len())
	last := told.FilterMessage("refused").All()[61].ContextMap()
	require.Equal(t, "550 5.1.1 No such user here", last["reply"])
	require.Equal(t, []any{"c@d.test"}, last["recipients"])
}

var errLost = errors.New("a mailbox was removed meanwhile")

// A failure at POP3 is a warning and a count; a panic has its line also when its
// network has had the others of the minute.
func TestFailuresOfPOP3AreWarnings(t *testing.T) {
	core, told := observer.New(zap.InfoLevel)
	l := newRefusalLog(zap.New(core))
	l.now = func() time.Time { return time.Unix(1_800_000_000, 0) }
	peer := &pop3.Peer{Session: "s1", Remote: netip.MustParseAddrPort("192.0.2.1:110")}
	for range refusalLines {
		l.pop3(&pop3.Refusal{Peer: peer, Stage: "commit", Reason: pop3.ReasonUncommitted, Messages: 3, Cause: errLost})
	}
	l.pop3(&pop3.Refusal{Peer: peer, Stage: "panic", Reason: pop3.ReasonPanic, Cause: errLost, Stack: "main.go:1"})
	lines := told.FilterMessage("refused").FilterLevelExact(zap.WarnLevel).All()
	require.Len(t, lines, refusalLines+1)
	require.Subset(t, lines[0].ContextMap(), map[string]any{
		"reason": "not_committed", "messages": int64(3), "session": "s1", "remote": "192.0.2.1:110",
	})
	require.Subset(t, lines[refusalLines].ContextMap(), map[string]any{"reason": "panic", "stack": "main.go:1"})
	require.Equal(t, map[refusalKind]int64{
		{"pop3", "", "not_committed", "none"}: refusalLines, {"pop3", "", "panic", "none"}: 1,
	}, l.counted())
}

// Networks without end take no memory without end.
func TestRefusalsOfManyNetworksAreBounded(t *testing.T) {
	l := newRefusalLog(zap.NewNop())
	for i := range refusalNetworks + 500 {
		l.count(refusalKind{"smtp", "mx", "rate", "4xx"}, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	require.LessOrEqual(t, len(l.nets), refusalNetworks+1)
	require.EqualValues(t, refusalNetworks+500, l.counted()[refusalKind{"smtp", "mx", "rate", "4xx"}])
}
