package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// slowed builds relayd with a disk that the file slow in a node's directory makes slow at
// any moment.
var slowed = sync.OnceValues(func() (string, error) { return overlaid("slowed", slowOverlay) })

// slowOverlay gives cluster.Open a disk of that kind.
func slowOverlay(dir string) (map[string]string, error) {
	const begin = "func Open(o Options) (*Cluster, error) {\n"
	return patch(dir, "cluster", "cluster.go", begin, begin+"\to.SlowDisk = slowDisk\n", "slow.go.txt")
}

// startSlow is Start of a cluster whose disks can be made slow.
func startSlow(t *testing.T) *Dev {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1 to run the end-to-end tests")
	}
	bin, err := slowed()
	require.NoError(t, err)
	d := &Dev{t: t, bin: bin, Dir: t.TempDir(), basePort: freeBase(t)}
	d.run("--restart-after", "0")
	t.Cleanup(d.Stop)
	return d
}

// slow makes each write to the log of some nodes take so much longer.
func (d *Dev) slow(by time.Duration, nodes ...int) {
	d.t.Helper()
	for _, node := range nodes {
		require.NoError(d.t, os.WriteFile(filepath.Join(d.home(node), "slow"), []byte(itoa(int(by.Milliseconds()))), 0o644))
	}
}

// TestSlowSyncs: each sync of all three nodes takes half a second longer. All serve all
// the time: no session ends, no mail is lost or doubled, and no mailbox has two holders.
// RELAY_FAR says for how long (60s).
func TestSlowSyncs(t *testing.T) {
	d := startSlow(t)
	long := time.Minute
	if text := os.Getenv("RELAY_FAR"); text != "" {
		var err error
		long, err = time.ParseDuration(text)
		require.NoError(t, err, "RELAY_FAR")
	}
	d.Stop()
	for node := 1; node <= 3; node++ {
		d.edit(node, func(text string) string {
			text = regexp.MustCompile(`(?m)^latency = .*\n`).ReplaceAllString(text, "")
			return clusterKey(text, `latency = "500ms"`)
		})
	}
	d.Restart("--restart-after", "0")
	d.healthy(60 * time.Second)
	mail, fight, accounts := d.busy()
	before := d.lapses()
	d.slow(500*time.Millisecond, 1, 2, 3)
	took := d.serves(long)
	require.Equal(t, before, d.lapses(), "a session ended")
	require.Greater(t, took, time.Second/2, "the disks were not slow")
	t.Logf("all nodes served for %s; a message took %s", long, seconds(took))
	d.slow(0, 1, 2, 3)
	d.settle(mail, fight, accounts)
	require.Equal(t, before, d.lapses())
}

// serves wants each node ready for so long, and returns how long a message took at least.
func (d *Dev) serves(long time.Duration) (took time.Duration) {
	d.t.Helper()
	took = long
	for end := time.Now().Add(long); time.Now().Before(end); pause(d, time.Second) {
		for node := 1; node <= 3; node++ {
			require.NoError(d.t, d.call(node, "GET", "/readyz", nil, nil), "n%d does not serve", node)
		}
		began := time.Now()
		submit(d.t, d, 1, "bob@example.test", "slow")
		took = min(took, time.Since(began))
	}
	return took
}

// TestAllWereOff: all nodes are killed, and started again half a minute later. The time
// catches up by one jump, nobody's clock is called wrong any longer than that takes, and
// mail goes out at once. Nothing is lost, doubled or held twice.
func TestAllWereOff(t *testing.T) {
	d := Start(t, "--restart-after", "0")
	mail, fight, accounts := d.busy()
	pause(d, 2*time.Second)
	for node := 1; node <= 3; node++ {
		d.kill(node)
	}
	pause(d, 30*time.Second) // the machine's clock is the subject
	began := time.Now()
	for node := 1; node <= 3; node++ {
		d.revive(node, "")
	}
	d.Await(60*time.Second, "a node takes mail", func() bool {
		return send(d.Addr(1, SMTP), "alice@example.test", []string{"x@example.net"}, message("at-once")) == nil
	})
	taken := time.Now()
	d.AwaitSink("Subject: at-once")
	require.Less(t, time.Since(taken), late)
	t.Logf("mail was taken %s after the start, and out %s later", seconds(taken.Sub(began)), seconds(time.Since(taken)))
	d.healthy(60 * time.Second)
	healthy := time.Since(began)
	t.Logf("healthy %s after the start", seconds(healthy))
	require.Less(t, healthy, 30*time.Second)
	var jumps []string
	for node := 1; node <= 3; node++ {
		jumps = append(jumps, d.logged(node, "the state's time has jumped")...)
		require.Empty(t, d.logged(node, "'s clock is "), "n%d: no clock of three is wrong", node)
	}
	require.Len(t, jumps, 1)
	t.Logf("%s", jumps[0])
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); pause(d, 500*time.Millisecond) {
		s, err := d.status(1)
		require.NoError(t, err)
		for _, p := range s.Problems {
			require.NotContains(t, p, "'s clock is ")
		}
	}
	d.settle(mail, fight, accounts)
}
