package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestWipedNode: a node loses its disk, joins again under its old name while
// mail flows, takes the state over, and all nodes hold the same. Nothing is lost,
// doubled or held twice.
func TestWipedNode(t *testing.T) {
	const wiped = 3
	d := Start(t)
	d.Stop()
	for node := 1; node <= 3; node++ {
		d.configure(node, `level = "debug"`) // it tells of snapshots
	}
	d.Restart("--restart-after", "0")
	config := filepath.Join(d.Dir, "n3", "relay.toml")
	kept, err := os.ReadFile(config)
	require.NoError(t, err)
	config = filepath.Join(t.TempDir(), "relay.toml")
	require.NoError(t, os.WriteFile(config, kept, 0o600))

	mail, fight, accounts := d.busy()
	d.kill(wiped)
	require.NoError(t, os.RemoveAll(filepath.Join(d.Dir, "n3")))
	f := startFlow(d, []int{1, 2}, "bob@example.test")
	// So much that the others' logs do not begin at the beginning any more.
	const enough = 9000
	d.Await(120*time.Second, "there is much to catch up with", func() bool { return f.accepted.Load() > enough })
	began := time.Now()
	d.Await(90*time.Second, "the others have cut their logs", func() bool { return d.logCut(1) && d.logCut(2) })
	t.Logf("%d messages were accepted without the node; the logs were cut %s later", enough, seconds(time.Since(began)))

	token := strings.TrimSpace(d.Ctl("node", "token"))
	began = time.Now()
	d.Run("", d.bin+"/relayd", "join", "--config", config, "--token", token,
		fmt.Sprintf("127.0.0.1:%d", d.basePort+100+70))
	t.Logf("joined after %s", seconds(time.Since(began)))
	d.revive(wiped, config)
	d.healthy(90 * time.Second)
	t.Logf("the cluster is healthy %s after the join began, %d messages accepted by then", seconds(time.Since(began)),
		f.accepted.Load())
	took := d.logged(wiped, "switched to a received snapshot")
	require.NotEmpty(t, took, "it took the state over, not the whole log")
	t.Logf("n3: %s", took[0])
	// It serves, and takes part.
	c, err := dialSMTP(d.Addr(wiped, SMTP), 20*time.Second)
	require.NoError(t, err)
	defer c.close()
	_, err = c.send("bob@example.test", []string{"bob@example.test", "x@example.net"}, message("by-the-new"))
	require.NoError(t, err)
	d.AwaitSink("Subject: by-the-new")
	d.verify() // while mail flows
	ids := f.stop()
	d.settle(mail, fight, accounts)

	m, err := open(d.Addr(wiped, POP3), "bob", "secret")
	require.NoError(t, err)
	defer m.close()
	n, err := m.count()
	require.NoError(t, err)
	found := map[string]int{}
	for i := 1; i <= n; i++ {
		text, err := m.retr(i)
		require.NoError(t, err)
		found[idOf(text)]++
	}
	for _, id := range ids {
		require.Equal(t, 1, found[id], "%s on the node that was wiped", id)
	}
	t.Logf("all %d messages are there, read at the node that was wiped", len(ids))
	s, err := d.status(1)
	require.NoError(t, err)
	require.Len(t, s.Nodes, 3)
}

// logCut reports whether a node has taken a snapshot and dropped the beginning
// of its log.
func (d *Dev) logCut(node int) bool {
	return len(d.logged(node, "compacting logs", "DEBUG	snapshot")) > 0
}

// flow is mail to one mailbox from several senders, until it is stopped.
type flow struct {
	d        *Dev
	to       string
	accepted atomic.Int64
	ended    chan struct{}
	wg       sync.WaitGroup
	mu       sync.Mutex
	ids      []string
}

func startFlow(d *Dev, nodes []int, to string) *flow {
	f := &flow{d: d, to: to, ended: make(chan struct{})}
	for i := range 16 {
		f.wg.Go(func() { f.send(nodes[i%len(nodes)]) })
	}
	return f
}

func (f *flow) send(node int) {
	var c *client
	defer func() {
		if c != nil {
			c.close()
		}
	}()
	for i := 0; ; i++ {
		select {
		case <-f.ended:
			return
		default:
		}
		var err error
		var id string
		if c == nil {
			c, err = dialSMTP(f.d.Addr(node, SMTP), 20*time.Second)
		}
		if err == nil {
			id, err = c.send("flow@example.org", []string{f.to}, message(fmt.Sprintf("flow-%d", i)))
		}
		if err != nil {
			if c != nil {
				c.close()
				c = nil
			}
			pause(f.d, 50*time.Millisecond)
			continue
		}
		f.accepted.Add(1)
		f.mu.Lock()
		f.ids = append(f.ids, id)
		f.mu.Unlock()
		if f.accepted.Load() > 12000 { // enough; keep it flowing
			pause(f.d, 50*time.Millisecond)
		}
	}
}

// stop returns the ids of what was accepted.
func (f *flow) stop() []string {
	close(f.ended)
	f.wg.Wait()
	return f.ids
}
