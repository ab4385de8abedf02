package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/nodetest"
)

// skewed builds relayd with a time.Now that the file skew in a node's directory
// makes wrong at any moment, and relayctl as it is. The standard library is the
// machine's own, but for that function.
var skewed = sync.OnceValues(func() (string, error) { return overlaid("skewed", skewOverlay) })

// skewOverlay writes what go build is to take in place of time/time.go.
func skewOverlay(dir string) (map[string]string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, err
	}
	place := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	text, err := os.ReadFile(filepath.Join(place, "time.go"))
	if err != nil {
		return nil, err
	}
	now := regexp.MustCompile(`(?m)^func Now\(\) Time \{$`)
	if len(now.FindAll(text, -1)) != 1 {
		return nil, fmt.Errorf("%s has another time.Now than this test knows", place)
	}
	text = now.ReplaceAll(text, []byte("func rightNow() Time {"))
	text = regexp.MustCompile(`(?m)^//go:linkname Now$`).ReplaceAll(text, nil)
	changed := filepath.Join(dir, "time.go")
	own, err := filepath.Abs(filepath.Join("testdata", "skew.go.txt"))
	if err != nil {
		return nil, err
	}
	return map[string]string{filepath.Join(place, "time.go"): changed, filepath.Join(place, "skew.go"): own},
		os.WriteFile(changed, text, 0o644)
}

const (
	day  = 24 * time.Hour
	late = 5 * time.Second // how late mail may be at most
)

// right is the offset of a clock that is less than five seconds off.
const right = `-?[0-4](\.\d+)?(e-\d+)?`

// offset waits until a node's clock is as far from the state's time as a pattern says, in
// seconds.
func (d *Dev) offset(node int, pattern string) {
	d.t.Helper()
	line := regexp.MustCompile(`(?m)^relay_clock_offset_seconds ` + pattern + `$`)
	d.Await(30*time.Second, "the time jumps", func() bool { return line.MatchString(d.metrics(node)) })
}

// clocks is a cluster of which each node's clock can be set wrong while it runs.
// Remote mail goes by MX to a server of the test's own.
type clocks struct {
	*Dev
	sink *nodetest.Sink
	sent int
	base time.Duration // how far the clocks are off that count as right
}

func startClocks(t *testing.T) *clocks {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1 to run the end-to-end tests")
	}
	bin, err := skewed()
	require.NoError(t, err)
	c := &clocks{
		Dev: &Dev{t: t, bin: bin, Dir: t.TempDir(), basePort: freeBase(t)}, sink: nodetest.NewSink(t, "127.0.0.1:0"),
	}
	c.run("--restart-after", "0")
	t.Cleanup(c.Dev.Stop)
	c.Ctl("route", "rm", "*")
	c.Ctl("user", "set", "alice@example.test", "--retention", "5d")
	c.Stop()
	zone := nodetest.NewDNS(t)
	zone.Add(t, "far.example. 60 IN MX 10 mx.far.example.", "mx.far.example. 60 IN A 127.0.0.1")
	_, port, err := net.SplitHostPort(c.sink.Addr)
	require.NoError(t, err)
	for node := 1; node <= 3; node++ {
		c.configure(node, `dns_servers = ["`+zone.Addr+`"]`, `port = `+port, `loopback_hops = true`)
		c.skew(0, node)
	}
	c.Restart("--restart-after", "0")
	require.NoError(t, send(c.Addr(1, SMTP), "bob@example.test", []string{"alice@example.test"}, message("kept")))
	return c
}

// skew sets the clocks of some nodes wrong, in one step; by nothing: right.
func (c *clocks) skew(by time.Duration, nodes ...int) {
	c.t.Helper()
	for _, node := range nodes {
		f, err := os.OpenFile(filepath.Join(c.Dir, "n"+itoa(node), "skew"), os.O_WRONLY|os.O_CREATE, 0o644)
		require.NoError(c.t, err)
		_, err = f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(int64((c.base+by)/time.Second))), 0)
		require.NoError(c.t, err)
		require.NoError(c.t, f.Close())
	}
}

// mail sends through each node to the world and to bob, and all of it has to
// arrive in time.
func (c *clocks) mail() {
	c.t.Helper()
	began := time.Now()
	for node := 1; node <= c.nodes(); node++ {
		c.Await(20*time.Second, fmt.Sprintf("n%d takes mail", node), func() bool {
			s, err := dialSMTP(c.Addr(node, SMTP), 20*time.Second)
			if err != nil {
				return false
			}
			defer s.close()
			_, err = s.send("alice@example.test", []string{"x@far.example", "bob@example.test"},
				message(fmt.Sprintf("mail-%d-%d", c.sent, node)))
			return err == nil
		})
		c.sent++
	}
	taken := time.Since(began)
	ctx, cancel := context.WithTimeout(c.t.Context(), late)
	defer cancel()
	require.NoError(c.t, c.sink.Wait(ctx, c.sent), "%d of %d have arrived", len(c.sink.Got()), c.sent)
	p := login(c.t, c.Addr(c.sent%c.nodes()+1, POP3), "bob", "secret")
	require.Equal(c.t, c.sent, p.count())
	p.quit()
	require.Less(c.t, time.Since(began)-taken, late)
}

// kept wants that what may be deleted after five days is still there.
func (c *clocks) kept() {
	c.t.Helper()
	p := login(c.t, c.Addr(c.nodes(), POP3), "alice", "secret")
	require.Equal(c.t, 1, p.count(), "mail was deleted early")
	p.quit()
}

// says waits until status names the clocks of these nodes, in these words, and no
// others.
func (c *clocks) says(within time.Duration, way string, nodes ...int) {
	c.t.Helper()
	slices.Sort(nodes)
	var said []string
	defer func() { c.t.Logf("status says %q", said) }()
	c.Await(within, fmt.Sprintf("status says of the clocks of %v alone that they are %s", nodes, way), func() bool {
		s, err := c.status(1)
		if err != nil {
			return false
		}
		said = slices.DeleteFunc(s.Problems, func(p string) bool { return !strings.Contains(p, "'s clock is ") })
		return slices.EqualFunc(said, nodes, func(p string, node int) bool {
			return strings.HasPrefix(p, "node n"+itoa(node)+"'s clock is ") && strings.HasSuffix(p, " "+way+" the cluster's")
		})
	})
}

// wrong makes the clocks of some nodes wrong while mail goes, and right again.
func (c *clocks) wrong(by time.Duration, nodes ...int) {
	c.t.Helper()
	began, leader, way := time.Now(), c.leader(), "ahead of"
	if by < 0 {
		way = "behind"
	}
	c.skew(by, nodes...)
	c.mail()
	c.says(20*time.Second, way, nodes...)
	if by.Abs() > time.Minute && c.nodes() == 3 && len(nodes) == 1 && nodes[0] == leader {
		c.Await(30*time.Second, "a node leads whose clock is right", func() bool { return c.leader() != leader })
	}
	c.mail()
	c.kept()
	c.skew(0, nodes...)
	c.mail()
	c.says(20*time.Second, way)
	c.healthy(20 * time.Second)
	c.kept()
	c.t.Logf("%s at %v, n%d led: %s", by, nodes, leader, seconds(time.Since(began)))
}

// follows sets all clocks ahead, in one step, until the state's time has jumped to them.
// From then on they are the right ones, and all is well.
func (c *clocks) follows(by time.Duration) {
	c.t.Helper()
	began := time.Now()
	all := c.all()
	c.skew(by, all...)
	c.mail()
	c.base += by
	for _, node := range all {
		c.offset(node, right)
	}
	c.mail()
	c.says(20*time.Second, "behind")
	c.healthy(20 * time.Second)
	c.kept()
	c.t.Logf("all ahead by %s: %s", by, seconds(time.Since(began)))
}

func (c *clocks) all() (nodes []int) {
	for node := 1; node <= c.nodes(); node++ {
		nodes = append(nodes, node)
	}
	return nodes
}

// leave removes the last node.
func (c *clocks) leave() {
	c.t.Helper()
	last := c.nodes()
	c.members = last - 1
	c.Ctl("node", "rm", "n"+itoa(last), "--yes")
	c.ends(last, 60*time.Second)
	c.healthy(60 * time.Second)
}

// slight makes the clocks of some nodes wrong by less than anybody is named for, and
// right again.
func (c *clocks) slight(by time.Duration, nodes ...int) {
	c.t.Helper()
	c.skew(by, nodes...)
	c.mail()
	if by.Abs() < late { // at five seconds the words come and go
		c.says(time.Second, "behind")
	}
	c.mail()
	c.kept()
	c.skew(0, nodes...)
	c.mail()
}

// TestSlightlyWrongClocks: clocks that are a second or five off, on the leader, on a
// follower and on both, make no mail late and no trouble.
func TestSlightlyWrongClocks(t *testing.T) {
	c := startClocks(t)
	for _, by := range []time.Duration{time.Second, -time.Second, late, -late} {
		leader := c.leader()
		c.slight(by, leader)
		c.slight(by, leader%3+1)
		c.slight(by, leader, leader%3+1)
	}
	c.healthy(20 * time.Second)
	c.end()
}

// TestWrongClocks: the clocks of running processes step. Mail comes and goes in
// time, status names the wrong ones, nothing is deleted early, and all is well
// when they are right again.
func TestWrongClocks(t *testing.T) {
	c := startClocks(t)
	after := func(node int) int { return node%3 + 1 }
	c.wrong(10*day, c.leader())
	c.wrong(-2*time.Hour, after(c.leader()))
	c.wrong(2*time.Hour, after(c.leader()))
	c.wrong(-10*day, c.leader())
	c.wrong(2*time.Hour, c.leader())
	c.wrong(-2*time.Hour, c.leader())
	c.wrong(-45*time.Second, c.leader())
	c.wrong(45*time.Second, c.leader(), after(c.leader()))
	c.wrong(-10*day, c.leader(), after(c.leader()))

	// A majority that is ahead is believed; one that is behind, after ten minutes.
	wrong := []int{c.leader(), after(c.leader())}
	c.skew(10*day, wrong...)
	c.mail()
	c.says(30*time.Second, "behind", after(wrong[1]))
	c.offset(after(wrong[1]), `-[1-9]\d{5}(\.\d+)?`) // status names it before the jump
	c.mail()
	c.kept()
	c.skew(0, wrong...)
	c.mail()
	c.says(20*time.Second, "behind", 1, 2, 3)
	c.mail()
	c.kept()
	c.goesBack()
	c.end()
}

// TestWrongClocksOfTwoAndOne: of two nodes nobody knows which clock is right, and the
// state's time follows both; a node alone goes by its own clock. Mail comes and goes in
// time, status names the wrong ones, nothing is deleted early, and all is well when they
// are right again.
func TestWrongClocksOfTwoAndOne(t *testing.T) {
	c := startClocks(t)
	c.leave()
	leader := c.leader()
	c.wrong(2*time.Hour, leader)
	c.wrong(-2*time.Hour, leader)
	c.wrong(-45*time.Second, 3-leader)
	c.wrong(45*time.Second, 1, 2)
	for _, by := range []time.Duration{time.Second, -late} {
		c.slight(by, leader)
		c.slight(by, 1, 2)
	}
	c.follows(2 * time.Hour)
	c.wrong(-2*time.Hour, 1, 2) // as all are for ten minutes when they are right again

	c.leave()
	c.wrong(-45*time.Second, 1)
	c.wrong(45*time.Second, 1)
	for _, by := range []time.Duration{-time.Second, late} {
		c.slight(by, 1)
	}
	c.wrong(-10*day, 1)
	c.follows(2 * time.Hour)
	c.wrong(-2*time.Hour, 1)
	c.goesBack()
	c.end()
}

// goesBack makes all clocks right, and waits, if that is asked for, until the state's time
// has gone back to them.
func (c *clocks) goesBack() {
	c.t.Helper()
	text := os.Getenv("RELAY_E2E_CLOCKS")
	if text == "" {
		return
	}
	patience, err := time.ParseDuration(text)
	require.NoError(c.t, err, "RELAY_E2E_CLOCKS")
	c.base = 0
	c.skew(0, c.all()...)
	c.says(20*time.Second, "behind", c.all()...)
	c.healthy(patience)
	c.says(time.Second, "behind")
	c.mail()
	c.kept()
}

// end wants each message once, and the replicas the same.
func (c *clocks) end() {
	c.t.Helper()
	c.kept()
	arrived := map[string]int{}
	for _, m := range c.sink.Got() {
		arrived[nodetest.SubjectOf(m.Body)]++
	}
	require.Len(c.t, arrived, c.sent, "each once")
	require.Len(c.t, c.sink.Got(), c.sent, "each once")
	c.verify()
}
