package cluster_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/cluster/clustertest"
	"relay/cluster/spool"
)

// TestNobodyKnowsWhoseClockIsWrong: a node without a leader was off for an hour, by its
// own clock, and compares that with nothing. With the others back and off as long, no
// clock is wrong, before the time has jumped as afterwards; one that is an hour off from
// them is.
func TestNobodyKnowsWhoseClockIsWrong(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	n := g.Node(0)
	g.Eventually("it compares", func() bool { _, known := n.C().CompareClock(); return known })
	for _, m := range g.Nodes() {
		m.KillHere()
		m.Skew(time.Hour)
	}
	n.Start()
	until := time.Now().Add(2 * clustertest.Quick().Heartbeat)
	for ; time.Now().Before(until); <-time.After(10 * time.Millisecond) {
		require.InDelta(t, time.Hour, n.C().Clock().Offset, float64(time.Minute), "to where the state's time stood")
		_, known := n.C().CompareClock()
		require.False(t, known, "without a leader")
	}
	for _, m := range g.Nodes()[1:] {
		m.Start()
	}
	var wrong time.Duration // what it would have said
	g.Eventually("the time jumps", func() bool {
		offset, known := n.C().CompareClock()
		if known {
			wrong = max(wrong, offset.Abs())
		}
		return known && n.C().Clock().Offset.Abs() < time.Second
	})
	require.Less(t, wrong, 5*time.Second, "no clock of three is wrong")
	n.Skew(2 * time.Hour)
	g.Eventually("its clock is wrong", func() bool {
		offset, known := n.C().CompareClock()
		return known && offset > 59*time.Minute
	})
}

// TestStatusGoesByClocksOfNow: after all nodes were off for an hour no node's clock is
// wrong, though their last renewals are an hour from the first ones, and the state's time
// stands still until a majority has told its clocks.
func TestStatusGoesByClocksOfNow(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	for _, m := range g.Nodes() {
		m.KillHere()
		m.Skew(time.Hour)
	}
	for _, m := range g.Nodes() {
		m.Start()
	}
	n, worst, raw := g.Node(0), time.Duration(0), time.Duration(0)
	g.Eventually("the time jumps", func() bool {
		s, err := n.C().Status(t.Context())
		require.NoError(t, err)
		for _, m := range s.Members {
			worst = max(worst, m.ClockOffset.Abs())
		}
		require.NoError(t, n.C().View(func(v spool.View) error {
			all, err := v.Sessions()
			for _, s := range all {
				raw = max(raw, time.Duration(s.WallMs-s.RenewedMs)*time.Millisecond)
			}
			return err
		}))
		return n.C().Clock().Jumps > 0 && n.C().Clock().Offset.Abs() < time.Second
	})
	require.Less(t, worst, 5*time.Second, "no clock of three is wrong")
	require.Greater(t, raw, 59*time.Minute, "the sessions themselves say so")
	n.Skew(3 * time.Hour)
	g.Eventually("its clock is wrong", func() bool {
		s, err := g.Node(1).C().Status(t.Context())
		return err == nil && s.Members[0].ID == n.ID && s.Members[0].ClockOffset > 119*time.Minute
	})
}

// TestARemovedNodesClockIsNotJudged: it was off for an hour, and its copy of the state's
// time is as old; it says nothing of clocks until it ends.
func TestARemovedNodesClockIsNotJudged(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	leader, gone := g.Leader(), g.Followers()[0]
	gone.KillHere()
	g.Eventually("its session ends", func() bool {
		s, err := leader.C().Status(t.Context())
		return err == nil && !s.Members[slices.IndexFunc(s.Members, func(m cluster.MemberStatus) bool {
			return m.ID == gone.ID
		})].Live
	})
	g.Remove(leader, gone.ID)
	gone.Skew(time.Hour)
	gone.Start()
	c := gone.C()
	g.Eventually("it is told", func() bool {
		_, known := c.CompareClock()
		require.False(t, known)
		return gone.Fatal() != nil
	})
}

// TestAMajorityBehindIsWrong: the state's time goes on while two of three clocks are behind,
// and status names those two alone, as their own logs do.
func TestAMajorityBehindIsWrong(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	right, wrong := g.Node(0), []*clustertest.Node{g.Node(1), g.Node(2)}
	for _, by := range []time.Duration{45 * time.Second, 10 * 24 * time.Hour} {
		for _, n := range wrong {
			n.Skew(-by)
		}
		g.Eventually("the two are named, and the right one is not", func() bool {
			s, err := right.C().Status(t.Context())
			return err == nil && s.Members[0].ID == right.ID && s.Members[0].ClockOffset.Abs() < 5*time.Second &&
				s.Members[1].ClockOffset < 2*time.Second-by && s.Members[2].ClockOffset < 2*time.Second-by
		})
		for _, n := range wrong {
			require.Less(t, compared(g, n), 2*time.Second-by)
		}
		require.Less(t, compared(g, right).Abs(), 5*time.Second)
	}
}

// compared is what a node says of its clock once it has a leader.
func compared(g *clustertest.Group, n *clustertest.Node) (offset time.Duration) {
	g.Eventually(n.ID+" does not compare", func() (known bool) {
		offset, known = n.C().CompareClock()
		return known
	})
	return offset
}

// TestTimeIsNotFoundInOldClocks: a node that comes back after the whole cluster was off for
// 20 s has not found the time in the clocks that were told before that, so that it makes the
// time jump when it leads.
func TestTimeIsNotFoundInOldClocks(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	g.WaitReady(g.Nodes()...)
	follows := func(m *clustertest.Node) bool { return m != g.Leader() }
	n := g.Nodes()[slices.IndexFunc(g.Nodes(), follows)]
	g.Eventually("the time is found", n.C().FindTime)
	others := slices.DeleteFunc(slices.Clone(g.Nodes()), func(m *clustertest.Node) bool { return m == n })
	for _, m := range append([]*clustertest.Node{n}, others...) { // n stops first, in the term in which it was told
		m.Stop()
		m.Skew(20 * time.Second)
	}
	n.Start()
	require.Empty(t, n.C().Leader())
	require.False(t, n.C().FindTime(), "in the clocks of before")
	for _, m := range others {
		m.Start()
	}
	for _, m := range g.Nodes() {
		g.Eventually("the time jumps", func() bool { return m.C().Clock().Offset.Abs() < 5*time.Second })
	}
	g.Eventually("the time is found", n.C().FindTime)
}
