package clustertest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster"
	"relay/cluster/clustertest"
)

func recovered(t *testing.T, peers []*clustertest.Node, nodes ...*clustertest.Node) (last cluster.Recovered) {
	var all []cluster.Peer
	for _, n := range peers {
		all = append(all, cluster.Peer{ID: n.ID, Address: n.Addr})
	}
	for _, n := range nodes {
		done, err := cluster.Recover(t.Context(), cluster.RecoverOptions{
			Dir: n.Dir, Peers: all, Log: zap.NewNop(), Tuning: clustertest.Quick(),
		})
		require.NoError(t, err)
		last = done
	}
	return last
}

// TestLostNodesComeBackTogether: two of three nodes are given up, and come back
// with a quorum of the old cluster. They end as soon as they meet the recovered
// node: it asks their join servers, and they look for it.
func TestLostNodesComeBackTogether(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	l := g.NewLedger()
	l.MustSend(g.Node(0), 1000)
	g.WaitEqual()
	for _, n := range g.Nodes() {
		n.Stop()
	}
	survivor, lost := g.Node(0), g.Nodes()[1:]
	one := recovered(t, []*clustertest.Node{survivor}, survivor)
	again := recovered(t, []*clustertest.Node{survivor}, survivor)
	require.Contains(t, one.Generation, ".g1-")
	require.Equal(t, one.Generation, again.Generation, "the same peers again, with nothing changed since")
	survivor.Start()
	g.WaitReady(survivor)
	l.MustSend(survivor, 1000)
	for _, n := range lost {
		n.Start()
	}
	for _, n := range lost {
		g.Eventually(n.ID+" goes on as the old cluster", func() bool { return n.Fatal() != nil })
		require.ErrorIs(t, n.Fatal(), cluster.ErrOutlived)
		require.ErrorContains(t, n.Fatal(), "relayd join")
	}
	require.NoError(t, survivor.Fatal())
	for _, n := range lost {
		n.Stop()
		n.Wipe()
	}
	g.WaitVoters(1)
	lost[0].Rejoin(survivor)
	lost[1].Rejoin(survivor)
	g.WaitVoters(3)
	g.WaitReady(g.Nodes()...)
	g.WaitEqual()
	l.Check()

	// A second recovery is a generation of its own.
	for _, n := range g.Nodes() {
		n.Stop()
	}
	two := recovered(t, []*clustertest.Node{survivor}, survivor)
	require.Contains(t, two.Generation, ".g2-")
}

// TestLostNodesHearTheKnock: the lost nodes can't reach the survivor, and it
// reaches them.
func TestLostNodesHearTheKnock(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	for _, n := range g.Nodes() {
		n.Stop()
	}
	survivor, lost := g.Node(0), g.Nodes()[1:]
	recovered(t, []*clustertest.Node{survivor}, survivor)
	for _, n := range lost {
		g.Refuse(n, survivor)
		n.Start()
	}
	g.WaitReady(lost...) // the old cluster goes on
	survivor.Start()
	for _, n := range lost {
		g.Eventually(n.ID+" goes on as the old cluster", func() bool { return n.Fatal() != nil })
		require.ErrorIs(t, n.Fatal(), cluster.ErrOutlived)
	}
	g.WaitReady(survivor)
	require.NoError(t, survivor.Fatal())
}

// TestSurvivorThatWasNotRecovered is told to be so.
func TestSurvivorThatWasNotRecovered(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	for _, n := range g.Nodes() {
		n.Stop()
	}
	a, b := g.Node(0), g.Node(1)
	recovered(t, g.Nodes()[:2], a)
	a.Start()
	b.Start()
	g.Eventually("it goes on", func() bool { return b.Fatal() != nil })
	require.ErrorContains(t, b.Fatal(), "relayd recover")
	b.Stop()
	recovered(t, g.Nodes()[:2], b)
	b.Start()
	g.WaitReady(a, b)
	g.WaitEqual()
}

// TestSurvivorsThatContradict: each of two survivors has entries that the other
// one never had, in different terms. One of them ends, with nothing changed.
func TestSurvivorsThatContradict(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{Nodes: 5})
	for _, n := range g.Nodes() {
		n.Stop()
	}
	// Each side goes on by itself, recovered with others, as by mistake.
	left, right := g.Node(0), g.Node(1)
	recovered(t, []*clustertest.Node{left}, left)
	recovered(t, []*clustertest.Node{right}, right)
	for i, n := range []*clustertest.Node{left, right} {
		n.Start()
		g.WaitReady(n)
		if i == 0 { // a higher term, and a shorter log
			for range 4 {
				n.Stop()
				n.Start()
				g.WaitReady(n)
			}
		} else {
			for i := range 40 {
				kind, h := putRoute(i)
				clustertest.Propose(t.Context(), t, n, kind, h)
			}
		}
		n.Stop()
	}
	both := []*clustertest.Node{left, right}
	a := recovered(t, both, left)
	b := recovered(t, both, right)
	require.Equal(t, a.Generation, b.Generation)
	require.Greater(t, a.Term, b.Term)
	require.Less(t, a.Applied, b.Applied)
	left.Start()
	right.Start()
	g.Eventually("both go on", func() bool { return right.Fatal() != nil })
	require.ErrorContains(t, right.Fatal(), "different mail")
	require.NoError(t, left.Fatal())
}

// TestSurvivorsWithRenewedCertificates: the survivors' records of each other are newer than
// those Recover makes, until the new generation has begun.
func TestSurvivorsWithRenewedCertificates(t *testing.T) {
	t.Parallel()
	tuning := clustertest.Quick()
	tuning.CertLife = 4 * time.Second
	g := clustertest.New(t, clustertest.Options{Tuning: tuning})
	g.Eventually("not every certificate is renewed", func() bool {
		for _, n := range g.Nodes() {
			if record(t, g.Node(0), n.ID).GetIssuedMs() == 0 {
				return false
			}
		}
		return true
	})
	g.WaitEqual()
	for _, n := range g.Nodes() {
		n.Stop()
	}
	survivors := g.Nodes()[:2]
	recovered(t, survivors, survivors...)
	for _, n := range survivors {
		n.Start()
	}
	g.WaitReady(survivors...)
	g.WaitEqual()
}
