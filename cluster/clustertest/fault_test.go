package clustertest_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/cluster/clustertest"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// after waits until so many more messages were acknowledged.
func after(g *clustertest.Group, l *clustertest.Ledger, more int) {
	want := l.Acknowledged() + more
	g.Eventually("no more messages are acknowledged", func() bool { return l.Acknowledged() >= want })
}

// TestLeaderKilledUnderProposals is the one test in which clients send as fast as they can.
func TestLeaderKilledUnderProposals(t *testing.T) {
	g := clustertest.New(t, clustertest.Options{})
	l := g.NewLedger()
	l.Pause = 0
	stop := l.Flood(t.Context(), 4, 2000, g.Nodes()...)
	for range 2 {
		after(g, l, 200)
		leader := g.Leader()
		leader.Kill()
		after(g, l, 200)
		leader.Start()
		g.WaitReady(leader)
	}
	after(g, l, 100)
	stop()
	l.Check()
}

func TestAllKilledAtOnce(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	l := g.NewLedger()
	stop := l.Flood(t.Context(), 4, 4000, g.Nodes()...)
	after(g, l, 300)
	for _, n := range g.Nodes() {
		n.Kill()
	}
	for _, n := range g.Nodes() {
		n.Start()
	}
	after(g, l, 100)
	stop()
	l.Check()
}

func TestLeaderCutOffWithClientsOnBothSides(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	l := g.NewLedger()
	stop := l.Flood(t.Context(), 4, 500, g.Nodes()...)
	for range 2 {
		after(g, l, 100)
		old := g.Leader()
		rest := others(g, old)
		g.Isolate(old)
		after(g, l, 200) // by the majority
		require.NotEqual(t, old, g.Leader(rest...))
		require.Error(t, old.C().Ready(), "a node without a quorum is not ready")
		g.HealAll()
		g.WaitReady(g.Nodes()...)
	}
	stop()
	l.Check()
}

func TestOneWayCut(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	l := g.NewLedger()
	stop := l.Flood(t.Context(), 2, 500, g.Nodes()...)
	after(g, l, 50)
	leader := g.Leader()
	for _, n := range others(g, leader) {
		g.Cut(leader, n) // it hears the others, but nobody hears it
	}
	after(g, l, 100)
	g.HealAll()
	g.WaitReady(g.Nodes()...)
	stop()
	l.Check()
}

func others(g *clustertest.Group, but *clustertest.Node) (rest []*clustertest.Node) {
	for _, n := range g.Nodes() {
		if n != but {
			rest = append(rest, n)
		}
	}
	return rest
}

func TestLaggingNodeInstallsSnapshot(t *testing.T) {
	t.Parallel()
	tuning := clustertest.Quick()
	tuning.LogBytes, tuning.Trailing = 256<<10, 16
	g := clustertest.New(t, clustertest.Options{Tuning: tuning})
	l := g.NewLedger()
	late := g.Followers()[0]
	g.WaitEqual()
	had := late.C().Applied()
	late.Kill()
	stop := l.Flood(t.Context(), 4, 4000, others(g, late)...)
	after(g, l, 200)
	g.Eventually("the log is not shortened", func() bool {
		s, err := g.Leader().C().Status(t.Context())
		return err == nil && s.LogBytes < 4*tuning.LogBytes && s.FirstIndex > had+100
	})
	late.Start()
	g.WaitReady(late)
	after(g, l, 100) // while it has just been installed
	stop()
	l.Check()
}

func TestWipedNodeComesBackUnderItsName(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	l := g.NewLedger()
	stop := l.Flood(t.Context(), 2, 1000, g.Nodes()...)
	after(g, l, 50)
	victim := g.Followers()[0]
	victim.Kill()
	victim.Wipe()
	victim.Rejoin(g.Leader())
	g.WaitReady(victim)
	g.WaitVoters(3)
	after(g, l, 50)
	stop()
	l.Check()
}

func TestGracefulStopIsNotNoticed(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	l := g.NewLedger()
	leader := g.Leader()
	stop := l.Flood(t.Context(), 4, 500, others(g, leader)...)
	after(g, l, 50)
	began := time.Now()
	leader.Stop()
	after(g, l, 50)
	require.Less(t, time.Since(began), 30*time.Second)
	stop()
	require.Equal(t, l.Sent(), l.Acknowledged(), "a graceful stop made proposals fail")
	leader.Start()
	g.WaitReady(leader)
	l.Check()
}

func TestLeaseEndsBeforeTheLeaderGivesTheWorkAway(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	victim := g.Followers()[0]
	epoch, lost := victim.C().Epoch(), victim.C().SessionLost()
	require.NotZero(t, epoch)
	require.True(t, victim.C().Until().After(time.Now()))
	ended := make(chan time.Time, 1)
	go func() {
		<-lost
		ended <- time.Now()
	}()
	g.Isolate(victim)
	leader := g.Leader(others(g, victim)...)
	g.Eventually("the session is not expired", func() bool { return session(t, leader, victim.ID) == nil })
	expired := time.Now()
	at := <-ended
	require.True(t, at.Before(expired), "the owner stops before the leader expires it")
	require.True(t, victim.C().Until().IsZero())
	require.Zero(t, victim.C().Epoch())
	select {
	case <-victim.C().SessionLost():
	default:
		require.Fail(t, "without a session, SessionLost is closed")
	}

	g.HealAll()
	g.WaitReady(victim)
	require.Greater(t, victim.C().Epoch(), epoch, "a new session has a new epoch")
	select {
	case <-victim.C().SessionLost():
		require.Fail(t, "the new session is lost at once")
	default:
	}
}

func session(t *testing.T, n *clustertest.Node, id string) (s *pb.Session) {
	require.NoError(t, n.C().View(func(v spool.View) error {
		one, ok, err := v.Session(id)
		if ok {
			s = one
		}
		return err
	}))
	return s
}

func TestDeadHolderCanNotRemove(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	l := g.NewLedger()
	victim := g.Followers()[0]
	l.MustSend(victim, 100)
	old := victim.C().Epoch()
	const box = "alice@example.test"
	lock := clustertest.Propose(t.Context(), t, victim, spool.KindLock,
		&pb.TakeLock{Mailbox: box, Node: victim.ID, Epoch: old, Session: "1"})
	require.NotZero(t, lock.Token)

	g.Isolate(victim)
	leader := g.Leader(others(g, victim)...)
	g.Eventually("the session is not expired", func() bool { return session(t, leader, victim.ID) == nil })
	next := clustertest.Propose(t.Context(), t, leader, spool.KindLock,
		&pb.TakeLock{Mailbox: box, Node: leader.ID, Epoch: leader.C().Epoch(), Session: "2"})
	require.Greater(t, next.Token, lock.Token, "tokens grow")

	g.HealAll()
	f, err := spool.Encode(spool.KindRemove, &pb.Remove{
		Mailbox: box, Epoch: old, Token: lock.Token, Uids: []uint64{1}, Unlock: true,
	})
	require.NoError(t, err)
	res, err := victim.C().Propose(t.Context(), f)
	require.NoError(t, err)
	require.Equal(t, pb.Code_STALE, res.Code)
	l.Check()
}

func TestNoQuorum(t *testing.T) {
	t.Parallel()
	tuning := clustertest.Quick()
	tuning.Deadline = 1500 * time.Millisecond
	g := clustertest.New(t, clustertest.Options{Tuning: tuning})
	left := g.Leader()
	for _, n := range others(g, left) {
		n.Kill()
	}
	g.Eventually("it still thinks it is ready", func() bool { return left.C().Ready() != nil })
	kind, h := putRoute(1)
	f, err := spool.Encode(kind, h)
	require.NoError(t, err)
	_, err = left.C().Propose(t.Context(), f)
	require.ErrorIs(t, err, cluster.ErrUnavailable)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.Error(t, left.C().Consistent(ctx))
	for _, n := range others(g, left) {
		n.Start()
	}
	g.WaitReady(g.Nodes()...)
	res, err := left.C().Propose(t.Context(), f) // the very same frame
	require.NoError(t, err)
	require.Equal(t, pb.Code_OK, res.Code)
	g.WaitEqual()
}
