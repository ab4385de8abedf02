package propose

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

func verdict(t testing.TB) spool.Frame { return frame(t, spool.KindSettle, &pb.Settle{Node: "n"}, 0) }

func lock(t testing.TB) spool.Frame { return frame(t, spool.KindLock, &pb.TakeLock{}, 0) }

// TestASettleGoesWithTheNextProposal while others propose; on its own it waits for no more
// than two lingers, and not at all where nobody proposes.
func TestASettleGoesWithTheNextProposal(t *testing.T) {
	const most = 2 * time.Millisecond
	for name, c := range map[string]struct {
		rest    time.Duration // since the last other proposal
		next    time.Duration // until the next one; 0: there is none
		tune    tuning.Tuning
		entries int
		after   time.Duration // the Settle came
	}{
		"another comes":              {rest: time.Millisecond, next: time.Millisecond, entries: 2, after: time.Millisecond},
		"another comes too late":     {rest: time.Millisecond, next: 3 * time.Millisecond, entries: 1, after: most},
		"none comes":                 {rest: 7 * time.Millisecond, entries: 1, after: most},
		"nobody has come for long":   {rest: 9 * time.Millisecond, next: time.Millisecond, entries: 1},
		"nobody ever waits by order": {rest: time.Millisecond, tune: tuning.Tuning{Linger: -1}, entries: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newFakeRaft()
				g := runBatcher(t, r, c.tune)
				propose := func(f spool.Frame) { g.submit(&newCall(f).proposal) }
				later := lock(t)
				propose(lock(t))
				finish(next(t, r, 1), nil)
				time.Sleep(c.rest)
				began := time.Now()
				propose(verdict(t))
				if c.next > 0 {
					time.AfterFunc(c.next, func() { propose(later) })
				}
				group := next(t, r, 1)
				require.Equal(t, c.after, time.Since(began))
				synctest.Wait()
				require.Len(t, r.came, c.entries-1)
				finish(group, nil)
			})
		})
	}
}

// TestAProposalNeverWaitsForASettle, nor for one that was withdrawn.
func TestAProposalNeverWaitsForASettle(t *testing.T) {
	now := time.Now()
	c := company{longest: time.Second}
	require.False(t, c.queued(lock(t), now))
	require.Zero(t, c.wait(1, now))
	require.True(t, c.queued(verdict(t), now))
	require.True(t, c.queued(verdict(t), now.Add(time.Second/2)))
	require.Equal(t, time.Second/4, c.wait(2, now.Add(3*time.Second/4)), "the first of them counts")
	require.Zero(t, c.wait(3, now), "the third is no Settle")
	for range 2 {
		c.left(&proposal{patient: true})
	}
	c.left(&proposal{})
	require.Zero(t, c.wait(0, now))
	require.Zero(t, c.patient)
}

// TestRenewalsOfAllNodesShareAGroup: from the second round on the first wait for the last,
// and for no more than longest where one does not come.
func TestRenewalsOfAllNodesShareAGroup(t *testing.T) {
	now := time.Now()
	c := company{longest: 2 * time.Millisecond}
	round := func(n int) (waits []bool) {
		now = now.Add(time.Second)
		for range n {
			waits = append(waits, c.queued(small(t), now))
			now = now.Add(time.Millisecond)
		}
		return waits
	}
	require.Equal(t, []bool{false, false, false}, round(3), "it is not known yet how many come")
	require.Equal(t, []bool{true, true, false}, round(3))
	c.patient = 0
	require.Equal(t, []bool{true, true}, round(2), "one is missing")
	require.Zero(t, c.wait(2, now), "and waited for no longer")
	c.patient = 0
	require.Equal(t, []bool{true, false}, round(2))
	c.patient = 0
	round(1)
	require.Equal(t, []bool{false}, round(1), "a node alone")
	c.patient = 0
	round(companyMost + 1)
	require.NotContains(t, round(3), true, "that is no round")
}
