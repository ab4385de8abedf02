package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"relay/deploy/bench/stage"
)

const (
	// stagesOver is how long a profile takes; loads are repeated until it has ended.
	stagesOver = 8 * time.Second
	// stageSessions is how many sessions a load has: enough for full groups.
	stageSessions = 100
)

// entrances say which nodes take the mail in.
var entrances = []string{"the leader", "a follower", "all nodes"}

// spent is what a node has used up to a moment, and uses between two of them.
type spent struct {
	cpu                         time.Duration
	sent, wrote                 float64 // octets to the other nodes, and to the disk
	syncs, logged, applied, ran float64 // calls and octets of the log; commands; batches of Apply
}

// usage is what a load took on one node.
type usage struct {
	spent
	shares map[stage.Stage]float64
}

// stages says what each stage of a message costs each node, by profiles of all nodes
// while they have a load, for mail of two sizes that comes in at the leader, at one
// follower, or everywhere.
func (b *bench) stages(ctx context.Context, out io.Writer, only string) error {
	fmt.Fprintf(out, "%s, load %s, %d sessions, mail relayed until the queue is empty; µs of CPU a message; %s\n",
		time.Now().UTC().Format(time.DateOnly), machineLoad(), stageSessions, b.limitNote())
	for _, size := range []int{4 << 10, 64 << 10} {
		for _, at := range entrances {
			name := fmt.Sprintf("mail of %d KiB at %s", size>>10, at)
			if !wanted(name, only) {
				continue
			}
			if err := b.stageRow(ctx, out, name, at, size); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

func (b *bench) limitNote() string {
	if b.cluster.cpus == 0 {
		return "no limit"
	}
	return fmt.Sprintf("each node has %g processors", b.cluster.cpus)
}

func (b *bench) stageRow(ctx context.Context, out io.Writer, name, at string, size int) error {
	order, addrs, err := b.cluster.roles(at)
	if err != nil {
		return err
	}
	l := load{messages: max(b.n/4, stageSessions), sessions: stageSessions, size: size}
	if err := b.cluster.relay(ctx, addrs, l); err != nil { // so that the store has its levels
		return err
	}
	all := make([]usage, len(order))
	before := make([]spent, len(order))
	for i, node := range order {
		if before[i], err = b.cluster.spent(ctx, node); err != nil {
			return err
		}
	}
	messages, began := 0, time.Now()
	g, profiling := errgroup.WithContext(ctx)
	for i, node := range order {
		g.Go(func() (err error) { all[i].shares, err = b.profile(profiling, node); return err })
	}
	for time.Since(began) < stagesOver {
		if err := b.cluster.relay(ctx, addrs, l); err != nil {
			return err
		}
		messages += l.messages
	}
	took := time.Since(began)
	if err := g.Wait(); err != nil {
		return err
	}
	for i, node := range order {
		now, err := b.cluster.spent(ctx, node)
		if err != nil {
			return err
		}
		all[i].spent = now.since(before[i], messages)
	}
	return printStages(out, fmt.Sprintf("%s: %.0f/s", name, float64(messages)/took.Seconds()), at, all)
}

// roles puts the nodes in order, the leader first, and at a follower's entrance that one
// second; addrs are where mail comes in.
func (c *cluster) roles(at string) (order []int, addrs []string, err error) {
	s, err := c.status()
	if err != nil {
		return nil, nil, err
	}
	for node := 1; node <= c.nodes; node++ {
		if s.Leader == fmt.Sprintf("n%d", node) {
			order = append([]int{node}, order...)
		} else {
			order = append(order, node)
		}
	}
	smtp := c.smtp()
	switch {
	case at == "all nodes" || c.nodes == 1:
		return order, smtp, nil
	case at == "the leader":
		return order, []string{smtp[order[0]-1]}, nil
	}
	return order, []string{smtp[order[1]-1]}, nil
}

// relay sends mail in, and waits until the queue is empty.
func (c *cluster) relay(ctx context.Context, addrs []string, l load) error {
	if _, err := source(ctx, addrs, l); err != nil {
		return err
	}
	return drained(ctx, c)
}

// spent reads what a node has used since its start.
func (c *cluster) spent(ctx context.Context, node int) (s spent, err error) {
	pid, err := pidFile(filepath.Join(c.nodeDir(node), "relayd.pid"))
	if err != nil {
		return s, err
	}
	if s.cpu, err = treeCPU(pid); err != nil {
		return s, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return s, err
	}
	if _, err := scanAfter("\n"+string(text), "\nwrite_bytes: ", "%g", &s.wrote); err != nil {
		return s, err
	}
	if s.sent, err = c.sentBy(ctx, pid); err != nil {
		return s, err
	}
	page, err := c.fetch(ctx, node, "/metrics")
	if err != nil {
		return s, err
	}
	for name, into := range map[string]*float64{
		"relay_log_appends_total": &s.syncs, "relay_log_bytes_total": &s.logged,
		"relay_store_commands_total": &s.applied, "relay_store_batches_total": &s.ran,
	} {
		if *into, err = metric(strings.NewReader(page), name); err != nil {
			return s, err
		}
	}
	return s, nil
}

// since is the use from a moment on, for each message.
func (s spent) since(then spent, messages int) spent {
	n := float64(messages)
	return spent{
		cpu: (s.cpu - then.cpu) / time.Duration(messages), sent: (s.sent - then.sent) / n, wrote: (s.wrote - then.wrote) / n,
		syncs: (s.syncs - then.syncs) / n, logged: (s.logged - then.logged) / n,
		applied: (s.applied - then.applied) / n, ran: (s.ran - then.ran) / n,
	}
}

// sentBy sums what a process has sent over its open connections from and to cluster ports,
// as ss (iproute2) tells it; 0 without ss.
func (c *cluster) sentBy(ctx context.Context, pid int) (sum float64, err error) {
	if _, err := exec.LookPath("ss"); err != nil {
		return 0, nil
	}
	text, err := exec.CommandContext(ctx, "ss", "-tinpHO").Output()
	if err != nil {
		return 0, fmt.Errorf("ss: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, fmt.Sprintf("pid=%d,", pid)) {
			continue
		}
		for node := 1; node <= c.nodes; node++ {
			if strings.Contains(line, c.port(node, clusterPort)+" ") {
				var n float64
				_, _ = scanAfter(line, "bytes_sent:", "%g", &n)
				sum += n
				break
			}
		}
	}
	return sum, nil
}

const clusterPort = 70

// fetch reads a page of a node's admin port.
func (c *cluster) fetch(ctx context.Context, node int, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.port(node, 80)+path, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer dev")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("node %d, %s: %s", node, path, res.Status)
	}
	return string(text), err
}

// profile takes a CPU profile of a node, keeps it in the bench's directory, and divides it.
func (b *bench) profile(ctx context.Context, node int) (map[stage.Stage]float64, error) {
	data, err := b.cluster.fetch(ctx, node,
		"/debug/pprof/profile?seconds="+strconv.Itoa(int(stagesOver.Seconds())))
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, fmt.Sprintf("cpu-n%d-%d", node, time.Now().UnixMilli()))
	if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
		return nil, err
	}
	traces := exec.CommandContext(ctx, "go", "tool", "pprof", "-traces", file)
	text, err := traces.Output()
	if err != nil {
		return nil, fmt.Errorf("go tool pprof: %w", err)
	}
	all, err := stage.Read(strings.NewReader(string(text)))
	return stage.Shares(all), errors.Join(err, ctx.Err())
}

// printStages prints a table: a line for each stage, a column for each role.
func printStages(out io.Writer, name, at string, all []usage) error {
	heads := []string{"leader"}
	switch {
	case len(all) == 1:
		heads = []string{"the only node"}
	case at == "a follower":
		heads = append(heads, "accepting follower", "other followers")
	default:
		heads = append(heads, "followers")
	}
	mean := func(of func(u *usage) float64, role int) (sum float64) {
		rest := all[role : role+1]
		if role == len(heads)-1 {
			rest = all[role:]
		}
		for i := range rest {
			sum += of(&rest[i])
		}
		return sum / float64(len(rest))
	}
	w := tabwriter.NewWriter(out, 2, 8, 2, ' ', tabwriter.AlignRight)
	line := func(name, format string, of func(u *usage) float64) {
		fmt.Fprintf(w, "%s\t", name)
		for role := range heads {
			fmt.Fprintf(w, format+"\t", mean(of, role))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "\n%s\t%s\t\n", name, strings.Join(heads, "\t"))
	for _, s := range stage.All() {
		line(string(s), "%.1f", func(u *usage) float64 { return u.shares[s] * micro(u.cpu) })
	}
	line("all, µs", "%.0f", func(u *usage) float64 { return micro(u.cpu) })
	line("octets sent to nodes", "%.0f", func(u *usage) float64 { return u.sent })
	line("octets of the log", "%.0f", func(u *usage) float64 { return u.logged })
	line("octets written to the disk", "%.0f", func(u *usage) float64 { return u.wrote })
	line("writes and syncs of the log", "%.3f", func(u *usage) float64 { return u.syncs })
	line("commands applied", "%.3f", func(u *usage) float64 { return u.applied })
	line("batches of Apply", "%.3f", func(u *usage) float64 { return u.ran })
	return w.Flush()
}

func micro(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
