package clustertest_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster"
	"relay/cluster/clustertest"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/timetest"
)

var operator = &pb.Admin{Who: "test", Why: "because"}

func join(t *testing.T, id, token, addr string) error {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	return cluster.Join(ctx, cluster.JoinOptions{
		ID: id, Dir: filepath.Join(t.TempDir(), "data"), Advertise: "127.0.0.1:1", Token: token, Addr: addr,
		Log: zap.NewNop(),
	})
}

func TestTokens(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{Nodes: 2})
	follower := g.Followers()[0]

	token, err := follower.C().Token(t.Context(), 1, time.Minute, operator)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(token, "rj1."))
	require.NoError(t, join(t, "a", token, follower.Addr), "by way of a follower")
	err = join(t, "b", token, follower.Addr)
	require.ErrorIs(t, err, cluster.ErrToken, "it was for one node")
	require.ErrorContains(t, err, "relayctl node token")

	short, err := follower.C().Token(t.Context(), 1, time.Millisecond, operator)
	require.NoError(t, err)
	require.ErrorIs(t, join(t, "c", short, follower.Addr), cluster.ErrToken)

	require.ErrorIs(t, join(t, "d", token[:20], follower.Addr), cluster.ErrToken)
	require.ErrorIs(t, join(t, "d", "hello", follower.Addr), cluster.ErrToken)

	elsewhere := clustertest.New(t, clustertest.Options{Nodes: 1})
	foreign, err := elsewhere.Node(0).C().Token(t.Context(), 1, time.Minute, operator)
	require.NoError(t, err)
	require.ErrorIs(t, join(t, "e", foreign, follower.Addr), cluster.ErrToken, "another cluster's token")

	g.Remove(follower, "a")
}

func TestIDOfLiveMemberIsRefused(t *testing.T) {
	t.Parallel()
	tuning := clustertest.Quick()
	g := clustertest.New(t, clustertest.Options{Nodes: 1, Tuning: tuning})
	token, err := g.Node(0).C().Token(t.Context(), 5, time.Minute, operator)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Second)
	defer cancel()
	err = cluster.Join(ctx, cluster.JoinOptions{
		ID: g.Node(0).ID, Dir: filepath.Join(t.TempDir(), "data"), Advertise: "127.0.0.1:1", Token: token,
		Addr: g.Node(0).Addr, Log: zap.NewNop(),
	})
	require.ErrorIs(t, err, cluster.ErrMember)
}

// TestAddressOfAMemberIsRefused: raft takes no two servers at one address. That is
// told as what it is, at once, and costs no use of the token.
func TestAddressOfAMemberIsRefused(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{Nodes: 1})
	token, err := g.Node(0).C().Token(t.Context(), 1, time.Minute, operator)
	require.NoError(t, err)
	for range 2 {
		err = cluster.Join(t.Context(), cluster.JoinOptions{
			ID: "other", Dir: filepath.Join(t.TempDir(), "data"), Advertise: g.Node(0).Addr, Token: token,
			Addr: g.Node(0).Addr, Log: zap.NewNop(),
		})
		require.ErrorIs(t, err, cluster.ErrMember)
		require.ErrorContains(t, err, "n1 is at "+g.Node(0).Addr+": give other an address of its own")
		require.ErrorContains(t, err, "'relayctl node rm n1'")
		require.NotContains(t, err.Error(), "not known")
	}
}

func TestRemoveKeepsTheQuorum(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	leader := g.Leader()
	down, gone := g.Followers()[0], g.Followers()[1]
	down.Kill()
	g.Eventually("the dead node's session lives", func() bool { return session(t, leader, down.ID) == nil })
	require.ErrorIs(t, leader.C().Remove(t.Context(), gone.ID, false, operator), cluster.ErrQuorum)
	g.Remove(gone, down.ID)
	g.WaitVoters(2)
	require.Error(t, leader.C().Remove(t.Context(), "nobody", false, operator))

	// The leader leaves: another one takes over first.
	left := false // the other one may be too slow to take over in time
	g.Eventually("the last node does not lead", func() bool {
		left = left || leader.C().Leave(t.Context(), operator) == nil
		s, err := gone.C().Status(t.Context())
		return err == nil && s.Leader == gone.ID && len(s.Members) == 1
	})
	require.ErrorIs(t, gone.C().Leave(t.Context(), operator), cluster.ErrQuorum)
	g.Eventually("the removed node may still act", func() bool { return leader.C().Epoch() == 0 })
	kind, h := putRoute(1)
	clustertest.Propose(t.Context(), t, gone, kind, h)
	f, err := spool.Encode(kind, h)
	require.NoError(t, err)
	g.Eventually("a node that was removed is still listened to", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := leader.C().Propose(ctx, f)
		return err != nil
	})
}

// TestRemovedNodeIsTold: a node that was removed while it was down learns so
// when it is started again, says what to do next, and disturbs nobody.
func TestRemovedNodeIsTold(t *testing.T) {
	t.Parallel()
	tuning := clustertest.Quick() // but on a busy machine the leader stays
	tuning.Heartbeat, tuning.Election, tuning.LeaderLease = 3*time.Second, 3*time.Second, 3*time.Second
	g := clustertest.New(t, clustertest.Options{Tuning: tuning})
	leader, gone := g.Leader(), g.Followers()[0]
	gone.Kill()
	g.Eventually("the dead node's session lives", func() bool { return session(t, leader, gone.ID) == nil })
	g.Remove(leader, gone.ID)
	g.WaitVoters(2)
	before, err := leader.C().Status(t.Context())
	require.NoError(t, err)

	gone.Start()
	g.Eventually("the removed node is not told", func() bool { return gone.Fatal() != nil })
	require.ErrorIs(t, gone.Fatal(), cluster.ErrRemoved)
	require.ErrorContains(t, gone.Fatal(), "relayd join")
	after, err := leader.C().Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, before.Term, after.Term, "it disturbed the others")
	require.Equal(t, leader.ID, after.Leader)
	gone.Stop()
	gone.Wipe()
	gone.Rejoin(leader)
	g.WaitVoters(3)
	g.WaitReady(gone)
}

// TestIsolatedNodeIsNotDisowned: a node that hears nobody is not told anything, and
// one that hears of a cluster without a leader is not removed either.
func TestIsolatedNodeIsNotDisowned(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	leader, alone := g.Leader(), g.Followers()[0]
	alone.Stop()
	leader.Kill()
	alone.Start()
	g.Leader(g.Up()...)
	other := g.Followers()[0]
	other.Kill()
	<-time.After(3 * time.Second)
	for _, n := range g.Up() {
		require.NoError(t, n.Fatal(), "%s", n.ID)
	}
}

func TestAddressChange(t *testing.T) {
	skipUnderRace(t)
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	n := g.Followers()[0]
	n.Stop()
	n.Addr = "" // another port
	n.Start()
	g.WaitReady(n)
	gone := g.Leader()
	if gone == n { // on a busy machine it may have been elected
		gone = others(g, n)[0]
	}
	gone.Kill()
	g.Leader(g.Up()...)
	kind, h := putRoute(1)
	clustertest.Propose(t.Context(), t, n, kind, h)
	g.WaitEqual()
}

func TestLostLogIsNoticed(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	n := g.Followers()[0]
	n.Stop()
	open := func() error {
		c, err := cluster.Open(cluster.Options{Dir: n.Dir, Listen: "127.0.0.1:0", Log: zap.NewNop(), Fatal: func(error) {}})
		if err == nil {
			_ = c.Crash(nil)
		}
		return err
	}
	require.NoError(t, os.Rename(filepath.Join(n.Dir, "raft"), filepath.Join(n.Dir, "gone")))
	require.ErrorIs(t, open(), cluster.ErrLogLost, "it would vote without knowing what it promised")
	require.NoError(t, os.RemoveAll(filepath.Join(n.Dir, "raft")))
	require.NoError(t, os.Rename(filepath.Join(n.Dir, "gone"), filepath.Join(n.Dir, "raft")))
	n.Start()
	g.WaitReady(n)
}

func TestRecoverWithoutMajority(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	l := g.NewLedger()
	l.MustSend(g.Node(0), 1000)
	g.WaitEqual()
	survivor := g.Followers()[0]
	for _, n := range g.Nodes() {
		n.Kill()
	}
	o := cluster.RecoverOptions{Dir: survivor.Dir, Peers: []cluster.Peer{{ID: survivor.ID, Address: survivor.Addr}},
		Log: zap.NewNop(), Tuning: clustertest.Quick()}
	seen, err := cluster.Inspect(t.Context(), o)
	require.NoError(t, err)
	require.Len(t, seen.Before, 3)
	done, err := cluster.Recover(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, seen.Applied, done.Applied)
	survivor.Start()
	g.WaitReady(survivor)
	l.MustSend(survivor, 1000)
	l.Check()
}

func TestQuestionsBetweenNodes(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	for _, n := range g.Nodes() {
		n.C().Handle("greet", func(_ context.Context, from string, req []byte) ([]byte, error) {
			return []byte(n.ID + " greets " + from + ": " + string(req)), nil
		})
	}
	for _, from := range g.Nodes() {
		for _, to := range g.Nodes() {
			b, err := from.C().Ask(t.Context(), to.ID, "greet", []byte("hello"))
			require.NoError(t, err)
			require.Equal(t, to.ID+" greets "+from.ID+": hello", string(b))
		}
	}
	_, err := g.Node(0).C().Ask(t.Context(), g.Node(1).ID, "nothing", nil)
	var remote *cluster.RemoteError
	require.ErrorAs(t, err, &remote)
}

func TestSoleNodeIsReadyAtOnce(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{
		Nodes: 1, Tuning: cluster.Tuning{GrowTo: -1, Heartbeat: 3 * time.Second, Election: 3 * time.Second},
	})
	n := g.Node(0)
	n.Stop()
	began, machine := time.Now(), timetest.Watch(t)
	n.Start()
	g.WaitReady(n)
	require.Less(t, time.Since(began), 2*time.Second+4*machine.Lost())
}

// TestJoinAfterTheFirstNodeLeft: the log that a new node is sent begins with the
// first node alone, which is gone.
func TestJoinAfterTheFirstNodeLeft(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{Nodes: 1})
	l := g.NewLedger()
	first := g.Node(0)
	for range 300 { // more than one call of raft's carries
		l.MustSend(first, 10)
	}
	second := g.Add(first)
	g.Add(first)
	g.WaitVoters(3)
	g.WaitEqual() // all know that there are three
	first.Kill()
	leader := g.Leader(second, g.Node(2))
	g.Eventually("the dead node's session lives", func() bool { return session(t, leader, first.ID) == nil })
	g.Remove(leader, first.ID)
	g.WaitVoters(2)
	g.Add(leader)
	g.WaitVoters(3)
}
