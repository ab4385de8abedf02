package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests use the helpers of this file for all that they ask of a node, and do to
// it, besides mail.

// runs is how often in a row a scenario is to be played.
func runs(t *testing.T) int {
	text := os.Getenv("RELAY_E2E_RUNS")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, "RELAY_E2E_RUNS")
	return n
}

// state is what a node says of the cluster.
type state struct {
	Healthy  bool
	Leader   string
	Problems []string
	Nodes    []struct {
		ID, State, Role string
		Applied, Lag    uint64
		Owned           uint64
		POP3Sessions    int `json:"pop3_sessions"`
	}
	Queue struct{ Messages, Recipients uint64 }
}

// call speaks to the admin API of one node.
func (d *Dev) call(node int, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = strings.NewReader(string(data))
	}
	ctx, cancel := context.WithTimeout(d.t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+d.Addr(node, Admin)+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer dev")
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s %s", method, path, res.Status, data)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

// status asks one node.
func (d *Dev) status(node int) (s state, err error) {
	err = d.call(node, http.MethodGet, "/v1/status", nil, &s)
	return s, err
}

// metrics is what a node tells Prometheus; empty: it does not answer.
func (d *Dev) metrics(node int) string {
	client := http.Client{Timeout: 20 * time.Second}
	res, err := client.Get("http://" + d.Addr(node, Admin) + "/metrics")
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return ""
	}
	return string(text)
}

// settings changes replicated settings and leaves the others.
func (d *Dev) settings(change map[string]any) {
	d.t.Helper()
	all := map[string]any{}
	require.NoError(d.t, d.call(1, http.MethodGet, "/v1/settings", nil, &all))
	maps.Copy(all, change)
	require.NoError(d.t, d.call(1, http.MethodPut, "/v1/settings", all, nil))
}

// timeline is what trace tells.
type timeline struct {
	ID         string
	Owner      string
	Recipients []struct {
		Address, State string
		Attempts       uint32
		NextAttempt    *time.Time `json:"next_attempt"`
		LastReply      string     `json:"last_reply"`
	}
	Events []struct {
		At             time.Time
		What, Node     string
		Recipient      string
		Host, Reply    string
		Attempt        uint32
		NextAttempt    *time.Time `json:"next_attempt"`
		MaybeDuplicate bool       `json:"maybe_duplicate"`
		Detail         string
	}
}

// trace asks relayctl for the history of one message.
func (d *Dev) trace(id string) (t timeline) {
	d.t.Helper()
	require.NoError(d.t, json.Unmarshal([]byte(d.Ctl("trace", id, "-o", "json")), &t))
	return t
}

// maybeDuplicate reports whether the history owns up to a second delivery.
func (t *timeline) maybeDuplicate(recipient string) bool {
	for _, e := range t.Events {
		if e.MaybeDuplicate && (e.Recipient == recipient || e.Recipient == "") {
			return true
		}
	}
	return false
}

// lead makes a node the leader.
func (d *Dev) lead(node int) {
	d.t.Helper()
	id := "n" + itoa(node)
	d.Await(30*time.Second, id+" leads", func() bool {
		s, err := d.status(node)
		if err == nil && s.Leader == id {
			return true
		}
		_, _ = d.Try("", d.bin+"/relayctl", "node", "transfer", id)
		return false
	})
	// Every node must know it, or the next command goes astray.
	for n := 1; n <= 3; n++ {
		d.Await(10*time.Second, fmt.Sprintf("n%d sees that %s leads", n, id), func() bool {
			s, err := d.status(n)
			return err == nil && s.Leader == id && s.Healthy
		})
	}
}

// healthy waits until every node says that all is well and takes traffic.
func (d *Dev) healthy(within time.Duration) {
	d.t.Helper()
	defer func() {
		if d.t.Failed() {
			out, err := d.Try("", d.bin+"/relayctl", "status")
			d.t.Logf("status: %v\n%s", err, out)
		}
	}()
	d.Await(within, "all nodes say that the cluster is healthy", func() bool {
		for n := 1; n <= d.nodes(); n++ {
			if s, err := d.status(n); err != nil || !s.Healthy || d.call(n, http.MethodGet, "/readyz", nil, nil) != nil {
				return false
			}
		}
		return true
	})
}

// verify has the cluster compare its hashes, records and bodies.
func (d *Dev) verify() {
	d.t.Helper()
	var v struct {
		OK       bool
		Index    uint64
		Findings []string
		Nodes    []struct{ ID, Hash, Error string }
	}
	out, err := d.Try("", d.bin+"/relayctl", "verify", "--bodies", "-o", "json")
	require.NoError(d.t, err, out)
	require.NoError(d.t, json.Unmarshal([]byte(out), &v))
	require.True(d.t, v.OK, out)
	require.Empty(d.t, v.Findings)
	require.Len(d.t, v.Nodes, d.nodes())
	for _, n := range v.Nodes {
		require.Equal(d.t, v.Nodes[0].Hash, n.Hash, out)
		require.NotEmpty(d.t, n.Hash)
	}
	d.t.Logf("verify: equal at index %d", v.Index)
}

// drained waits until nothing waits in the queue.
func (d *Dev) drained(node int, within time.Duration) {
	d.t.Helper()
	var last state
	defer func() {
		if last.Queue.Messages > 0 {
			out, _ := d.Try("", d.bin+"/relayctl", "queue", "ls", "--limit", "10")
			d.t.Logf("still waiting: %d messages, such as\n%s", last.Queue.Messages, out)
		}
	}()
	d.Await(within, "the queue is empty", func() bool {
		s, err := d.status(node)
		if err != nil {
			return false
		}
		last = s
		return s.Queue.Messages == 0
	})
}

// kill ends a node with -9 and returns the instant, once the process is gone.
func (d *Dev) kill(node int) time.Time {
	d.t.Helper()
	pid := d.PID(node)
	at := time.Now()
	d.noteKill(at)
	require.NoError(d.t, syscall.Kill(pid, syscall.SIGKILL))
	d.Await(20*time.Second, fmt.Sprintf("n%d is gone", node), func() bool { return dead(pid) })
	return at
}

// noteKill keeps when a node was killed.
func (d *Dev) noteKill(at time.Time) {
	d.t.Helper()
	f, err := os.OpenFile(filepath.Join(d.Dir, "kills"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	require.NoError(d.t, err)
	_, err = fmt.Fprintln(f, at.UnixNano())
	require.NoError(d.t, errors.Join(err, f.Close()))
}

// killsBetween counts how often nodes were killed within a time.
func (d *Dev) killsBetween(from, to time.Time) (n int) {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join(d.Dir, "kills"))
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(d.t, err)
	}
	for _, line := range strings.Fields(string(text)) {
		ns, err := strconv.ParseInt(line, 10, 64)
		require.NoError(d.t, err)
		if from.UnixNano() <= ns && ns <= to.UnixNano() {
			n++
		}
	}
	return n
}

// dead reports whether a process has ended with all its threads: a leader that is a
// zombie says nothing of the others, and they hold the ports.
func dead(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return strings.Contains(string(data), ") Z ") && (err != nil || len(threads) <= 1)
}

// revive runs a node that relayd dev does not start again, from a configuration
// file (empty: its own) and with more arguments, until the test ends.
func (d *Dev) revive(node int, config string, args ...string) time.Time {
	d.t.Helper()
	dir := filepath.Join(d.Dir, fmt.Sprintf("n%d", node))
	if config == "" {
		config = filepath.Join(dir, "relay.toml")
	}
	require.NoError(d.t, os.MkdirAll(dir, 0o755))
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	require.NoError(d.t, err)
	cmd := exec.Command(filepath.Join(d.bin, "relayd"), append([]string{"run", "--config", config}, args...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	began := time.Now()
	require.NoError(d.t, cmd.Start())
	_ = log.Close()
	require.NoError(d.t, os.WriteFile(filepath.Join(dir, "relayd.pid"), []byte(itoa(cmd.Process.Pid)+"\n"), 0o644))
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	d.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	return began
}

// logged returns the lines of a node's log that hold one of the words.
func (d *Dev) logged(node int, words ...string) (found []string) {
	data, _ := os.ReadFile(filepath.Join(d.Dir, fmt.Sprintf("n%d", node), "log"))
	for line := range strings.Lines(string(data)) {
		for _, w := range words {
			if strings.Contains(line, w) {
				found = append(found, strings.TrimRight(line, "\n"))
				break
			}
		}
	}
	return found
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
