package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"relay/deploy/bench/preload"
)

// waitingRound is how many messages a round of the rows of a long queue enqueues.
const waitingRound = 12000

// waiting says what n waiting messages cost: each more of them, a restart, memory, and
// the operator's looks at them, beside a cluster of the same build whose queue is short.
func (b *bench) waiting(ctx context.Context, out io.Writer, n, rounds int) error {
	long, short := b.cluster, b.former
	if err := long.preload(ctx, preload.Stock{
		Messages: n, Waiting: true, Size: 4096, Span: time.Hour, Domains: 1000,
	}); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 2, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%s, load %s\t%d waiting\tfew\tunit\tratio\t\n", long.size(), machineLoad(), n)
	row := func(name, unit string, long, short, ratio float64) {
		fmt.Fprintf(w, "%s\t%.3f\t%.3f\t%s\t%.3f\t\n", name, long, short, unit, ratio)
	}
	restarts := func(how string, stop func(c *cluster)) error {
		var took [2]float64
		for i, c := range []*cluster{long, short} {
			waits, err := c.owned()
			if err != nil {
				return err
			}
			if took[i], err = c.restartTime(ctx, stop, waits); err != nil {
				return err
			}
		}
		row("from "+how+" until all of the queue is known again", "s", took[0], took[1], took[0]/took[1])
		return nil
	}
	if err := restarts("a stop", (*cluster).stop); err != nil {
		return err
	}
	if err := restarts("kill -9", (*cluster).kill); err != nil {
		return err
	}
	if err := b.waitingLoads(ctx, long, short, rounds, row); err != nil {
		return err
	}
	for _, look := range looks {
		var took [2]float64
		for i, c := range []*cluster{long, short} {
			var times []float64
			for range max(rounds, 3) {
				begin := time.Now()
				if err := c.call(look.method, look.path, look.body); err != nil {
					return err
				}
				times = append(times, time.Since(begin).Seconds())
			}
			took[i] = median(times)
		}
		row(look.name, "s", took[0], took[1], took[0]/took[1])
	}
	return w.Flush()
}

// looks are what operators do with a long queue.
var looks = []struct{ name, method, path, body string }{
	{"queue ls --sort size", http.MethodGet, "/v1/queue?sort=-size&limit=50", ""},
	{"queue ls --sort attempts", http.MethodGet, "/v1/queue?sort=-attempts&limit=50", ""},
	{"queue hold --all --dry-run", http.MethodPost, "/v1/queue/actions", `{"action":"hold","all":true,"dry_run":true}`},
	{"queue stats", http.MethodGet, "/v1/queue/stats", ""},
}

// waitingLoads enqueues at both clusters in turns, and reads their memory.
func (b *bench) waitingLoads(ctx context.Context, long, short *cluster, rounds int,
	print func(name, unit string, long, short, ratio float64)) error {
	r := row{name: "enqueue 4 KiB, 20 sessions", unit: "msg/s", work: waitingRound, calm: true}
	for _, c := range []*cluster{long, short} {
		r.sides = append(r.sides, side{root: c.root, load: func(ctx context.Context) (float64, error) {
			took, err := source(ctx, c.smtp(), load{messages: waitingRound, sessions: 20, size: 4096})
			return waitingRound / took.Seconds(), err
		}})
	}
	results, err := r.run(ctx, rounds)
	if err != nil {
		return err
	}
	r.note(b.errs, results)
	longRate, longCPU := medians(results[0])
	shortRate, shortCPU := medians(results[1])
	ratio, cpuRatio := r.ratios(results[0], results[1])
	print(r.name, r.unit, longRate, shortRate, ratio)
	cpu, err := strconv.ParseFloat(cpuRatio, 64)
	if err != nil {
		return err
	}
	print("CPU of it, s/1,000", "s", longCPU, shortCPU, cpu)
	var resident, live [2]float64
	for i, c := range []*cluster{long, short} {
		m, err := (&bench{cluster: c}).memory()
		if err != nil {
			return err
		}
		resident[i], live[i] = float64(m.resident)/(1<<20), float64(m.live)/(1<<20)
	}
	print("memory of node 1, resident", "MiB", resident[0], resident[1], resident[0]/resident[1])
	print("memory of node 1, heap and stacks in use", "MiB", live[0], live[1], live[0]/live[1])
	return nil
}

// preload kills the cluster, fills its data, and starts it again.
func (c *cluster) preload(ctx context.Context, s preload.Stock) error {
	if err := c.raise(ctx); err != nil {
		return err
	}
	c.kill()
	var dirs []string
	for i := range c.nodes {
		dirs = append(dirs, c.nodeDir(i+1))
	}
	if err := preload.Fill(ctx, dirs, s); err != nil {
		return fmt.Errorf("preload: %w", err)
	}
	if err := c.start(ctx); err != nil {
		return err
	}
	if !s.Waiting {
		return nil
	}
	return waitFor(ctx, 2*time.Minute, func() bool {
		n, err := c.owned()
		return err == nil && n >= float64(s.Messages)
	})
}

// boundHistory has the cluster keep less history than it has, so that it sweeps a window
// of a minute whenever one is old enough.
func (c *cluster) boundHistory(ctx context.Context) error {
	has, err := c.historyBytes(ctx)
	if err != nil {
		return err
	}
	return c.call(http.MethodPut, "/v1/settings", fmt.Sprintf(`{"history_bytes":%d}`, int64(has/boundPart)))
}

// boundPart is by how much less history a cluster may keep than it was filled with.
const boundPart = 10

// raise raises the cluster version, so that what is measured is what clusters have an
// hour after their upgrade.
func (c *cluster) raise(ctx context.Context) error {
	raised := func() bool {
		s, err := c.status()
		return err == nil && s.Version >= newestVersion
	}
	if raised() { // a new cluster begins with it
		return nil
	}
	if err := c.call(http.MethodPost, "/v1/cluster/upgrade", ""); err != nil {
		return err
	}
	return waitFor(ctx, time.Minute, raised)
}

// newestVersion is the cluster version that -steady, -history and -waiting measure.
const newestVersion = 2

// owned is how many recipients the nodes' queue managers hold.
func (c *cluster) owned() (sum float64, err error) {
	for i := range c.nodes {
		res, err := http.Get("http://" + c.port(i+1, 80) + "/metrics")
		if err != nil {
			return 0, err
		}
		lines := bufio.NewScanner(res.Body)
		for lines.Scan() {
			if rest, ok := strings.CutPrefix(lines.Text(), "relay_queue_owned{"); ok {
				_, value, _ := strings.Cut(rest, "} ")
				n, err := strconv.ParseFloat(value, 64)
				if err != nil {
					_ = res.Body.Close()
					return 0, err
				}
				sum += n
			}
		}
		_ = res.Body.Close()
		if err := lines.Err(); err != nil {
			return 0, err
		}
	}
	return sum, nil
}

// restartTime is how long a cluster takes from its start until it serves and knows all
// that waits.
func (c *cluster) restartTime(ctx context.Context, stop func(*cluster), waits float64) (float64, error) {
	stop(c)
	begin := time.Now()
	if err := c.start(ctx); err != nil {
		return 0, err
	}
	err := waitFor(ctx, 2*time.Minute, func() bool {
		n, err := c.owned()
		return err == nil && n >= waits
	})
	return time.Since(begin).Seconds(), err
}

// closedHop is a next hop that turns all mail away for now.
func closedHop() (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "421 4.3.2 bench.example is closed\r\n")
			_ = conn.Close()
		}
	}()
	return l, nil
}

// machineLoad is the load of the last minute as the kernel counts it.
func machineLoad() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	load, _, _ := strings.Cut(string(text), " ")
	return load
}
