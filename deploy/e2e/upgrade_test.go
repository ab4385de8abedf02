package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pinned builds the last build of cluster version 1, whose commit the file PINNED
// has, from the history, once a machine.
func pinned(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("PINNED")
	require.NoError(t, err)
	commit := strings.TrimSpace(string(b))
	if exec.Command("git", "cat-file", "-e", commit+"^{commit}").Run() != nil {
		t.Skipf("this clone's history does not reach %s, which the upgrade begins at: fetch all of it with 'git fetch "+
			"--unshallow'", commit)
	}
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	bin := filepath.Join(cache, "relay-e2e", commit)
	if _, err := os.Stat(filepath.Join(bin, "relayctl")); err == nil {
		return bin
	}
	src := t.TempDir()
	archive := exec.Command("sh", "-c", `cd "$(git rev-parse --show-toplevel)" && git archive "$1" | tar -x -C "$2"`, "sh", commit, src)
	out, err := archive.CombinedOutput()
	require.NoError(t, err, "%s", out)
	build := exec.Command("go", "build", "-o", filepath.Join(src, "bin")+"/", "./cmd/...")
	build.Dir = src
	out, err = build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.MkdirAll(filepath.Dir(bin), 0o755))
	require.NoError(t, os.RemoveAll(bin))
	require.NoError(t, exec.Command("cp", "-r", filepath.Join(src, "bin"), bin).Run())
	return bin
}

// replace kills a node and starts it with other programs.
func (d *Dev) replace(node int, bin string) {
	d.t.Helper()
	d.kill(node)
	d.bin = bin
	d.revive(node, "")
	d.well(node)
}

// well waits until all is well again behind the start of a node, and tells what
// is not.
func (d *Dev) well(node int) {
	d.t.Helper()
	defer func() {
		if d.t.Failed() {
			out, err := d.Try("", d.bin+"/relayctl", "status")
			d.t.Logf("n%d runs %s: %s %v\n%s", node, d.bin, out, err,
				tail(filepath.Join(d.Dir, fmt.Sprintf("n%d", node), "log"), 3000))
		}
	}()
	d.healthy(90 * time.Second)
}

func (d *Dev) clusterVersion(node int) (v int) {
	d.t.Helper()
	var s struct {
		Version int `json:"cluster_version"`
	}
	out, err := d.Try("", d.bin+"/relayctl", "status", "--addr", "http://"+d.Addr(node, Admin), "-o", "json")
	require.NoError(d.t, err, out)
	require.NoError(d.t, json.Unmarshal([]byte(out), &s))
	return s.Version
}

// TestUpgrade: three nodes of the last build of version 1 are replaced one by one
// under load, go back, come again, raise the version, and refuse the old build. No
// mail is lost or doubled, and no mailbox has two holders.
func TestUpgrade(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1 to run the end-to-end tests")
	}
	old := pinned(t)
	now, err := binaries()
	require.NoError(t, err)
	d := &Dev{t: t, bin: old, Dir: t.TempDir(), basePort: freeBase(t)}
	d.run("--restart-after", "0")
	t.Cleanup(d.Stop)
	d.fillBob(1000)
	mail, fight, accounts := d.busy()

	for node := 1; node <= 3; node++ {
		d.replace(node, now)
		if node == 1 {
			d.emptyBob(node)
			d.Ctl("cluster", "upgrade", "--hold", "--addr", "http://"+d.Addr(node, Admin))
		}
	}
	require.Equal(t, 1, d.clusterVersion(1))
	d.verify()
	for node := 1; node <= 3; node++ {
		d.replace(node, old)
	}
	for node := 1; node <= 3; node++ {
		d.replace(node, now)
	}
	_, err = d.Try("", d.bin+"/relayctl", "cluster", "upgrade")
	require.ErrorContains(t, err, "held", "over all of this")
	d.Ctl("cluster", "upgrade", "--release")
	d.Ctl("cluster", "upgrade")
	for node := 1; node <= 3; node++ {
		d.Await(20*time.Second, "the version is raised", func() bool { return d.clusterVersion(node) == 2 })
	}

	d.kill(3)
	d.bin = old
	d.revive(3, "")
	pid := d.PID(3)
	d.Await(60*time.Second, "the old build ends", func() bool { return dead(pid) })
	d.bin = now
	d.revive(3, "")
	d.well(3)
	d.settle(mail, fight, accounts)
}

func (d *Dev) fillBob(n int) {
	d.t.Helper()
	c, err := dialSMTP(d.Addr(1, SMTP), 20*time.Second)
	require.NoError(d.t, err)
	defer c.close()
	for range n {
		_, err := c.send("alice@example.test", []string{"bob@example.test"}, message("to-delete"))
		require.NoError(d.t, err)
	}
}

// emptyBob deletes all of bob's messages in one session.
func (d *Dev) emptyBob(node int) {
	d.t.Helper()
	p := login(d.t, d.Addr(node, POP3), "bob", "secret")
	for n := p.count(); n > 0; n-- {
		p.say("DELE " + itoa(n))
	}
	p.quit()
}

// TestRollingRestartStaysQuick: to ask the others whether its directory is the newest
// costs a node that is restarted in order less than a second, against the last build
// that did not ask.
func TestRollingRestartStaysQuick(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1 to run the end-to-end tests")
	}
	old := pinned(t)
	now, err := binaries()
	require.NoError(t, err)
	var took [2][]time.Duration
	for i, bin := range []string{old, now} {
		d := &Dev{t: t, bin: bin, Dir: t.TempDir(), basePort: freeBase(t)}
		d.run("--restart-after", "0")
		t.Cleanup(d.Stop)
		for round := range 2 {
			for node := 1; node <= 3; node++ {
				d.healthy(60 * time.Second)
				d.halt(node)
				began := d.revive(node, "")
				d.ready(node, 60*time.Second)
				took[i] = append(took[i], time.Since(began))
				t.Logf("%s: n%d, round %d: ready %s after its start", filepath.Base(bin), node, round+1, seconds(time.Since(began)))
			}
		}
		d.Stop()
		slices.Sort(took[i])
	}
	before, after := took[0][3], took[1][3]
	t.Logf("medians: %s before, %s now", seconds(before), seconds(after))
	require.Less(t, after-before, time.Second)
}
