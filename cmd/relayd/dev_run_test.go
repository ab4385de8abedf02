package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/smtp"
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

	"relay/cluster"
	"relay/cluster/porttest"
	"relay/node/admin"
)

// TestMain lets the test binary be the relayd that relayd dev starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "run" {
		main()
	}
	if len(os.Args) > 1 && os.Args[1] == slackVerb {
		tellSlack()
	}
	os.Exit(m.Run())
}

// trial is a relayd dev of one node within the test.
type trial struct {
	dir, ready string
	base       int
	stop       func()
	code       chan int
	out        *lockedBuffer
}

func startTrial(t *testing.T, args ...string) *trial {
	t.Helper()
	d := &trial{dir: t.TempDir(), base: freePorts(t), code: make(chan int, 1), out: new(lockedBuffer)}
	d.again(t, args...)
	return d
}

// hints are the commands to try that relayd dev prints.
func (d *trial) hints(t *testing.T) (all []string) {
	t.Helper()
	_, after, ok := strings.Cut(d.out.String(), "\nTry:\n")
	require.True(t, ok, d.out)
	for line := range strings.Lines(after) {
		command, ok := strings.CutPrefix(line, "  ")
		if !ok {
			return all
		}
		all = append(all, strings.TrimSpace(command))
	}
	return all
}

// TestDevHintsRunAsPrinted gives each hint to a shell, word for word, in the order
// they stand, and sees what each is there for.
func TestDevHintsRunAsPrinted(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	bin := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "relay/cmd/relayctl").CombinedOutput()
	require.NoError(t, err, string(out))
	d := &trial{dir: filepath.Join(t.TempDir(), "my node's mail"), base: porttest.Base(t, 400), code: make(chan int, 1),
		out: new(lockedBuffer)}
	d.again(t, "--nodes", "3", "--restart-after", "10ms")
	first := d.pid(t)
	promised := map[string]string{ // by how a hint begins: what is to be seen
		"swaks": "<-  250 2.0.0", "curl": "Subject: test", "relayctl status": "is healthy",
		"relayctl trace": "someone@example.net",
	}
	seen := map[string]bool{}
	for _, hint := range d.hints(t) {
		words := strings.Fields(hint)
		kind := words[0]
		if kind == "relayctl" {
			kind += " " + words[len(words)-1]
			if strings.Contains(hint, " trace ") {
				kind = "relayctl trace"
			}
		}
		if _, err := exec.LookPath(words[0]); err != nil && words[0] != "relayctl" && words[0] != "kill" {
			t.Logf("not installed, so not tried: %s", hint)
			continue
		}
		c := exec.CommandContext(t.Context(), "sh", "-c", hint)
		c.Env = append(os.Environ(), "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"),
			"RELAY_ADDR=", "RELAY_TOKEN=")
		out, err := c.CombinedOutput()
		require.NoError(t, err, "%s\n%s", hint, out)
		seen[kind] = true
		if kind == "kill" {
			d.await(t, "another process for the killed node", func() bool { p := d.pid(t); return p != 0 && p != first })
			continue
		}
		require.Contains(t, promised, kind, hint)
		require.Contains(t, string(out), promised[kind], hint)
	}
	for _, kind := range []string{"relayctl status", "relayctl trace", "kill"} {
		require.True(t, seen[kind], "%s is among %q", kind, d.hints(t))
	}
	d.stop()
}

func (d *trial) again(t *testing.T, args ...string) {
	t.Helper()
	d.ready = filepath.Join(t.TempDir(), "ready")
	ctx, cancel := context.WithCancel(context.Background())
	d.stop = func() {
		cancel()
		require.Equal(t, exitOK, <-d.code, d.out)
		d.stop = func() {}
	}
	t.Cleanup(func() { d.stop() })
	args = append([]string{
		"dev", "--nodes", "1", "--dir", d.dir, "--base-port", strconv.Itoa(d.base), "--ready-file", d.ready,
	}, args...)
	go func() { d.code <- run(ctx, args, strings.NewReader(""), d.out, d.out) }()
	d.await(t, "ready", func() bool {
		select {
		case code := <-d.code:
			d.code <- code
			t.Fatalf("relayd dev ended with %d: %s", code, d.out)
		default:
		}
		return exists(d.ready)
	})
}

func (d *trial) await(t *testing.T, what string, done func() bool) {
	t.Helper()
	require.Eventually(t, done, 30*time.Second, 10*time.Millisecond, what)
}

func (d *trial) pid(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(d.dir, "n1", "relayd.pid"))
	if err != nil {
		return 0 // between two lives
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	require.NoError(t, err)
	return pid
}

func freePorts(t *testing.T) int { return porttest.Base(t, 200) }

func TestDevServesRestartsAndFindsItsStateAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	d := startTrial(t, "--restart-after", "10ms")
	var info struct{ Nodes []struct{ PID, SMTP int } }
	data, err := os.ReadFile(d.ready)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &info))
	require.Equal(t, d.base+125, info.Nodes[0].SMTP)
	require.Equal(t, d.pid(t), info.Nodes[0].PID)
	require.Contains(t, d.out.String(), "Ctrl-C stops all.")

	c, err := smtp.Dial(net.JoinHostPort("127.0.0.1", strconv.Itoa(info.Nodes[0].SMTP)))
	require.NoError(t, err)
	require.NoError(t, sendTo(c, "alice@example.test", "Subject: x\r\n\r\nhello\r\n", "x@example.net"))
	_ = c.Close()
	d.await(t, "the sink has it", func() bool {
		files, _ := filepath.Glob(filepath.Join(d.dir, "sink", "*.eml"))
		return len(files) == 1
	})

	require.NoError(t, syscall.Kill(info.Nodes[0].PID, syscall.SIGKILL))
	d.await(t, "a new process", func() bool { p := d.pid(t); return p != 0 && p != info.Nodes[0].PID })
	d.stop()
	require.NoFileExists(t, filepath.Join(d.dir, "n1", "relayd.pid"))

	d.again(t)
	d.stop()
}

func TestDevTellsWhyANodeDoesNotStart(t *testing.T) {
	dir := t.TempDir()
	p := &plan{Dir: dir, Listen: "127.0.0.1", Nodes: 1, BasePort: freePorts(t)}
	l, err := net.Listen("tcp", p.addr(1, portPOP3))
	require.NoError(t, err)
	defer l.Close()
	code, _, stderr := relayd(t, "dev", "--nodes", "1", "--dir", dir, "--base-port", strconv.Itoa(p.BasePort))
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "--base-port chooses others")
	require.Equal(t, 1, strings.Count(stderr, "\n"))
}

// lockedBuffer is written by a command while a test reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A trial cluster's only node plays the member that others join, and the
// survivor that is recovered.
func TestJoinAndRecover(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	d := startTrial(t, "--relay", "127.0.0.1:9")
	api, err := admin.NewClient(admin.ClientOptions{
		Addrs: []string{"127.0.0.1:" + strconv.Itoa(d.base+180)}, Token: "dev",
	})
	require.NoError(t, err)
	defer api.Close()
	token, err := api.Token(t.Context(), admin.By{}, admin.TokenRequest{Uses: 1, TTLSeconds: 60})
	require.NoError(t, err)
	require.NoDirExists(t, filepath.Join(d.dir, "sink"))

	dir := t.TempDir()
	join := []string{"join", "--config", filepath.Join(dir, "relay.toml"), "--id", "n2", "--hostname", "n2.example.test",
		"--data-dir", filepath.Join(dir, "data"), "--advertise", "127.0.0.1:" + strconv.Itoa(d.base+171),
		"--token", token.Token, "127.0.0.1:" + strconv.Itoa(d.base+170)}
	code, stdout, stderr := relayd(t, join...)
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, stdout, "relayd run --config")
	require.True(t, cluster.Initialised(filepath.Join(dir, "data")))
	code, _, stderr = relayd(t, join...)
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "holds a node already")

	// A node whose disk was emptied asks the others before it makes a cluster.
	empty := t.TempDir()
	conf := filepath.Join(empty, "relay.toml")
	for key, want := range map[string]int{
		"peers = [\"n1=127.0.0.1:" + strconv.Itoa(d.base+170) + "\"]\n":                                 exitFailed,
		"join = [\"127.0.0.1:" + strconv.Itoa(d.base+170) + "\"]\njoin_token_file = \"" + conf + "\"\n": exitOK,
	} {
		require.NoError(t,
			os.WriteFile(conf, []byte("[node]\nid = \"n9\"\nhostname = \"n9.example.test\"\ndata_dir = \""+empty+"/data\"\n"+
				"[cluster]\nlisten = \"127.0.0.1:7170\"\n"+key), 0o600))
		code, stdout, stderr = relayd(t, "init", "--once", "--config", conf)
		require.Equal(t, want, code, "%s%s", stdout, stderr)
		require.Contains(t, stdout+stderr, "127.0.0.1:"+strconv.Itoa(d.base+170))
		require.False(t, cluster.Initialised(filepath.Join(empty, "data")), "it made a cluster beside the one that there is")
	}

	config := filepath.Join(d.dir, "n1", "relay.toml")
	peers := "n1=127.0.0.1:" + strconv.Itoa(d.base+170)
	code, _, _ = relayd(t, "recover", "--config", config, "--peers", peers, "--yes")
	require.Equal(t, exitFailed, code, "never under a running node")
	d.stop()
	code, stdout, stderr = relayd(t, "recover", "--config", config, "--peers", peers)
	require.Equal(t, exitFailed, code)
	require.Contains(t, stdout, "Members now:   n1=")
	require.Contains(t, stdout, "n2=")
	require.Contains(t, stderr, "nothing was changed")
	code, stdout, stderr = relayd(t, "recover", "--config", config, "--peers", peers, "--yes")
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, stdout, "Done")
	d.again(t) // healthy again, as a cluster of one
}
