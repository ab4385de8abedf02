package clustertest_test

import (
	"context"
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
)

// old makes a cluster of version 1 whose nodes say that they know no newer one.
func old(t *testing.T, tuning cluster.Tuning) *clustertest.Group {
	return clustertest.New(t, clustertest.Options{FoundAt: 1, Max: 1, Tuning: tuning})
}

// renew starts a node again as the newer build.
func renew(g *clustertest.Group, n *clustertest.Node) {
	n.Stop()
	n.Max = 0
	n.Start()
	g.WaitReady(n)
}

func upgradeOf(t *testing.T, n *clustertest.Node) cluster.Upgrade {
	u, err := n.C().Upgrade()
	require.NoError(t, err)
	return u
}

// TestTheLeaderRaisesTheVersion: when the last node can, and not before.
func TestTheLeaderRaisesTheVersion(t *testing.T) {
	t.Parallel()
	tuning := clustertest.Quick()
	tuning.UpgradeAfter = 500 * time.Millisecond
	g := old(t, tuning)
	renew(g, g.Node(0))
	renew(g, g.Node(1))
	u := upgradeOf(t, g.Node(0))
	require.EqualValues(t, 1, u.Next)
	require.Equal(t, "cluster version 1: node n3 knows no newer one: install this relayd there, too", u.String())
	require.ErrorIs(t, g.Node(1).C().Raise(t.Context(), operator), cluster.ErrUpgrade)
	require.EqualValues(t, 1, g.Leader().C().Version())
	renew(g, g.Node(2))
	for _, n := range g.Nodes() {
		g.Eventually("the version is not raised", func() bool { return n.C().At(2) })
	}
	require.Empty(t, upgradeOf(t, g.Node(2)).String())
	g.WaitEqual()
}

func TestAnOperatorRaisesHoldsAndReleases(t *testing.T) {
	t.Parallel()
	tuning := clustertest.Quick()
	tuning.UpgradeAfter = 43 * time.Minute
	g := old(t, tuning)
	require.NoError(t, g.Node(0).C().Hold(t.Context(), true, operator), "while the cluster is old")
	for _, n := range g.Nodes() {
		renew(g, n)
	}
	g.Eventually("not all can follow", func() bool { // this node may not have applied what the last one said
		return strings.Contains(upgradeOf(t, g.Node(1)).String(), "all nodes can 2")
	})
	u := upgradeOf(t, g.Node(1))
	require.True(t, u.Held)
	require.Contains(t, u.String(), "cluster version 1, all nodes can 2: held by ")
	require.ErrorIs(t, g.Node(1).C().Raise(t.Context(), operator), cluster.ErrUpgrade)
	refused := propose(t, g.Node(1), spool.KindRaise, &pb.Raise{From: 1, To: 2})
	require.Equal(t, pb.Code_STALE, refused.Code, "a Raise that was under way when the hold came")

	require.NoError(t, g.Node(2).C().Hold(t.Context(), false, operator))
	require.NoError(t, g.Node(2).C().Hold(t.Context(), false, operator), "twice")
	require.Contains(t, upgradeOf(t, g.Node(2)).String(), "cluster version 1, all nodes can 2: raised in 4")
	require.NoError(t, g.Node(1).C().Raise(t.Context(), operator))
	for _, n := range g.Nodes() {
		g.Eventually("the version is not raised", func() bool { return n.C().At(2) })
	}
	require.ErrorContains(t, g.Node(1).C().Raise(t.Context(), operator), "it is 2 already")
	require.NoError(t, g.Node(1).C().Hold(t.Context(), true, operator))
	require.NoError(t, g.Node(1).C().Hold(t.Context(), false, operator))
	require.Subset(t, audited(t, g.Node(1)), []string{
		"cluster upgrade from version 1 to 2", "cluster upgrade hold", "cluster upgrade release",
	})
}

// audited is what the audit log says was done.
func audited(t *testing.T, n *clustertest.Node) (all []string) {
	require.NoError(t, n.C().View(func(v spool.View) error {
		return v.Audits(0, func(a *pb.Audit) bool { all = append(all, a.What); return true })
	}))
	return all
}

// TestWhatDifferedBeforeTheRaiseIsFound: the chain of sums begins with the raise, and
// says nothing of what a node applied wrongly before; the comparison behind it does.
func TestWhatDifferedBeforeTheRaiseIsFound(t *testing.T) {
	t.Parallel()
	g, arm, _ := faulty(t, 3, 1)
	l := g.NewLedger()
	wrong := g.Followers()[0]
	arm(wrong)
	for range 3 {
		l.MustSend(g.Leader(), 1000)
	}
	require.NoError(t, g.Leader().C().Raise(t.Context(), operator))
	g.Eventually("it does not stand back", func() bool { return wrong.C().Diverged() != "" })
	for _, n := range g.Nodes() {
		if n != wrong {
			require.Empty(t, n.C().Diverged())
			g.WaitReady(n)
		}
	}
}

// TestADeadNodeHoldsTheLeaderUp, but not an operator; and the build it comes back
// with must know the version.
func TestADeadNodeHoldsTheLeaderUp(t *testing.T) {
	t.Parallel()
	tuning := clustertest.Quick()
	tuning.UpgradeAfter = 300 * time.Millisecond
	g := old(t, tuning)
	require.NoError(t, g.Node(0).C().Hold(t.Context(), true, operator))
	for _, n := range g.Nodes() {
		renew(g, n)
	}
	dead := g.Followers()[0]
	dead.Stop()
	leader := g.Leader()
	g.Eventually("its session is over", func() bool { return len(upgradeOf(t, leader).Missing) == 1 })
	require.NoError(t, leader.C().Hold(t.Context(), false, operator))
	require.Contains(t, upgradeOf(t, leader).String(), "not raised while node "+dead.ID+" is down")
	require.NoError(t, leader.C().Raise(t.Context(), operator))
	dead.Start()
	g.WaitReady(dead)
	g.Eventually("it catches up through the raise", func() bool { return dead.C().At(2) })
	g.WaitEqual()
}

func propose(t *testing.T, n *clustertest.Node, kind spool.Kind, h *pb.Raise) *pb.Result {
	f, err := spool.Encode(kind, h)
	require.NoError(t, err)
	res, err := n.C().Propose(t.Context(), f)
	require.NoError(t, err)
	return res
}

func TestJoinOfABuildThatIsTooOld(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{Nodes: 1})
	token, err := g.Node(0).C().Token(t.Context(), 1, time.Minute, operator)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	o := cluster.JoinOptions{
		ID: "n9", Dir: filepath.Join(t.TempDir(), "data"), Advertise: "127.0.0.1:1", Token: token, Addr: g.Node(0).Addr,
		Log: zap.NewNop(), MaxVersion: 1,
	}
	err = cluster.Join(ctx, o)
	require.ErrorIs(t, err, cluster.ErrTooOld)
	require.ErrorContains(t, err,
		"the cluster version is 2, and the relayd of n9 knows 1 to 1: install the relayd that the members run")
	o.MaxVersion = 0
	require.NoError(t, cluster.Join(ctx, o), "the token was not used up")
}
