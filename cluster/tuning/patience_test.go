package tuning

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

func TestFollowersPatienceFollowsTheGaps(t *testing.T) {
	p := NewPace(Tuning{}.WithDefaults())
	require.Equal(t, 1200*time.Millisecond, p.Patience())
	begin := time.Now()
	at := func(d time.Duration) (time.Duration, time.Time) { return time.Hour + d, begin.Add(d) }
	hear := func(d time.Duration, leader string, term uint64) time.Duration {
		now, sign := at(d)
		return p.Hear(now, leader, term, sign)
	}
	require.Equal(t, 1200*time.Millisecond, hear(0, "n1", 3))
	require.Equal(t, 1200*time.Millisecond, hear(500*time.Millisecond, "n1", 3))
	require.Equal(t, 2*time.Second, hear(1500*time.Millisecond, "n1", 3))
	require.Equal(t, 2*time.Second, hear(9*time.Second, "n2", 4), "an election is no gap")
	require.Equal(t, 6*time.Second, hear(19*time.Second, "n2", 4), "no longer than that")
	now, sign := at(19 * time.Second)
	require.Equal(t, 6*time.Second, p.Hear(now+40*time.Second, "n2", 4, sign), "no sign, no gap")
	require.Equal(t, 1200*time.Millisecond, p.Hear(now+80*time.Second, "n2", 4, sign), "a minute later")

	far := NewPace(Tuning{Latency: 200 * time.Millisecond}.WithDefaults())
	require.Equal(t, 2800*time.Millisecond, far.Patience())
	require.Equal(t, 6*time.Second, far.most)
}

// TestElectionsHaveTheTimeThatVotesTake: on slow disks a vote takes longer than raft's
// timer, and each election would be broken off by the next one.
func TestElectionsHaveTheTimeThatVotesTake(t *testing.T) {
	p := NewPace(Tuning{}.WithDefaults())
	now := time.Hour
	require.Equal(t, 1200*time.Millisecond, p.Seek(now))
	p.Voted(now, 3, 100*time.Millisecond, 2)
	require.Equal(t, 1200*time.Millisecond, p.Seek(now))
	p.Voted(now, 3, 9*time.Second, 2)
	require.Equal(t, 1200*time.Millisecond, p.Seek(now), "the majority was there before")
	p.Voted(now, 4, 800*time.Millisecond, 2)
	require.Equal(t, 2400*time.Millisecond, p.Seek(now))
	p.Voted(now, 5, 900*time.Millisecond, 4)
	p.Voted(now, 5, time.Second, 4)
	require.Equal(t, 3*time.Second, p.Seek(now), "of five nodes two others must vote")
	p.Voted(now, 6, time.Minute, 2)
	require.Equal(t, 6*time.Second, p.Seek(now), "no longer than that")
	require.Equal(t, 1200*time.Millisecond, p.Seek(now+2*time.Minute))
}

func TestLeaderSaysThatItsQuorumIsSlow(t *testing.T) {
	p := NewPace(Tuning{}.WithDefaults())
	others := []raft.ServerID{"n2", "n3"}
	begin := time.Now()
	look := func(d time.Duration) { p.Look(time.Hour+d, begin.Add(d), others) }
	p.BeginTerm()
	look(0)
	p.answers["n2"] = begin.Add(400 * time.Millisecond)
	look(900 * time.Millisecond)
	require.Empty(t, p.Trouble(), "n3 is silent, but n2 is enough")
	look(1200 * time.Millisecond)
	require.Contains(t, p.Trouble(),
		"did not answer the leader for 800ms, and after 1s it steps down: set [cluster] latency to 90ms or more")
	p.answers["n3"] = begin.Add(70 * time.Second)
	look(70 * time.Second)
	require.Empty(t, p.Trouble(), "a minute later")
	p.answers["n2"] = begin
	look(71 * time.Second)
	require.NotEmpty(t, p.Trouble())
	p.BeginTerm()
	require.Empty(t, p.Trouble(), "another term")
	p.Answered("n2")
	require.Len(t, p.answers, 1)
}
