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
				later := small(t)
				propose(small(t))
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
	c.queued(small(t), now)
	require.Zero(t, c.wait(1, now))
	c.left(small(t))
	c.queued(verdict(t), now)
	c.queued(verdict(t), now.Add(time.Second/2))
	require.Equal(t, time.Second/4, c.wait(2, now.Add(3*time.Second/4)), "the first of them counts")
	require.Zero(t, c.wait(3, now), "the third is no Settle")
	c.left(verdict(t))
	c.left(verdict(t))
	require.Zero(t, c.wait(0, now))
	require.Zero(t, c.patient)
}
