package limit

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLimitsAsText(t *testing.T) {
	for text, want := range map[string]string{
		"site:Google connections=10 rate=50/s":      "site:google connections=10 rate=50/s",
		"domain:x.example recipients=1000/h":        "domain:x.example recipients=1000/h",
		"route:smtp:Hop:25 per-connection=5 ":       "route:smtp:Hop:25 per-connection=5",
		"site:* rate=5000/d burst=20 connections=1": "site:* connections=1 rate=5000/d burst=20",
		"domain:Bücher.Example. rate=1/s":           "domain:xn--bcher-kva.example rate=1/s",
		"domain:a_b.Example rate=1/s":               "domain:a_b.example rate=1/s",
		"domain:* rate=1/s":                         "domain:* rate=1/s",
		"route:lmtp:[::1]:24 connections=1":         "route:lmtp:[::1]:24 connections=1",
	} {
		l, err := Parse(text)
		require.NoError(t, err, text)
		require.Equal(t, want, l.String())
		again, err := Parse(l.String())
		require.NoError(t, err)
		require.Equal(t, l, again)
	}
	for text, why := range map[string]string{
		"":                             "names nothing",
		"google connections=1":         "is not site:NAME",
		"site: connections=1":          "is not site:NAME",
		"site:x":                       "limits nothing",
		"site:x burst=5":               "needs a rate",
		"site:x connections=0":         "give 1 to",
		"site:x connections=-1":        "give 1 to",
		"site:x rate=50":               "is not a rate",
		"site:x rate=0/s":              "is not a rate",
		"site:x rate=1/w":              "is not a rate",
		"site:x rate=1000000/s":        "too fast",
		"site:x colour=red":            "is none of",
		"site:x rate=5/s burst=1":      "give 2 to",
		"site:x connections=999999999": "give 1 to",
		"domain:*.test rate=1/s":       "is not a domain",
		"site:x\x1b[31m rate=1/s":      "is not the name of a site",
		"route:127.0.0.1:25 rate=1/s":  "is not the target of a route",
	} {
		_, err := Parse(text)
		require.ErrorContains(t, err, why, text)
	}
	_, err := ParseSet([]string{"site:x rate=1/s", "site:X rate=2/s"})
	require.ErrorContains(t, err, "limit 2: site:x has one already")
	none, err := ParseSet(nil)
	require.NoError(t, err)
	require.Nil(t, none)
}

func TestTheNearestLimitCounts(t *testing.T) {
	set, err := ParseSet([]string{"site:* connections=5", "site:google connections=10"})
	require.NoError(t, err)
	l, ok := set.Of("site:google")
	require.True(t, ok)
	require.Equal(t, 10, l.Connections)
	l, ok = set.Of("site:other")
	require.True(t, ok)
	require.Equal(t, Limit{Key: "site:other", Connections: 5}, l)
	_, ok = set.Of("domain:google")
	require.False(t, ok)
}

// TestALifeKeepsTheBurst: in no span there are more than the burst and what the rate brings.
func TestALifeKeepsTheBurst(t *testing.T) {
	fast := Rate{N: 50, Per: time.Second}
	require.Equal(t, 220*time.Millisecond, fast.life(0)) // 12 at once
	require.Equal(t, time.Second, Rate{N: 1, Per: time.Second}.life(0))
	require.Equal(t, 99*20*time.Millisecond, fast.life(100))
}

// TestGatesAreForgotten: those that no destination has, and that nothing was asked of for a while.
func TestGatesAreForgotten(t *testing.T) {
	now := time.Hour
	s := NewGates(func() time.Duration { return now }, func() {})
	set, err := ParseSet([]string{"domain:* rate=1/s"})
	require.NoError(t, err)
	s.SetLimits(set)
	had, kept := s.For("domain:a.example")[0], s.For("domain:b.example")[0]
	had.Attached(1)
	kept.Attached(1)
	now += unused
	_, busy := s.Ask(1)
	require.False(t, busy)
	require.Len(t, s.List(), 2)
	had.Attached(-1)
	_, _ = s.Ask(1)
	require.Equal(t, []*Gate{kept}, s.List())
	had.Attached(1)
	require.Len(t, s.List(), 2, "a destination that had it all the time")
}

// TestLimitsGoWhileTheyAreLookedUp: an operator takes the last limit away while jobs look for theirs.
func TestLimitsGoWhileTheyAreLookedUp(t *testing.T) {
	s := NewGates(func() time.Duration { return 0 }, func() {})
	set, err := ParseSet([]string{"domain:x.test rate=1/s"})
	require.NoError(t, err)
	var all sync.WaitGroup
	var ended atomic.Bool
	for range 4 {
		all.Go(func() {
			for !ended.Load() {
				s.For("domain:x.test")
			}
		})
	}
	for range 20_000 {
		s.SetLimits(set)
		s.SetLimits(nil)
	}
	ended.Store(true)
	all.Wait()
	require.Empty(t, s.For("domain:x.test"))
}
