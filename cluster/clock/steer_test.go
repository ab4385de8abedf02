package clock

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

// course is a cluster's time in a test: a state that follows the stamps as Apply
// does, voters with wall clocks, and the leader's steering.
type course struct {
	t      require.TestingT
	boot   time.Duration
	truth  int64 // what time it is
	state  int64
	index  uint64
	skew   map[string]time.Duration
	dead   map[string]bool
	stamps Stamper
	ts     pb.TimeState
	jumps  int
	st     *Steering
	lost   bool // the answers to Clocks are lost
	silent bool // the time jumped in the last second, and the leader got no answer
}

func newCourse(t require.TestingT, voters int) *course {
	c := &course{
		t: t, boot: time.Hour, truth: 1_900_000_000_000, index: 10, skew: map[string]time.Duration{}, dead: map[string]bool{},
	}
	for i := range voters {
		c.skew[fmt.Sprint("n", i+1)] = 0
	}
	c.state = c.truth
	c.stamps.quick = func() time.Duration { return c.boot }
	c.beginTerm(c.truth, false)
	return c
}

// beginTerm begins a leader's term that goes on from a time.
func (c *course) beginTerm(now int64, first bool) {
	c.index++
	c.st = &Steering{
		Barrier: c.index, First: first, Late: first, Tuning: tuning.Tuning{}.WithDefaults(), Now: c.stamps.Now,
		Slew: c.stamps.Slew,
		Base: c.stamps.Rebase,
		Boot: c.stamps.quick, Clock: func() int64 { return c.state }, Jump: c.jump,
	}
	c.state = now
	require.True(c.t, c.st.Begin(context.Background(), func() (Instant, error) { return c.instant(), nil },
		func(Stamping) {}))
}

func (c *course) jump(_ context.Context, h *pb.Clock) uint64 {
	if d := h.FromMs - c.state; d > 5000 || d < -5000 {
		return 0
	}
	c.index++
	c.state, c.ts.JumpedIndex, c.ts.JumpedMs = h.ToMs, c.index, h.ToMs
	c.jumps++
	if c.lost {
		return 0
	}
	return c.index
}

func (c *course) voters() (ids []string) {
	for id := range c.skew {
		ids = append(ids, id)
	}
	return ids
}

// instant lets each living voter renew.
func (c *course) instant() Instant {
	in := Instant{State: c.state, Time: &pb.TimeState{JumpedIndex: c.ts.JumpedIndex}, Voters: c.voters(), Second: true}
	for id, skew := range c.skew {
		if !c.dead[id] {
			c.index++
			in.Sessions = append(in.Sessions, &pb.Session{
				Node: id, Renewed: c.index, RenewedMs: c.state, WallMs: c.truth + skew.Milliseconds(),
			})
		}
	}
	return in
}

// run lets seconds pass, and checks at each that the time runs between 0.9 and
// 1.1 of real time but for jumps.
func (c *course) run(seconds int) {
	for range seconds {
		before, jumps, unheard := c.state, c.jumps, c.silent
		c.boot += time.Second
		c.truth += 1000
		if at := c.stamps.Stamp(); at > c.state && at-c.state <= 60_000 {
			c.state = at
		}
		if !unheard { // else the next round sees that it has jumped
			require.InDelta(c.t, 1000, c.state-before, 101)
		}
		c.st.Round(context.Background(), c.instant())
		c.silent = c.lost && c.jumps != jumps
	}
}

func (c *course) off() time.Duration { return time.Duration(c.state-c.truth) * time.Millisecond }

func TestOneWrongClockMovesNothing(t *testing.T) {
	for _, by := range []time.Duration{
		-240 * time.Hour, -2 * time.Hour, -45 * time.Second, 45 * time.Second, 2 * time.Hour, 240 * time.Hour,
	} {
		c := newCourse(t, 3)
		c.skew["n1"] = by
		c.run(1200)
		require.Zero(t, c.jumps, "%s", by)
		require.InDelta(t, 0, c.off(), float64(250*time.Millisecond), "%s", by)
	}
}

func TestTwoThatDifferAreNotJudged(t *testing.T) {
	c := newCourse(t, 2)
	c.skew["n2"] = 2 * time.Hour
	c.run(1200)
	require.Zero(t, c.jumps)
	require.InDelta(t, 0, c.off(), float64(250*time.Millisecond))
}

// TestAMajorityIsFollowed: slowly up to a minute, forward by a jump after ten
// seconds, back after ten minutes.
func TestAMajorityIsFollowed(t *testing.T) {
	c := newCourse(t, 3)
	c.skew["n1"], c.skew["n2"] = 45*time.Second, 45*time.Second
	c.run(1500)
	require.Zero(t, c.jumps)
	require.InDelta(t, 45*time.Second, c.off(), float64(300*time.Millisecond))

	c.skew["n1"], c.skew["n2"] = 2*time.Hour, 2*time.Hour
	c.run(9)
	require.Zero(t, c.jumps)
	c.run(4)
	require.Equal(t, 1, c.jumps)
	require.InDelta(t, 2*time.Hour, c.off(), float64(time.Second))

	c.skew["n1"], c.skew["n2"] = 0, 0
	c.run(590)
	require.Equal(t, 1, c.jumps, "not back before ten minutes")
	c.run(30)
	require.Equal(t, 2, c.jumps)
	require.InDelta(t, 0, c.off(), float64(time.Second))
}

func TestAfterAColdStart(t *testing.T) {
	c := newCourse(t, 3)
	c.truth += (72 * time.Hour).Milliseconds() // all were off for three days
	c.beginTerm(c.state, true)
	c.run(4)
	require.Equal(t, 1, c.jumps)
	require.InDelta(t, 0, c.off(), float64(time.Second))
}

// TestAfterAllWereOff: a cluster that was off for half a minute is not told for
// minutes that all clocks are wrong; a step of the clocks later on is slewed.
func TestAfterAllWereOff(t *testing.T) {
	c := newCourse(t, 3)
	c.beginTerm(c.truth-30_000, true)
	c.run(5)
	require.Equal(t, 1, c.jumps)
	require.InDelta(t, 0, c.off(), float64(time.Second))
	for id := range c.skew {
		c.skew[id] = 30 * time.Second
	}
	c.run(30)
	require.Equal(t, 1, c.jumps)
}

// TestASuspendIsCaughtUpWith: the boot clock ran on, and stamps that are more than
// a minute ahead would move nothing for ever.
func TestASuspendIsCaughtUpWith(t *testing.T) {
	for _, lost := range []bool{false, true} {
		c := newCourse(t, 1)
		c.run(5)
		c.lost = lost
		c.boot += 8 * time.Hour
		c.truth += (8 * time.Hour).Milliseconds()
		c.st.Round(context.Background(), c.instant())
		c.run(3)
		require.Equal(t, 1, c.jumps)
		require.InDelta(t, 0, c.off(), float64(2*time.Second))
	}
}

// TestSteering: whatever clocks do, deaths and changes of the leader: the time runs
// between 0.9 and 1.1 of real time but for jumps, none comes without a majority
// that agrees on it, and it is near a majority that has agreed for long enough.
func TestSteering(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCourse(t, rapid.IntRange(1, 5).Draw(t, "voters"))
		ids := c.voters()
		slices.Sort(ids)
		skews := []time.Duration{0, 0, 0, time.Second, -45 * time.Second, 2 * time.Hour, -2 * time.Hour, 240 * time.Hour}
		for range rapid.IntRange(1, 12).Draw(t, "events") {
			id := rapid.SampledFrom(ids).Draw(t, "node")
			switch rapid.IntRange(0, 4).Draw(t, "event") {
			case 0, 1:
				c.skew[id] = rapid.SampledFrom(skews).Draw(t, "skew")
			case 2:
				c.dead[id] = !c.dead[id]
			case 3:
				c.beginTerm(c.state, rapid.Bool().Draw(t, "first"))
			case 4:
				c.lost = rapid.Bool().Draw(t, "answers are lost")
			}
			before := c.jumps
			_, ok := Agreed(Offsets(c.instant().Sessions, ids, 0), len(ids))
			c.run(rapid.IntRange(1, 30).Draw(t, "seconds"))
			if !ok {
				require.Equal(t, before, c.jumps, "no majority, no jump")
			}
		}
		c.lost = false
		median, ok := Agreed(Offsets(c.instant().Sessions, ids, 0), len(ids))
		if !ok {
			return
		}
		want := c.state + median.Milliseconds() - c.truth
		c.run(15)
		if median > 0 {
			require.LessOrEqual(t, time.Duration(want-(c.state-c.truth))*time.Millisecond, time.Minute,
				"forward within ten seconds")
		}
		c.run(620)
		require.InDelta(t, want, c.state-c.truth, 61_000, "back within ten minutes")
	})
}
