package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// flipping builds relayd such that it applies one message in another way where the file
// flip is in a node's directory.
var flipping = sync.OnceValues(func() (string, error) { return overlaid("flipping", flipOverlay) })

func flipOverlay(dir string) (map[string]string, error) {
	return patch(dir, "cluster/spool", "machine.go", "m.st.apply(b, index, f)", "m.st.apply(b, index, flipped(f))",
		"flip.go.txt")
}

// rejoin has a node that is stopped join anew with an empty directory.
func (d *Dev) rejoin(node int) {
	d.t.Helper()
	began := time.Now()
	dir, config := filepath.Join(d.Dir, "n"+itoa(node)), filepath.Join(d.t.TempDir(), "relay.toml")
	kept, err := os.ReadFile(filepath.Join(dir, "relay.toml"))
	require.NoError(d.t, err)
	require.NoError(d.t, os.WriteFile(config, kept, 0o600))
	require.NoError(d.t, os.RemoveAll(dir))
	token := strings.TrimSpace(d.Ctl("node", "token"))
	d.Run("", d.bin+"/relayd", "join", "--config", config, "--token", token, d.Addr(node%3+1, clusterPort))
	d.revive(node, config)
	d.healthy(90 * time.Second)
	d.t.Logf("n%d is rebuilt, and all is well after %s", node, seconds(time.Since(began)))
}

// TestDivergedNode: under load the leader applies one message in another way than the
// others do. It stands back and hands the leadership over; the others go on. It is rebuilt
// by the operator, and has what they have. Nothing is lost, doubled or held twice.
func TestDivergedNode(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1 to run the end-to-end tests")
	}
	bin, err := flipping()
	require.NoError(t, err)
	d := &Dev{t: t, bin: bin, Dir: t.TempDir(), basePort: freeBase(t)}
	d.run("--restart-after", "0")
	t.Cleanup(d.Stop)
	mail, fight, accounts := d.busy()
	wrong := d.leader()
	require.NoError(t, os.WriteFile(filepath.Join(d.Dir, "n"+itoa(wrong), "flip"), nil, 0o600))
	began := time.Now()
	id := submit(t, d, wrong, "bob@example.test", "to-be-flipped")
	d.Await(60*time.Second, "it stands back", func() bool {
		err := d.call(wrong, http.MethodGet, "/readyz", nil, nil)
		return err != nil && strings.Contains(err.Error(), "move its data directory away and join it anew")
	})
	took := time.Since(began)
	right := wrong%3 + 1
	d.Await(60*time.Second, "another node leads, and says which one differs", func() bool {
		s, err := d.status(right)
		return err == nil && s.Leader != "" && s.Leader != "n"+itoa(wrong) &&
			strings.Contains(strings.Join(s.Problems, "\n"), "n"+itoa(wrong))
	})
	s, err := d.status(right)
	require.NoError(t, err)
	t.Logf("n%d led, and stood back after %s; n%d says %q", wrong, seconds(took), right, s.Problems)
	for node := 1; node <= 3; node++ {
		if node != wrong {
			d.ready(node, 60*time.Second)
			submit(t, d, node, "bob@example.test", "meanwhile-"+itoa(node))
		}
	}
	d.halt(wrong)
	d.rejoin(wrong)
	p := login(t, d.Addr(wrong, POP3), "bob", "secret")
	require.Equal(t, 3, p.count())
	text := p.retr(1)
	require.Equal(t, id, idOf(text))
	require.True(t, strings.HasSuffix(text, lf(message("to-be-flipped"))), "%q", text)
	p.quit()
	d.settle(mail, fight, accounts)
}

// term is raft's term at a node; 0: it does not say.
func (d *Dev) term(node int) (term uint64) {
	for _, line := range strings.Split(d.metrics(node), "\n") {
		if value, ok := strings.CutPrefix(line, "relay_term "); ok {
			at, _ := strconv.ParseFloat(value, 64)
			term = uint64(at)
		}
	}
	return term
}

// TestCommittedEntryOfAnotherTerm: n1 and n2 are set back to copies of their directories
// while n3, which has seen more, holds still; the operator vouches for the copies. They go
// on in a later term. n3, awake, is sent other entries than it knows for committed: it ends,
// says so, and drops none of its own. Nothing that was taken in by the cluster of before
// the copies, or by the one after them, is lost, doubled or held twice.
func TestCommittedEntryOfAnotherTerm(t *testing.T) {
	d := Start(t, "--restart-after", "0")
	mail, fight, accounts := d.busy()
	pause(d, 2*time.Second)
	before, r := mail(), fight()
	r.check(t)
	d.drained(3, 60*time.Second)
	kept := t.TempDir()
	past := []int{1, 2}
	for _, node := range past {
		d.kill(node)
	}
	for _, node := range past {
		d.copyDir(d.home(node), filepath.Join(kept, itoa(node)))
	}
	for _, node := range past {
		d.revive(node, "")
	}
	d.healthy(60 * time.Second)
	d.lead(3)
	known := d.applied(3) + 10 // renewals alone: mail would be lost
	d.Await(60*time.Second, "n3 knows more than the copies", func() bool { return d.applied(3) > known })
	term := d.term(3)
	require.NotZero(t, term)
	d.freeze(3, func() {
		for _, node := range past {
			d.kill(node)
			require.NoError(t, os.RemoveAll(d.home(node)))
			require.NoError(t, os.Rename(filepath.Join(kept, itoa(node)), d.home(node)))
		}
		for _, node := range past {
			d.revive(node, "", "--moved")
		}
		for _, node := range past {
			d.ready(node, 60*time.Second)
			d.offset(node, right) // the first leader's work
		}
		d.rises(term)
		mail, fight = trickleFrom(d, accounts, 1000), fighters(d, 4)
	})
	last := d.ends(3, 60*time.Second)
	t.Logf("n3: %s", last)
	require.Regexp(t, `^relayd: .*entry \d+ was committed here in term \d+, and n[12] sends it in term \d+: `+
		`.*keep this directory, stop the other nodes`, last)
	for _, node := range past {
		d.ready(node, 60*time.Second)
	}
	d.rejoin(3)
	d.settle(func() []*parcel { return append(before, mail()...) }, fight, accounts)
}

// home is a node's directory.
func (d *Dev) home(node int) string { return filepath.Join(d.Dir, "n"+itoa(node)) }

// rises hands the leadership to and fro between n1 and n2 until the term is a later one.
func (d *Dev) rises(term uint64) {
	d.t.Helper()
	d.Await(60*time.Second, fmt.Sprintf("n1 is in a term behind %d", term), func() bool {
		if d.term(1) > term {
			return true
		}
		if s, err := d.status(1); err == nil && s.Leader != "" {
			to := map[string]string{"n1": "n2", "n2": "n1"}[s.Leader]
			_, _ = d.Try("", d.bin+"/relayctl", "--addr", "http://"+d.Addr(1, Admin), "node", "transfer", to)
		}
		return false
	})
}
