package clock

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "relay/cluster/spool/spoolpb"
)

// A leader whose clock is up to a minute off leads on; from there on it hands over to
// a voter whose clock is right.
func TestALeaderHandsOverBeyondAMinute(t *testing.T) {
	const told = 1_900_000_000_000
	session := func(node string, off time.Duration) *pb.Session {
		return &pb.Session{Node: node, Renewed: 10, RenewedMs: told, WallMs: told + off.Milliseconds()}
	}
	a := &Abdication{Node: "n1"}
	for off, hands := range map[time.Duration]bool{
		5 * time.Second: false, 45 * time.Second: false, -45 * time.Second: false, time.Minute: false,
		61 * time.Second: true, -61 * time.Second: true, 2 * time.Hour: true, -10 * 24 * time.Hour: true,
	} {
		heirs := a.heirs(Instant{
			Voters: []string{"n1", "n2", "n3"}, Time: &pb.TimeState{},
			Sessions: []*pb.Session{session("n1", off), session("n2", 0), session("n3", time.Second)},
		})
		if hands {
			require.Equal(t, []string{"n2", "n3"}, heirs, "%s", off)
		} else {
			require.Empty(t, heirs, "%s", off)
		}
	}
}

// A wrong clock is named when it becomes wrong, when it is right again, and once an
// hour between.
func TestAWrongClockIsNamedHourly(t *testing.T) {
	require.Empty(t, Words("n1", 5*time.Second))
	require.Equal(t, "node n1's clock is 6s behind the cluster's", Words("n1", -6*time.Second))
	var w Warnings
	var lines []time.Duration
	for now := time.Duration(0); now < 4*time.Hour; now += time.Minute {
		if w.Due(now >= 10*time.Minute && now < 3*time.Hour, now) {
			lines = append(lines, now)
		}
	}
	require.Equal(t, []time.Duration{10 * time.Minute, 70 * time.Minute, 130 * time.Minute, 3 * time.Hour}, lines)
}
