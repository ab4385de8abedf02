package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// row is one line of the table: a load, and how fast each side takes it.
type row struct {
	name  string
	unit  string
	less  bool // smaller is better
	relay func(context.Context) (float64, error)
	peer  func(context.Context) (float64, error)
}

func run(args []string, out, errs io.Writer) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(errs)
	n := flags.Int("n", 3000, "messages a row")
	rounds := flags.Int("rounds", 3, "rounds; the median counts")
	only := flags.String("rows", "", "rows to run, by a part of their name, comma-separated")
	keep := flags.String("dir", "", "keep logs in this directory")
	logins := flags.Int("logins", 100, "POP3 sessions of each of 20 clients a round")
	idle := flags.Int("idle", 0, "instead of the table: busy connections beside so many idle ones, on one node")
	busy := flags.Int("busy", 200, "busy connections, with -idle")
	large := flags.Int("large", 0, "instead of the table: a mailbox of so many messages, and what it costs others")
	idlePOP3 := flags.Int("idle-pop3", 0, "instead of the table: so many idle POP3 connections to one node")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b, err := setUp(ctx, *n, *keep, *idle+*idlePOP3+*large == 0, errs)
	if err == nil {
		b.logins = *logins
		defer b.tearDown()
		switch {
		case *idle > 0:
			err = b.crowded(ctx, out, *rounds, crowd{idle: *idle, busy: *busy, messages: *n})
		case *idlePOP3 > 0:
			err = b.idlePOP3(ctx, out, *idlePOP3)
		case *large > 0:
			err = b.large(ctx, out, *large)
		default:
			err = b.table(ctx, out, *rounds, *only)
		}
	}
	if err != nil {
		fmt.Fprintln(errs, "bench:", err)
		return 1
	}
	return 0
}

// bench is the two sides and what they share.
type bench struct {
	n       int
	logins  int
	dir     string
	temp    bool
	errs    io.Writer
	cluster *cluster
	postfix *postfix
	dovecot *dovecot
	sink    *exec.Cmd
}

// sinkPort is where both sides relay to.
const sinkPort = 14025

func setUp(ctx context.Context, n int, dir string, peers bool, errs io.Writer) (*bench, error) {
	b := &bench{n: n, dir: dir, errs: errs}
	if dir == "" {
		b.temp = true
		var err error
		if b.dir, err = os.MkdirTemp("", "relay-bench"); err != nil {
			return nil, err
		}
	}
	// Postfix and Dovecot drop privileges: they must get through to their files.
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return nil, err
	}
	for _, program := range []string{"smtp-source", "smtp-sink"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%s is missing: apt-get install postfix", program)
		}
	}
	b.sink = exec.CommandContext(ctx, "smtp-sink", "-u", "nobody", fmt.Sprintf("127.0.0.1:%d", sinkPort), "1000")
	if err := b.sink.Start(); err != nil {
		return nil, err
	}
	var err error
	if b.cluster, err = startCluster(ctx, filepath.Join(b.dir, "cluster")); err != nil {
		b.tearDown()
		return nil, err
	}
	if !peers {
		return b, nil
	}
	if b.postfix, err = startPostfix(ctx, filepath.Join(b.dir, "postfix")); err != nil {
		fmt.Fprintln(errs, "bench: no Postfix:", err)
	}
	if b.dovecot, err = startDovecot(ctx, filepath.Join(b.dir, "dovecot")); err != nil {
		fmt.Fprintln(errs, "bench: no Dovecot:", err)
	}
	return b, nil
}

func (b *bench) tearDown() {
	if b.cluster != nil {
		b.cluster.stop()
	}
	if b.postfix != nil {
		b.postfix.stop()
	}
	if b.dovecot != nil {
		b.dovecot.stop()
	}
	_ = b.sink.Process.Kill()
	_ = b.sink.Wait()
	if b.temp {
		_ = os.RemoveAll(b.dir)
	}
}

// table runs all rows, the sides in turns, and prints medians.
func (b *bench) table(ctx context.Context, out io.Writer, rounds int, only string) error {
	w := tabwriter.NewWriter(out, 2, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "load\trelay, 3 nodes\tpeer, 1 node\tunit\tratio\t\n")
	for _, r := range b.rows() {
		if !wanted(r.name, only) {
			continue
		}
		var ours, theirs []float64
		for range rounds {
			v, err := r.relay(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			ours = append(ours, v)
			if r.peer == nil {
				continue
			}
			if v, err = r.peer(ctx); err != nil {
				return fmt.Errorf("%s, peer: %w", r.name, err)
			}
			theirs = append(theirs, v)
		}
		print(w, r, ours, theirs)
		fmt.Fprintf(b.errs, "%s: relay %.1f, peer %.1f %s\n", r.name, ours, theirs, r.unit)
	}
	fmt.Fprintf(out, "%s; every 250 of the relay synced on a majority; peers with their default sync; both on this machine, in turns, median of %d\n",
		time.Now().UTC().Format("2006-01-02"), rounds)
	return w.Flush()
}

func wanted(name, only string) bool {
	if only == "" {
		return true
	}
	for part := range strings.SplitSeq(only, ",") {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

func print(w io.Writer, r row, ours, theirs []float64) {
	a := median(ours)
	if len(theirs) == 0 {
		fmt.Fprintf(w, "%s\t%.1f\t–\t%s\t–\t\n", r.name, a, r.unit)
		return
	}
	p := median(theirs)
	ratio := a / p
	if r.less {
		ratio = p / a
	}
	fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%s\t%.2f×\t\n", r.name, a, p, r.unit, ratio)
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// rows are the loads of the table.
func (b *bench) rows() []row {
	smtp := func(name string, sessions, size int, drain bool) row {
		r := row{name: name, unit: "msg/s", relay: func(ctx context.Context) (float64, error) {
			return b.cluster.send(ctx, b.n, sessions, size, drain)
		}}
		if b.postfix != nil {
			r.peer = func(ctx context.Context) (float64, error) { return b.postfix.send(ctx, b.n, sessions, size, drain) }
		}
		return r
	}
	one := row{name: "one session, 4 KiB, time to 250", unit: "ms", less: true,
		relay: func(ctx context.Context) (float64, error) { return latency(ctx, b.cluster.smtp()[0], 300) }}
	if b.postfix != nil {
		one.peer = func(ctx context.Context) (float64, error) { return latency(ctx, b.postfix.addr(), 300) }
	}
	rows := []row{
		smtp("accept 4 KiB, 20 sessions", 20, 4096, false),
		smtp("accept 4 KiB, 100 sessions", 100, 4096, false),
		smtp("accept and relay 4 KiB, 20 sessions", 20, 4096, true),
		smtp("accept and relay 64 KiB, 20 sessions", 20, 65536, true),
		one,
	}
	return append(rows, b.pop3Rows()...)
}
