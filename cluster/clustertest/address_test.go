package clustertest_test

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster"
	"relay/cluster/clustertest"
	"relay/cluster/timetest"
)

// renumber gives nodes that are down new addresses. At the old ones somebody
// takes connections and never answers, as a host that is gone would not.
func renumber(t *testing.T, nodes ...*clustertest.Node) {
	for _, n := range nodes {
		l, err := net.Listen("tcp", n.Addr)
		require.NoError(t, err)
		t.Cleanup(func() { _ = l.Close() })
		n.Addr = ""
	}
}

// startAt starts nodes at new addresses, which all of them are told.
func startAt(peers map[string]string, nodes ...*clustertest.Node) {
	for _, n := range nodes {
		n.Reserve()
		if peers != nil {
			peers[n.ID] = n.Addr
		}
	}
	for _, n := range nodes {
		n.Peers = peers
		n.Start()
	}
}

// TestTwoOfThreeAreRenumbered: the node that stays has the longest log, so that
// it must lead, and knows only the old addresses of the others.
func TestTwoOfThreeAreRenumbered(t *testing.T) {
	t.Parallel()
	skipUnderRace(t)
	g := clustertest.New(t, clustertest.Options{})
	l := g.NewLedger()
	stays := g.Leader()
	moved := g.Followers()
	for _, n := range moved {
		n.Kill()
	}
	g.Eventually("it still leads", func() bool { return stays.C().Leader() == "" })
	stays.Stop()
	renumber(t, moved...)
	began, machine := time.Now(), timetest.Watch(t)
	stays.Start()
	startAt(nil, moved...)
	g.WaitReady(g.Nodes()...)
	require.Less(t, time.Since(began), 10*time.Second+4*machine.Lost())
	l.MustSend(moved[0], 1000)
	g.WaitEqual()
	l.Check()
}

// TestAllAreRenumbered: nobody knows anybody's address but by Options.Peers.
func TestAllAreRenumbered(t *testing.T) {
	t.Parallel()
	skipUnderRace(t)
	g := clustertest.New(t, clustertest.Options{})
	l := g.NewLedger()
	l.MustSend(g.Node(0), 1000)
	for _, n := range g.Nodes() {
		n.Stop()
	}
	renumber(t, g.Nodes()...)
	began, machine := time.Now(), timetest.Watch(t)
	startAt(map[string]string{}, g.Nodes()...)
	g.WaitReady(g.Nodes()...)
	require.Less(t, time.Since(began), 10*time.Second+4*machine.Lost())
	l.MustSend(g.Node(1), 1000)
	g.WaitEqual()
	l.Check()

	// From now on the cluster itself knows where they are.
	leader := g.Leader()
	g.Eventually("raft's configuration has the old addresses", func() bool {
		s, err := leader.C().Status(t.Context())
		if err != nil {
			return false
		}
		for i, m := range s.Members {
			if m.Address != g.Node(i).Addr {
				return false
			}
		}
		return true
	})
	for _, n := range g.Nodes() {
		n.Stop()
		n.Peers = nil
	}
	for _, n := range g.Nodes() {
		n.Start()
	}
	g.WaitReady(g.Nodes()...)
}

// TestRecoverWithNewAddresses: the survivors are where --peers says, not where
// they were.
func TestRecoverWithNewAddresses(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{Nodes: 5})
	l := g.NewLedger()
	l.MustSend(g.Node(0), 1000)
	g.WaitEqual()
	for _, n := range g.Nodes() {
		n.Stop()
	}
	survivors := g.Nodes()[:2]
	renumber(t, survivors...)
	var peers []cluster.Peer
	for _, n := range survivors {
		n.Reserve()
		peers = append(peers, cluster.Peer{ID: n.ID, Address: n.Addr})
	}
	for _, n := range survivors {
		_, err := cluster.Recover(t.Context(), cluster.RecoverOptions{
			Dir: n.Dir, Peers: peers, Log: zap.NewNop(), Tuning: clustertest.Quick(),
		})
		require.NoError(t, err)
	}
	began, machine := time.Now(), timetest.Watch(t)
	for _, n := range survivors {
		n.Start()
	}
	g.WaitReady(survivors...)
	require.Less(t, time.Since(began), 10*time.Second+4*machine.Lost())
	l.MustSend(survivors[1], 1000)
	l.Check()
}
