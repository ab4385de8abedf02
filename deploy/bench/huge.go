package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

const (
	hugeSize = 50_000_000
	// hugeRest is how long nodes rest before a load and behind it: a node gives memory back
	// some seconds behind one.
	hugeRest  = 12 * time.Second
	hugeSteps = 20 * time.Millisecond // from one look at the memory to the next
)

// huge says how much more memory the nodes take while n messages of 50 MB come in at once,
// at a node that does not lead: kept in a mailbox, and relayed. Each row begins with nodes
// that were just started, and sends one small message to each before it counts.
func (b *bench) huge(ctx context.Context, out io.Writer, n int, only string) error {
	fmt.Fprintf(out, "%s, load %s, %d messages of %d MB at once to one node; resident memory, MiB\n",
		time.Now().UTC().Format(time.DateOnly), machineLoad(), n, hugeSize/1_000_000)
	w := tabwriter.NewWriter(out, 2, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\tnode\tat rest\tat most\tmore\t%s behind\ttime\t\n", hugeRest)
	first := true
	for _, row := range []struct{ name, to string }{
		{"kept in a mailbox", "alice@example.test"}, {"relayed", "rcpt@far.example"},
	} {
		if !wanted(row.name, only) {
			continue
		}
		if !first {
			if err := b.fresh(ctx); err != nil {
				return err
			}
		}
		first = false
		if err := b.hugeRow(ctx, w, row.name, row.to, n); err != nil {
			return fmt.Errorf("%s: %w", row.name, err)
		}
	}
	return w.Flush()
}

func (b *bench) hugeRow(ctx context.Context, w io.Writer, name, to string, n int) error {
	c := b.cluster
	order, addrs, err := c.roles("a follower")
	if err != nil {
		return err
	}
	if _, err := source(ctx, c.smtp(), load{messages: c.nodes, sessions: c.nodes, size: 1000, to: to}); err != nil {
		return err
	}
	if err := sleep(ctx, hugeRest); err != nil {
		return err
	}
	rest, err := c.resident()
	if err != nil {
		return err
	}
	peaks := c.watchMemory(ctx)
	began := time.Now()
	_, err = source(ctx, addrs, load{messages: n, sessions: n, size: hugeSize, to: to})
	if err == nil {
		err = drained(ctx, c)
	}
	took := time.Since(began)
	most, kept := peaks()
	if err == nil {
		err = b.keepHeaps(name, kept)
	}
	if err != nil {
		return err
	}
	if err := sleep(ctx, hugeRest); err != nil {
		return err
	}
	behind, err := c.resident()
	if err != nil {
		return err
	}
	for i, node := range order {
		role := "follower"
		switch {
		case i == 0:
			role = "leader"
		case len(addrs) == 1 && addrs[0] == c.smtp()[node-1]:
			role = "accepting follower"
		}
		mib := func(n int64) float64 { return float64(n) / (1 << 20) }
		fmt.Fprintf(w, "%s\t%s\t%.0f\t%.0f\t%+.0f\t%.0f\t%.1f s\t\n", name, role, mib(rest[node]), mib(most[node]),
			mib(most[node]-rest[node]), mib(behind[node]), took.Seconds())
	}
	return nil
}

// resident is the memory of each node, by its number.
func (c *cluster) resident() (map[int]int64, error) {
	all := map[int]int64{}
	for node := 1; node <= c.nodes; node++ {
		pid, err := pidFile(filepath.Join(c.nodeDir(node), "relayd.pid"))
		if err != nil {
			return nil, err
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return nil, err
		}
		var kb int64
		if _, err := scanAfter(string(status), "VmRSS:", "%d", &kb); err != nil {
			return nil, err
		}
		all[node] = kb << 10
	}
	return all, nil
}

// watchMemory looks at the nodes' memory until the returned function is called, which says
// how much each had at most, and has a heap profile of each from when it was far up.
func (c *cluster) watchMemory(ctx context.Context) func() (most map[int]int64, heaps map[int]string) {
	most, heaps := map[int]int64{}, map[int]string{}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var taken sync.WaitGroup
	var mu sync.Mutex
	at := map[int]int64{} // of the last profile
	wg.Go(func() {
		for sleep(ctx, hugeSteps) == nil {
			now, err := c.resident()
			if err != nil {
				return
			}
			for node, n := range now {
				most[node] = max(most[node], n)
				if n > at[node]+at[node]/5 {
					at[node] = n
					taken.Go(func() {
						if heap, err := c.fetch(context.WithoutCancel(ctx), node, "/debug/pprof/heap"); err == nil {
							mu.Lock()
							heaps[node] = heap
							mu.Unlock()
						}
					})
				}
			}
		}
	})
	return func() (map[int]int64, map[int]string) {
		cancel()
		wg.Wait()
		taken.Wait()
		return most, heaps
	}
}

// keepHeaps writes heap profiles to the bench's directory.
func (b *bench) keepHeaps(name string, heaps map[int]string) error {
	for node, heap := range heaps {
		file := fmt.Sprintf("heap-%s-n%d", strings.ReplaceAll(name, " ", "-"), node)
		if err := os.WriteFile(filepath.Join(b.dir, file), []byte(heap), 0o644); err != nil {
			return err
		}
	}
	return nil
}
