package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

const (
	// leastHistory is the shortest time that a cluster keeps history for.
	leastHistory = 10 * time.Minute
	// windowsLate is how much later history may go from cluster version 2 on: a window of a
	// minute goes as a whole, ten minutes after the last of its messages may.
	windowsLate = 11 * time.Minute
	// steadyOver is how long the load and what it causes are measured. It is more than
	// the load and two rounds of sweeping take, and the same for each, so that what idle
	// nodes use counts alike.
	steadyOver = 45 * time.Second
)

// steady says what a message costs while as much history is swept as mail is
// delivered. It delivers n messages, and measures that; waits until their history may be
// swept; has it swept while it delivers n more, and measures that. It raises the
// cluster version first, and takes some 23 minutes.
func (b *bench) steady(ctx context.Context, out io.Writer) error {
	clusters := []*cluster{b.cluster}
	if b.former != nil {
		clusters = append(clusters, b.former)
	}
	l := load{messages: b.n, sessions: 20, size: 4096, drain: true}
	var alone, both []float64
	for _, c := range clusters {
		if err := c.raise(ctx); err != nil {
			return err
		}
		cpu, err := c.steadyLoad(ctx, l, nil)
		if err != nil {
			return err
		}
		alone = append(alone, cpu)
	}
	wait := leastHistory + windowsLate + 5*time.Second
	fmt.Fprintf(b.errs, "bench: waiting for %s, until that history may be swept\n", wait)
	if err := sleep(ctx, wait); err != nil {
		return err
	}
	for _, c := range clusters {
		cpu, err := c.steadyLoad(ctx, l, c.sweepAll)
		if err != nil {
			return err
		}
		both = append(both, cpu)
	}
	w := tabwriter.NewWriter(out, 2, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "CPU s/1,000 of 4 KiB, with %s of idle nodes\tdelivered\tand as many swept\t\n", steadyOver)
	for i, name := range []string{"this build", "former build"}[:len(clusters)] {
		fmt.Fprintf(w, "%s\t%.3f\t%.3f\t\n", name, alone[i], both[i])
	}
	return w.Flush()
}

// sweepAll has the cluster sweep what is older than leastHistory.
func (c *cluster) sweepAll() error {
	return c.call(http.MethodPut, "/v1/settings", fmt.Sprintf(`{"history_seconds":%d}`, leastHistory/time.Second))
}

// steadyLoad returns the CPU seconds that 1,000 messages took. If sweep is not nil, it
// begins the sweeping, and as much as was delivered must be gone in the end.
func (c *cluster) steadyLoad(ctx context.Context, l load, sweep func() error) (float64, error) {
	before, err := c.historyBytes(ctx)
	if err != nil {
		return 0, err
	}
	used, err := treeCPU(c.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	end := time.Now().Add(steadyOver)
	if sweep != nil {
		if err := sweep(); err != nil {
			return 0, err
		}
	}
	if _, err := send(ctx, c, l); err != nil {
		return 0, err
	}
	left := time.Until(end)
	if left < 0 {
		return 0, fmt.Errorf("the load takes more than %s: choose a smaller -n", steadyOver)
	}
	if err := sleep(ctx, left); err != nil {
		return 0, err
	}
	after, err := treeCPU(c.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	is, err := c.historyBytes(ctx)
	if err != nil {
		return 0, err
	}
	if sweep != nil && is > before*1.2 {
		return 0, fmt.Errorf("the sweep did not end within %s: there are %.0f octets of history, and were %.0f",
			steadyOver, is, before)
	}
	return (after - used).Seconds() * 1000 / float64(l.messages), nil
}

// historyBytes reads the size of the history from node 1's metrics.
func (c *cluster) historyBytes(ctx context.Context) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.port(1, 80)+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	return metric(res.Body, "relay_cluster_history_bytes")
}

// metric finds the value of a metric without labels.
func metric(r io.Reader, name string) (float64, error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, errors.Join(fmt.Errorf("there is no metric %s", name), lines.Err())
}

// sleep waits for a time or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
