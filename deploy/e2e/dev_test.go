package e2e

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/porttest"
	"relay/cluster/timetest"
)

// binaries builds both programs once for all tests.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "relay-e2e-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "./cmd/...")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	timetest.SideBySide(3) // those that mostly wait; all that load or time a cluster run alone
	code := m.Run()
	if os.Getenv("RELAY_E2E") != "" {
		if dir, err := binaries(); err == nil {
			_ = os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// Dev is a running trial cluster.
type Dev struct {
	t        *testing.T
	bin      string
	Dir      string // its state, also after Stop
	basePort int
	members  int // of the cluster; 0: three
	cmd      *exec.Cmd
	output   *bytes.Buffer // valid after Stop
	ended    chan struct{}
}

// Start runs relayd dev on free ports and returns when it serves. The test's
// end stops it. Extra arguments go to relayd dev.
func Start(t *testing.T, args ...string) *Dev {
	t.Helper()
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1 to run the end-to-end tests")
	}
	bin, err := binaries()
	require.NoError(t, err)
	d := &Dev{t: t, bin: bin, Dir: t.TempDir(), basePort: freeBase(t)}
	d.run(args...)
	t.Cleanup(d.Stop)
	return d
}

// Restart starts it again, with the state that Stop left.
func (d *Dev) Restart(args ...string) {
	d.t.Helper()
	d.Stop()
	d.run(args...)
}

func (d *Dev) run(args ...string) {
	d.t.Helper()
	ready := filepath.Join(d.t.TempDir(), "ready")
	args = append([]string{"dev", "--dir", d.Dir, "--base-port", strconv.Itoa(d.basePort), "--ready-file", ready}, args...)
	cmd := exec.Command(filepath.Join(d.bin, "relayd"), args...)
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	began := time.Now()
	require.NoError(d.t, cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	d.cmd, d.output, d.ended = cmd, out, ended
	d.Await(60*time.Second, "relayd dev is ready", func() bool {
		select {
		case <-ended:
			d.t.Fatalf("relayd dev ended:\n%s", out)
		default:
		}
		_, err := os.Stat(ready)
		return err == nil
	})
	d.t.Logf("relayd dev was ready after %.1f s", time.Since(began).Seconds())
}

// Stop ends the cluster; its state stays until the test's end.
func (d *Dev) Stop() {
	d.t.Helper()
	if d.cmd == nil {
		return
	}
	began := time.Now()
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
		d.t.Logf("relayd dev stopped after %.1f s", time.Since(began).Seconds())
	case <-time.After(40 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.ended
		d.t.Error("relayd dev did not stop within 40 s of SIGTERM")
	}
	d.cmd = nil
	if d.t.Failed() {
		d.t.Logf("relayd dev said:\n%s", d.output)
		for _, log := range d.logs() {
			d.t.Logf("the end of %s:\n%s", log, tail(log, 3000))
		}
	}
}

func (d *Dev) logs() []string {
	all, _ := filepath.Glob(filepath.Join(d.Dir, "n*", "log"))
	return all
}

func tail(path string, n int) string {
	data, _ := os.ReadFile(path)
	return string(data[max(0, len(data)-n):])
}

// Ports of a node, by the numbering of relayd dev.
const (
	POP3        = 10
	SMTP        = 25
	Submissions = 65
	Admin       = 80
	Submission  = 87
	POP3S       = 95
)

// Port returns a port of node 1, 2, 3.
func (d *Dev) Port(node, service int) string { return strconv.Itoa(d.basePort + 100*node + service) }

// Addr returns HOST:PORT of a port of a node.
func (d *Dev) Addr(node, service int) string { return "127.0.0.1:" + d.Port(node, service) }

// CA is the path of the authority behind the TLS ports.
func (d *Dev) CA() string { return filepath.Join(d.Dir, "ca.pem") }

// PID returns the process id of a node.
func (d *Dev) PID(node int) int {
	d.t.Helper()
	pid, err := d.pid(node)
	require.NoError(d.t, err)
	return pid
}

func (d *Dev) pid(node int) (int, error) {
	data, err := os.ReadFile(filepath.Join(d.Dir, fmt.Sprintf("n%d", node), "relayd.pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// KillNode ends a node's process without a warning (kill -9).
func (d *Dev) KillNode(node int) {
	d.t.Helper()
	require.NoError(d.t, syscall.Kill(d.PID(node), syscall.SIGKILL))
}

// Ctl runs relayctl against all nodes and returns what it prints.
func (d *Dev) Ctl(args ...string) string {
	d.t.Helper()
	return d.Run("", append([]string{filepath.Join(d.bin, "relayctl")}, args...)...)
}

// Run runs a program, which must succeed, and returns its standard output.
func (d *Dev) Run(stdin string, args ...string) string {
	d.t.Helper()
	out, err := d.Try(stdin, args...)
	require.NoError(d.t, err)
	return out
}

// Try runs a program and returns its standard output; the error tells all that
// it said.
func (d *Dev) Try(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(d.t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "RELAY_TOKEN=dev", "RELAY_ADDR="+d.adminURLs())
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// nodes is how many members the cluster has.
func (d *Dev) nodes() int { return cmp.Or(d.members, 3) }

func (d *Dev) adminURLs() string {
	var all []string
	for node := 1; node <= d.nodes(); node++ {
		all = append(all, "http://"+d.Addr(node, Admin))
	}
	return strings.Join(all, ",")
}

// Sunk is a message in the sink.
type Sunk struct {
	Name     string // its file, which begins with the nanosecond of its arrival
	Envelope string // its X-Sink fields
	Message  string // as it came
}

// Sink returns the messages that the sink has, in the order of arrival.
func (d *Dev) Sink() []Sunk {
	d.t.Helper()
	files, err := filepath.Glob(filepath.Join(d.Dir, "sink", "*.eml"))
	require.NoError(d.t, err)
	var all []Sunk
	for _, f := range files {
		data, err := os.ReadFile(f)
		require.NoError(d.t, err)
		m := splitSunk(string(data))
		m.Name = filepath.Base(f)
		all = append(all, m)
	}
	return all
}

func splitSunk(text string) Sunk {
	end := 0
	for strings.HasPrefix(text[end:], "X-Sink-") {
		end += strings.Index(text[end:], "\n") + 1
	}
	return Sunk{Envelope: text[:end], Message: text[end:]}
}

// AwaitSink returns the first message in the sink that holds a text.
func (d *Dev) AwaitSink(text string) (found Sunk) {
	d.t.Helper()
	d.Await(20*time.Second, fmt.Sprintf("the sink has a message with %q", text), func() bool {
		for _, m := range d.Sink() {
			if strings.Contains(m.Message, text) {
				found = m
				return true
			}
		}
		return false
	})
	return found
}

// Await asks again and again until the answer is yes.
func (d *Dev) Await(within time.Duration, what string, done func() bool) {
	d.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(within)
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			d.t.Fatalf("not within %s: %s", within, what)
		}
	}
}

// freeBase finds a base port with all ports of a cluster free.
func freeBase(t *testing.T) int { return porttest.Base(t, 400) }

// need skips a case whose programs are not installed, or where no end-to-end test is to run.
func need(t *testing.T, programs ...string) {
	t.Helper()
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1 to run the end-to-end tests")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}
