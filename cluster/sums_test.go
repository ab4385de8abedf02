package cluster_test

import (
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster"
	"relay/cluster/clustertest"
	"relay/cluster/disk"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// patient is a state machine that forgets its chain of sums at a start, as where another
// build has run on the data, and applies one message with an octet flipped.
type patient struct {
	*spool.Machine
	forget, flip *atomic.Bool
}

func (p patient) Resume(sum uint64) {
	if !p.forget.CompareAndSwap(true, false) {
		p.Machine.Resume(sum)
	}
}

func (p patient) Apply(b spool.Batch, index uint64, frame spool.Frame) (*pb.Result, error) {
	if frame.Kind() == spool.KindAccept && p.flip.CompareAndSwap(true, false) {
		frame = slices.Clone(frame)
		frame[len(frame)-1] ^= 1
	}
	return p.Machine.Apply(b, index, frame)
}

// clinic makes three nodes, and a fault of each of them that waits to be set.
func clinic(t *testing.T) (*clustertest.Group, map[string]*patient) {
	faults := map[string]*patient{}
	for _, id := range []string{"n1", "n2", "n3"} {
		faults[id] = &patient{forget: new(atomic.Bool), flip: new(atomic.Bool)}
	}
	return clustertest.New(t, clustertest.Options{Load: func(node string) func(spool.Reader) (disk.Machine, error) {
		return func(r spool.Reader) (disk.Machine, error) {
			m, err := spool.Load(r)
			return patient{m, faults[node].forget, faults[node].flip}, err
		}
	}}), faults
}

// alike reports whether all nodes have one chain, at a place that all have passed.
func alike(g *clustertest.Group) bool {
	for _, n := range g.Nodes() {
		if at, _ := n.C().Anchor(); at != 0 {
			if sums := sumsAt(g, at); len(sums) == len(g.Nodes()) {
				return len(slices.Compact(sums)) == 1
			}
		}
	}
	return false
}

func sumsAt(g *clustertest.Group, index uint64) (sums []uint64) {
	for _, n := range g.Nodes() {
		if sum, known := n.C().SumAt(index); known {
			sums = append(sums, sum)
		}
	}
	return sums
}

// forgetful starts a node again without its chain of sums.
func forgetful(t *testing.T, g *clustertest.Group, n *clustertest.Node, faults map[string]*patient, meanwhile func()) {
	require.True(t, n.C().Summed())
	n.Stop()
	meanwhile()
	faults[n.ID].forget.Store(true)
	n.Start()
	require.False(t, faults[n.ID].forget.Load(), "there was a chain to forget")
}

// TestAVoidChainBeginsAnew: a node that has no chain of sums has all states compared by a
// Mark. They are equal, so the chain begins anew on all nodes, and what goes wrong
// afterwards is found as ever.
func TestAVoidChainBeginsAnew(t *testing.T) {
	t.Parallel()
	g, faults := clinic(t)
	l := g.NewLedger()
	victim := g.Followers()[0]
	forgetful(t, g, victim, faults, func() {})
	g.Eventually("the chain does not begin anew", func() bool { return victim.C().Summed() })
	for _, n := range g.Nodes() {
		require.Empty(t, n.C().Diverged(), n.ID)
	}
	g.WaitReady(victim)
	stop := l.Flood(t.Context(), 2, 300, g.Nodes()...)
	defer stop()
	g.Eventually("the chains are not the same", func() bool { return alike(g) })
	faults[victim.ID].flip.Store(true)
	g.Eventually("it does not stand back", func() bool { return victim.C().Diverged() != "" })
	for _, n := range g.Nodes() {
		require.Equal(t, n == victim, n.C().Diverged() != "", n.ID)
	}
}

// TestAVoidChainHidesNothing: the Mark finds a fault from the time without a chain.
func TestAVoidChainHidesNothing(t *testing.T) {
	t.Parallel()
	g, faults := clinic(t)
	l := g.NewLedger()
	victim := g.Followers()[0]
	forgetful(t, g, victim, faults, func() {
		l.MustSend(g.Leader(), 300)
		faults[victim.ID].flip.Store(true) // when it catches up
	})
	g.Eventually("it does not stand back", func() bool { return victim.C().Diverged() != "" })
	require.False(t, victim.C().Summed(), "no chain begins on different states")
	for _, n := range g.Nodes() {
		require.Equal(t, n == victim, n.C().Diverged() != "", n.ID)
	}
	victim.Stop()
	seen, err := cluster.Inspect(t.Context(), cluster.RecoverOptions{
		Dir: victim.Dir, Log: zap.NewNop(), Tuning: clustertest.Quick(),
	})
	require.NoError(t, err)
	require.Contains(t, seen.Diverged, "differs from ", "whoever recovers it is told")
}
