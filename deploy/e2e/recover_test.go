package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// clusterPort is the port between nodes, by the numbering of relayd dev.
const clusterPort = 70

// edit changes the text of a node's configuration.
func (d *Dev) edit(node int, change func(text string) string) {
	d.t.Helper()
	path := filepath.Join(d.Dir, "n"+itoa(node), "relay.toml")
	text, err := os.ReadFile(path)
	require.NoError(d.t, err)
	after := change(string(text))
	require.NotEqual(d.t, string(text), after)
	require.NoError(d.t, os.WriteFile(path, []byte(after), 0o600))
}

// clusterKey adds a line to the [cluster] table.
func clusterKey(text, line string) string {
	return strings.Replace(text, "[cluster]\n", "[cluster]\n"+line+"\n", 1)
}

// TestAllNodesAreRenumbered: all three nodes get other cluster ports while they are
// stopped, and find each other by [cluster] peers. Nothing is lost or doubled of the
// mail that came before and after, and no mailbox had two holders.
func TestAllNodesAreRenumbered(t *testing.T) {
	d := Start(t)
	mail, fight, accounts := d.busy()
	pause(d, 3*time.Second)
	d.Stop()
	var peers []string
	for node := 1; node <= 3; node++ {
		peers = append(peers, fmt.Sprintf(`"n%d=%s"`, node, d.Addr(node, clusterPort+1)))
	}
	for node := 1; node <= 3; node++ {
		d.edit(node, func(text string) string {
			text = strings.ReplaceAll(text, d.Addr(node, clusterPort), d.Addr(node, clusterPort+1))
			text = regexp.MustCompile(`(?m)^peers = .*\n`).ReplaceAllString(text, "")
			return clusterKey(text, "peers = ["+strings.Join(peers, ", ")+"]")
		})
	}
	began := time.Now()
	d.Restart()
	d.healthy(30 * time.Second)
	t.Logf("healthy %s after the start", seconds(time.Since(began)))
	pause(d, 3*time.Second)
	d.settle(mail, fight, accounts)
}

// ends waits until a node's process is gone, and returns the last line that it wrote.
func (d *Dev) ends(node int, within time.Duration) string {
	d.t.Helper()
	pid := d.PID(node)
	d.Await(within, fmt.Sprintf("n%d ends", node), func() bool { return dead(pid) })
	text, err := os.ReadFile(filepath.Join(d.Dir, "n"+itoa(node), "log"))
	require.NoError(d.t, err)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// TestRecoverAndBothLostNodes: n1 is recovered alone, n2 and n3 come back together,
// with the quorum of the old cluster. Both end, and say why in their last line;
// nothing that was acknowledged is lost.
func TestRecoverAndBothLostNodes(t *testing.T) {
	t.Parallel()
	d := Start(t)
	f := startFlow(d, []int{1, 2, 3}, "alice@example.test")
	d.Await(60*time.Second, "mail flows", func() bool { return f.accepted.Load() > 300 })
	ids := f.stop()
	d.verify()
	d.Stop()
	dir := filepath.Join(d.Dir, "n1")
	out := d.Run("", d.bin+"/relayd", "recover", "--config", filepath.Join(dir, "relay.toml"),
		"--peers", "n1="+d.Addr(1, clusterPort), "--yes")
	require.Contains(t, out, ".g1-")
	d.revive(1, "")
	d.Await(30*time.Second, "n1 leads alone", func() bool {
		s, err := d.status(1)
		return err == nil && s.Leader == "n1" && len(s.Nodes) == 1
	})
	ids = append(ids, submit(t, d, 1, "alice@example.test", "after"))
	d.revive(2, "")
	d.revive(3, "")
	for _, node := range []int{2, 3} {
		last := d.ends(node, 40*time.Second)
		require.Regexp(t, `^relayd: cluster: the cluster goes on without this node's data.*relayd join`, last)
	}
	s, err := d.status(1)
	require.NoError(t, err)
	require.Equal(t, "n1", s.Leader)
	p := login(t, d.Addr(1, POP3), "alice", "secret")
	found := map[string]int{}
	for i := 1; i <= p.count(); i++ {
		found[idOf(p.retr(i))]++
	}
	p.quit()
	for _, id := range ids {
		require.Equal(t, 1, found[id], "%s", id)
	}
	t.Logf("all %d messages are there, once", len(ids))
}

// TestEmptiedFirstNode: n1 loses its disk, and is started in the way of
// deploy/compose: init --once makes no cluster beside that of n2 and n3, and run
// joins them. Nothing is lost, doubled or held twice meanwhile.
func TestEmptiedFirstNode(t *testing.T) {
	t.Parallel()
	d := Start(t, "--restart-after", "0")
	kept, err := os.ReadFile(filepath.Join(d.Dir, "n1", "relay.toml"))
	require.NoError(t, err)
	mail, fight, accounts := d.busy()
	d.kill(1)
	require.NoError(t, os.RemoveAll(filepath.Join(d.Dir, "n1")))
	elsewhere := t.TempDir()
	config, token := filepath.Join(elsewhere, "relay.toml"), filepath.Join(elsewhere, "token")
	text := regexp.MustCompile(`(?m)^(join|join_token_file|peers) = .*\n`).ReplaceAllString(string(kept), "")
	text = clusterKey(text, fmt.Sprintf("join = [%q, %q]\njoin_token_file = %q",
		d.Addr(2, clusterPort), d.Addr(3, clusterPort), token))
	require.NoError(t, os.WriteFile(config, []byte(text), 0o600))
	require.NoError(t, os.WriteFile(token, []byte(d.Ctl("node", "token")), 0o600))
	out := d.Run("", d.bin+"/relayd", "init", "--once", "--config", config)
	require.Contains(t, out, "there is a cluster already")
	require.NoFileExists(t, filepath.Join(d.Dir, "n1", "identity.json"))
	d.revive(1, config)
	d.healthy(60 * time.Second)
	s, err := d.status(2)
	require.NoError(t, err)
	require.Len(t, s.Nodes, 3)
	d.settle(mail, fight, accounts)
}

// TestLastLineOfAFailedStart: the last line has the reason why a start fails, in one
// sentence with the next step, and is no panic.
func TestLastLineOfAFailedStart(t *testing.T) {
	t.Parallel()
	d := Start(t)
	for range 20 {
		c, err := dialSMTP(d.Addr(1, SMTP), 20*time.Second)
		require.NoError(t, err)
		_, err = c.send("bob@example.test", []string{"alice@example.test"},
			message("large")+strings.Repeat("some octets more\r\n", 2000))
		require.NoError(t, err)
		c.close()
	}
	d.Stop()
	config := filepath.Join(d.Dir, "n2", "relay.toml")
	fails := func(want string) {
		t.Helper()
		out, err := exec.Command(d.bin+"/relayd", "run", "--config", config).CombinedOutput()
		require.Error(t, err, "%s", out)
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		require.Regexp(t, `^relayd: `+want, lines[len(lines)-1])
		require.NotContains(t, string(out), "panic:")
		require.NotContains(t, string(out), "goroutine ")
		if os.Geteuid() == 0 {
			require.Equal(t, 1, strings.Count(string(out), "runs as root"))
		}
	}
	bodies, err := filepath.Glob(filepath.Join(d.Dir, "n2", "state", "*", "*.blob"))
	require.NoError(t, err)
	require.NotEmpty(t, bodies)
	require.NoError(t, os.Rename(bodies[0], bodies[0]+".kept"))
	fails(`.*store is damaged.*\.blob.*is gone: move the data directory away and join this node anew`)
	data, err := os.ReadFile(bodies[0] + ".kept")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(bodies[0], data[:len(data)-9], 0o600))
	fails(`.*store is damaged.*\.blob.*move the data directory away and join this node anew`)
	require.NoError(t, os.WriteFile(bodies[0], data, 0o600))
	log := filepath.Join(d.Dir, "n2", "raft")
	require.NoError(t, os.Rename(log, log+".kept"))
	fails(`.*the raft log of this node is lost.*join`)
	require.NoError(t, os.RemoveAll(log))
	require.NoError(t, os.Rename(log+".kept", log))
	d.edit(2, func(text string) string { return strings.Replace(text, "id = 'n2'", "id = 'n3'", 1) })
	fails(`.*another node's`)
}
