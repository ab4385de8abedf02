package liveness

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// TestStandsOnceATerm: a follower whose leader stays silent stands against it once, however often it looks; in the next
// term it may stand again.
func TestStandsOnceATerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		term, stood := uint64(7), 0
		heartbeat := 500 * time.Millisecond
		silence := 2 * heartbeat
		view := func(leader string) View { return View{Term: term, Leader: leader, SilentMs: silence.Milliseconds()} }
		v := &Election{ElectionPorts: ElectionPorts{
			Self: "n2", Heartbeat: heartbeat, LeaderLease: heartbeat, Latency: time.Millisecond,
			Patience: func() time.Duration { return heartbeat },
			Term:     func() uint64 { return term },
			Follows:  func() string { return "n1" },
			Silence:  func() time.Duration { return silence },
			Own:      func() View { return view("n1") },
			Voters:   func() []string { return []string{"n1", "n2", "n3"} },
			Ask:      func(context.Context, string) (View, error) { return view("n1"), nil },
			Stand:    func() error { stood++; return nil },
			Go:       func(fn func()) { go fn() },
			Log:      zap.NewNop(),
		}}
		for range 5 {
			v.StandIfDue(t.Context())
			time.Sleep(heartbeat / 12)
		}
		require.Equal(t, 1, stood)
		term++
		v.StandIfDue(t.Context())
		require.Equal(t, 2, stood)
		silence = heartbeat / 4
		term++
		v.StandIfDue(t.Context())
		require.Equal(t, 2, stood, "the leader is heard")
	})
}
