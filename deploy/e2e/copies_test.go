package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fourth is the number of the directory in which a copy of a node runs. Its ports
// are those of node 0, plus one, as the sink has one of the others.
const fourth = 4

// trickle sends parcels through all nodes until stop is called, which returns
// those that were accepted.
func trickle(d *Dev, accounts []string) (stop func() []*parcel) { return trickleFrom(d, accounts, 0) }

// trickleFrom is trickle with parcels from a number on, each of which is sent once.
func trickleFrom(d *Dev, accounts []string, run int) (stop func() []*parcel) {
	const batch = 200 // so many that senders go on beside those whose node holds still
	over, ended := make(chan struct{}), make(chan struct{})
	l := &load{errors: map[string]int{}}
	var all, next []*parcel
	go func() {
		defer close(ended)
		for {
			if len(next) < batch {
				next = parcels(accounts, run)
				run++
			}
			l.play(d, next[:batch])
			all, next = append(all, next[:batch]...), next[batch:]
			select {
			case <-over:
				return
			case <-d.t.Context().Done():
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	return func() []*parcel { close(over); <-ended; return all }
}

// copyDir copies the directory of a node that is stopped or holds still.
func (d *Dev) copyDir(from, to string) {
	d.t.Helper()
	d.Run("", "cp", "-r", from, to)
}

// freeze stops a node's process, does something, and lets it go on.
func (d *Dev) freeze(node int, meanwhile func()) {
	d.t.Helper()
	pid := d.PID(node)
	require.NoError(d.t, syscall.Kill(pid, syscall.SIGSTOP))
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	d.Await(5*time.Second, fmt.Sprintf("n%d holds still", node), func() bool {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err == nil && strings.Contains(string(data), ") T ")
	})
	meanwhile()
}

// halt ends a node in order.
func (d *Dev) halt(node int) {
	d.t.Helper()
	require.NoError(d.t, syscall.Kill(d.PID(node), syscall.SIGTERM))
	d.ends(node, 30*time.Second)
}

// ready waits until one node takes traffic.
func (d *Dev) ready(node int, within time.Duration) {
	d.t.Helper()
	d.Await(within, fmt.Sprintf("n%d is ready", node), func() bool {
		return d.call(node, http.MethodGet, "/readyz", nil, nil) == nil
	})
}

// moved gives the copy of n3's configuration ports and a directory of its own.
func (d *Dev) moved() {
	d.edit(fourth, func(text string) string {
		text = strings.ReplaceAll(text, filepath.Join(d.Dir, "n3"), filepath.Join(d.Dir, "n4"))
		for _, service := range []int{POP3, SMTP, Submissions, clusterPort, Admin, Submission, POP3S} {
			text = strings.ReplaceAll(text, ":"+d.Port(3, service), ":"+d.Port(0, service+1))
		}
		return text
	})
	require.NoError(d.t, os.Remove(filepath.Join(d.Dir, "n4", "log")))
}

// fighters want alice's mailbox, at all nodes and at some addresses more, until
// stop is called.
func fighters(d *Dev, clients int, others ...string) (stop func() *ring) {
	r := &ring{deleted: map[string]int{}, maybe: map[string]int{}, answers: map[string]int{}}
	addrs := append([]string{d.Addr(1, POP3), d.Addr(2, POP3), d.Addr(3, POP3)}, others...)
	over := make(chan struct{})
	var all sync.WaitGroup
	for n := range clients {
		all.Go(func() {
			for d.t.Context().Err() == nil {
				select {
				case <-over:
					return
				case <-time.After(time.Duration(rand.IntN(80)) * time.Millisecond):
				}
				r.session(addrs[rand.IntN(len(addrs))], n)
			}
		})
	}
	return func() *ring { close(over); all.Wait(); return r }
}

// TestCopyOfADirectory: the directory of a running node, which follows or leads,
// is copied, and a second process runs from the copy at other ports. It takes no
// mail, opens no mailbox, and ends; the original goes on. Nothing is lost, doubled
// or held twice.
func TestCopyOfADirectory(t *testing.T) {
	t.Parallel()
	d := Start(t, "--restart-after", "0")
	d.Run("secret\n", d.bin+"/relayctl", "user", "add", "carol@example.test", "--password-stdin")
	fillBox(t, d, "alice", 60)
	accounts := []string{"bob", "carol"}
	mail := trickle(d, accounts)
	fight := fighters(d, 8, d.Addr(0, POP3+1))
	original := d.PID(3)
	for _, leader := range []int{1, 3} {
		d.lead(leader)
		copyEnds(t, d)
		require.Equal(t, original, d.PID(3))
		d.healthy(60 * time.Second)
	}
	d.settle(mail, fight, accounts)
}

// copyEnds runs a copy of n3's directory until it has ended by itself.
func copyEnds(t *testing.T, d *Dev) {
	t.Helper()
	d.freeze(3, func() { d.copyDir(filepath.Join(d.Dir, "n3"), filepath.Join(d.Dir, "n4")) })
	d.moved()
	began := time.Now()
	d.revive(fourth, "")
	acted := make(chan error, 1)
	pid := d.PID(fourth)
	go func() { acted <- d.actsAt(d.Addr(0, SMTP+1), d.Addr(0, POP3+1), pid) }()
	last := d.ends(fourth, 60*time.Second)
	t.Logf("the copy ended after %s: %s", seconds(time.Since(began)), last)
	require.NoError(t, <-acted)
	require.Regexp(t, `^relayd: cluster: this data directory is not the newest of its node: .*join it anew`, last)
	require.Empty(t, d.logged(fourth, "cluster: session begins"), "the copy never has a right to act")
	require.NoError(t, os.RemoveAll(filepath.Join(d.Dir, "n4")))
}

// busy begins mail to new accounts and to the world, and fights for alice's mailbox;
// settle ends both.
func (d *Dev) busy() (mail func() []*parcel, fight func() *ring, accounts []string) {
	d.t.Helper()
	accounts = []string{"carol", "dora"}
	for _, name := range accounts {
		d.Run("secret\n", d.bin+"/relayctl", "user", "add", name+"@example.test", "--password-stdin")
	}
	d.settings(map[string]any{"retry_first_seconds": 2})
	fillBox(d.t, d, "alice", 60)
	return trickle(d, accounts), fighters(d, 4), accounts
}

// settle ends mail and fights, and checks that nothing was lost, doubled or held
// twice.
func (d *Dev) settle(mail func() []*parcel, fight func() *ring, accounts []string) {
	d.t.Helper()
	all, r := mail(), fight()
	r.check(d.t)
	d.t.Logf("%d sessions held the mailbox, %d ended in +OK; refusals: %v", len(r.tenures), r.quits, r.answers)
	d.drained(1, 60*time.Second)
	(&ledger{t: d.t, d: d, copies: map[copyOf]int{}}).check(all, accounts, 0)
	d.verify()
}

// TestCopyOfAFrozenNode: a copy runs while the original holds still, as where a
// machine is moved and its former self wakes up. The copy waits until the rights of
// the original are over, and goes on as n3; the original, awake, ends. Nothing is
// lost, doubled or held twice.
func TestCopyOfAFrozenNode(t *testing.T) {
	t.Parallel()
	d := Start(t, "--restart-after", "0")
	d.Run("secret\n", d.bin+"/relayctl", "user", "add", "carol@example.test", "--password-stdin")
	fillBox(t, d, "alice", 60)
	accounts := []string{"bob", "carol"}
	mail := trickle(d, accounts)
	fight := fighters(d, 8, d.Addr(0, POP3+1))
	began := time.Now()
	d.freeze(3, func() {
		d.copyDir(filepath.Join(d.Dir, "n3"), filepath.Join(d.Dir, "n4"))
		d.moved()
		d.revive(fourth, "")
		d.Await(60*time.Second, "the copy acts", func() bool {
			return len(d.logged(fourth, "cluster: session begins")) > 0
		})
	})
	t.Logf("the copy acts %s after the original was stopped", seconds(time.Since(began)))
	began = time.Now()
	last := d.ends(3, 60*time.Second)
	t.Logf("the original ended %s after it went on: %s", seconds(time.Since(began)), last)
	require.Regexp(t, `^relayd: cluster: this data directory is not the newest of its node: .*join it anew`, last)
	d.Await(60*time.Second, "the cluster is healthy", func() bool {
		s, err := d.status(1)
		return err == nil && s.Healthy && len(s.Nodes) == 3
	})
	d.settle(mail, fight, accounts)
}

// actsAt asks a process that must not act for mail and a mailbox until it is gone,
// and tells what it granted.
func (d *Dev) actsAt(smtp, pop3 string, pid int) error {
	for d.t.Context().Err() == nil && syscall.Kill(pid, 0) == nil {
		if m, err := open(pop3, "alice", "secret"); err == nil {
			m.close()
			return fmt.Errorf("%s opened a mailbox", pop3)
		}
		if c, err := dialSMTP(smtp, 20*time.Second); err == nil {
			id, err := c.send("bob@example.test", []string{"alice@example.test"}, message("astray"))
			c.close()
			if err == nil {
				return fmt.Errorf("%s took a message: %s", smtp, id)
			}
		}
		pause(d, 20*time.Millisecond)
	}
	return nil
}

// quickly is how soon a node must be ready that comes back at its address; it is
// 2 s where the machine has nothing else to do.
const quickly = 3 * time.Second

// TestRestartAtItsAddressIsQuick: a node that comes back after kill -9 does not
// wait for the end of the session that it had.
func TestRestartAtItsAddressIsQuick(t *testing.T) {
	d := Start(t, "--restart-after", "0")
	for _, leads := range []bool{false, true} {
		var took time.Duration
		for try := range 3 { // a machine that is busy at one moment proves nothing
			d.healthy(60 * time.Second)
			victim := d.leader()
			if !leads {
				victim = victim%3 + 1
			}
			d.kill(victim)
			d.Await(30*time.Second, "the others have a leader", func() bool {
				s, err := d.status(victim%3 + 1)
				return err == nil && s.Leader != "" && s.Leader != "n"+itoa(victim)
			})
			began := d.revive(victim, "")
			d.ready(victim, 60*time.Second)
			took = time.Since(began)
			t.Logf("n%d (leader: %v), try %d: ready %s after its start", victim, leads, try+1, seconds(took))
			if took < quickly {
				break
			}
		}
		require.Less(t, took, quickly)
	}
	d.healthy(60 * time.Second)
	d.verify()
}

// TestDirectoryFromThePast: a node's directory is restored from a copy of before
// its last start, and from one of after it. Both are refused, also while mail
// flows; the newest one goes on.
func TestDirectoryFromThePast(t *testing.T) {
	t.Parallel()
	d := Start(t, "--restart-after", "0")
	dir, kept := filepath.Join(d.Dir, "n3"), t.TempDir()
	image := func(name string) string { return filepath.Join(kept, name) }
	d.halt(3)
	d.copyDir(dir, image("stopped"))
	d.revive(3, "")
	d.healthy(60 * time.Second)
	d.freeze(3, func() { d.copyDir(dir, image("running")) })
	d.healthy(60 * time.Second)
	accounts := []string{"alice", "bob"}
	mail := trickle(d, accounts)
	first := d.applied(3)
	d.Await(30*time.Second, "n3 has much that the copies have not", func() bool { return d.applied(3) > first+300 })
	d.kill(3)
	require.NoError(t, os.Rename(dir, image("newest")))
	for name, why := range map[string]string{
		"stopped": "another copy of this data directory has run since",
		"running": "this directory is older than what node n3 has promised",
	} {
		require.NoError(t, os.Rename(image(name), dir))
		began := len(d.logged(3, "cluster: session begins"))
		d.revive(3, "")
		last := d.ends(3, 60*time.Second)
		t.Logf("copy of when it was %s: %s", name, last)
		require.Regexp(t, `^relayd: cluster: this data directory is not the newest of its node: `+why+`.*join it anew`, last)
		require.Len(t, d.logged(3, "cluster: session begins"), began, "it never has a right to act")
		require.NoError(t, os.RemoveAll(dir))
	}
	require.NoError(t, os.Rename(image("newest"), dir))
	d.revive(3, "")
	d.healthy(60 * time.Second)
	all := mail()
	d.drained(3, 60*time.Second)
	(&ledger{t: t, d: d, copies: map[copyOf]int{}}).check(all, accounts, 1)
	d.verify()
}

// TestMovedDirectory: n3's directory was copied in order, and comes back when n1 is
// dead and n2 starts, too. Nobody can answer for the copy, so it waits and says so,
// until an operator does.
func TestMovedDirectory(t *testing.T) {
	t.Parallel()
	d := Start(t, "--restart-after", "0")
	dir, kept := filepath.Join(d.Dir, "n3"), filepath.Join(t.TempDir(), "n3")
	submit(t, d, 1, "alice@example.test", "before")
	d.halt(3)
	d.halt(2)
	d.kill(1)
	require.NoError(t, os.Rename(dir, kept))
	d.copyDir(kept, dir)
	d.revive(2, "")
	d.revive(3, "")
	d.Await(30*time.Second, "n3 says what it waits for", func() bool {
		err := d.call(3, http.MethodGet, "/readyz", nil, nil)
		return err != nil && strings.Contains(err.Error(), "relayd run --moved")
	})
	pause(d, 5*time.Second)
	for _, node := range []int{2, 3} {
		s, err := d.status(node)
		require.NoError(t, err)
		require.Empty(t, s.Leader, "n2 and the copy are no majority")
	}
	require.NotEmpty(t, d.logged(3, "this node waits"))
	d.kill(3)
	d.revive(3, "", "--moved")
	d.ready(3, 30*time.Second)
	d.halt(3)
	d.revive(3, "") // once is enough
	d.ready(3, 30*time.Second)
	d.revive(1, "")
	d.healthy(60 * time.Second)
	d.verify()
	p := login(t, d.Addr(3, POP3), "alice", "secret")
	require.Equal(t, 1, p.count())
	p.quit()
}

// applied is the index up to which a node has applied the log.
func (d *Dev) applied(node int) uint64 {
	s, err := d.status(node)
	if err != nil {
		return 0
	}
	for _, n := range s.Nodes {
		if n.ID == "n"+itoa(node) {
			return n.Applied
		}
	}
	return 0
}
