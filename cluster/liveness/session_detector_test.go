package liveness

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "relay/cluster/spool/spoolpb"
)

func TestSessionDetector(t *testing.T) {
	const grace = 5 * time.Second
	w := NewDetector(4*time.Second, time.Second)
	now := time.Now()
	one := &pb.Session{Node: "a", Epoch: 3, Renewed: 3}
	require.Empty(t, w.Observe(now, []*pb.Session{one}), "at first sight, everybody has the whole time")
	require.Empty(t, w.Observe(now.Add(grace), []*pb.Session{one}))
	require.Len(t, w.Observe(now.Add(grace+1), []*pb.Session{one}), 1)
	renewed := &pb.Session{Node: "a", Epoch: 3, Renewed: 9}
	require.Empty(t, w.Observe(now.Add(grace+2), []*pb.Session{renewed}))
	require.Empty(t, w.Observe(now.Add(2*grace), []*pb.Session{renewed}))
	again := &pb.Session{Node: "a", Epoch: 12, Renewed: 12}
	require.Empty(t, w.Observe(now.Add(3*grace), []*pb.Session{again}), "another session, another count")
	require.Empty(t, w.Observe(now.Add(3*grace), nil))
	require.Empty(t, w.Observe(now.Add(9*grace), []*pb.Session{again}), "forgotten in between")
}

// TestRenewalsOfTheLastMomentsAreNotYoung: renewals that a new leader's barrier
// applies were sent before the old leader was heard last.
func TestRenewalsOfTheLastMomentsAreNotYoung(t *testing.T) {
	w := NewDetector(4*time.Second, time.Second)
	now := time.Now()
	dead, alive := &pb.Session{Node: "n1", Epoch: 3, Renewed: 20}, &pb.Session{Node: "n2", Epoch: 4, Renewed: 30}
	both := []*pb.Session{dead, alive}
	require.Empty(t, w.Observe(now, both))
	w.Backdate(dead, now.Add(-time.Second))
	w.Backdate(alive, now.Add(time.Second))
	w.Backdate(&pb.Session{Node: "n2", Epoch: 4, Renewed: 29}, now.Add(-time.Hour))
	require.Empty(t, w.Observe(now.Add(3900*time.Millisecond), both))
	require.Equal(t, []*pb.Session{dead}, w.Observe(now.Add(4100*time.Millisecond), both))
	require.Equal(t, both, w.Observe(now.Add(5100*time.Millisecond), both), "never later than without")
}
