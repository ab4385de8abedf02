package clustertest_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/clustertest"
)

// farTime is how long nodes must keep their sessions; RELAY_FAR sets another
// time, such as 5m.
func farTime(t *testing.T) time.Duration {
	text := os.Getenv("RELAY_FAR")
	if text == "" {
		return 20 * time.Second
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err, "RELAY_FAR")
	return d
}

// TestFarNodesKeepTheirSessions runs clusters with the timing of production, and
// [cluster] latency set, on wires and disks that are slow or bad, under load. All
// three nodes serve all the time, and the locks' history is clean.
func TestFarNodesKeepTheirSessions(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes twenty seconds")
	}
	for _, test := range []struct {
		name    string
		latency time.Duration
		weather clustertest.Weather
		sync    time.Duration
	}{
		{name: "200 ms one way", latency: 200 * time.Millisecond,
			weather: clustertest.Weather{Delay: 190 * time.Millisecond, Jitter: 20 * time.Millisecond}},
		{name: "30 % loss", latency: 200 * time.Millisecond,
			weather: clustertest.Weather{Delay: 5 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.3}},
		{name: "500 ms syncs", latency: 500 * time.Millisecond, sync: 500 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			far(t, test.latency, test.weather, test.sync)
		})
	}
}

func far(t *testing.T, latency time.Duration, weather clustertest.Weather, sync time.Duration) {
	tuning := production()
	tuning.Latency = latency
	h := newLockHistory()
	disk := &slowDisk{}
	g := clustertest.New(t, clustertest.Options{
		Tuning: tuning, OnChanges: h.changed, Weather: &clustertest.Weather{}, SlowDisk: disk.write,
		Verbose: os.Getenv("RELAY_FAR_LOG") != "",
	})
	fight(t, g, h, 2, func() {
		g.SetWeather(weather)
		disk.set(sync)
		g.WaitReady(g.Nodes()...)
		lapses := 0
		end := time.After(farTime(t))
		lost := make([]<-chan struct{}, 3)
		for i, n := range g.Nodes() {
			lost[i] = n.C().SessionLost()
		}
		began := time.Now()
		for waiting := true; waiting; {
			which := -1
			select {
			case <-lost[0]:
				which = 0
			case <-lost[1]:
				which = 1
			case <-lost[2]:
				which = 2
			case <-end:
				waiting = false
			}
			if which >= 0 {
				lapses++
				t.Logf("after %v %s lost its session", time.Since(began), g.Node(which).ID)
				g.WaitReady(g.Node(which))
				lost[which] = g.Node(which).C().SessionLost()
			}
		}
		s, err := g.Node(0).C().Status(t.Context())
		require.NoError(t, err)
		t.Logf("%v: %d lapses; others would take over from a dead node within %v", time.Since(began), lapses, s.Failover)
		require.Zero(t, lapses)
		require.Greater(t, s.Failover, 6*time.Second, "status says that it takes longer here")
		g.SetWeather(clustertest.Weather{}) // so that the rest is quick
		disk.set(0)
	})
}
