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
	"syscall"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, out, errs io.Writer) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(errs)
	n := flags.Int("n", 3000, "messages a row")
	rounds := flags.Int("rounds", 0, "rounds; the median counts (default 3, with -with 5)")
	with := flags.String("with", "", "run this relayd of a former build in turns with this one, in place of the peers")
	nodes := flags.Int("nodes", 3, "nodes of the cluster: 1, 3 or 5")
	only := flags.String("rows", "", "rows, or with -hostile attacks, to run, by a part of their name, comma-separated")
	keep := flags.String("dir", "", "keep logs in this directory")
	logins := flags.Int("logins", 100, "POP3 sessions of each of 20 clients a round")
	idle := flags.Int("idle", 0, "instead of the table: busy connections beside so many idle ones, on one node")
	busy := flags.Int("busy", 200, "busy connections, with -idle")
	large := flags.Int("large", 0, "instead of the table: a mailbox of so many messages, and what it costs others")
	idlePOP3 := flags.Int("idle-pop3", 0, "instead of the table: so many idle POP3 connections to one node")
	steady := flags.Bool("steady", false, "instead of the table: what mail costs while as much history is swept")
	hostile := flags.Bool("hostile", false, "instead of the table: what attacks cost a node, and an innocent sender")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *rounds <= 0 {
		*rounds = 3
		if *with != "" {
			*rounds = 5
		}
	}
	b := &bench{n: *n, logins: *logins, nodes: *nodes, dir: *keep, errs: errs}
	defer b.tearDown()
	if *hostile {
		dns, err := deafDNS()
		if err != nil {
			fmt.Fprintln(errs, "bench:", err)
			return 1
		}
		defer dns.Close()
	}
	err := b.setUp(ctx, *idle+*idlePOP3+*large == 0 && !*hostile && !*steady, *with)
	if err == nil {
		switch {
		case *hostile:
			err = b.hostile(ctx, out, *only)
		case *steady:
			err = b.steady(ctx, out)
		case *idle > 0:
			err = b.crowded(ctx, out, *rounds, crowd{idle: *idle, busy: *busy, messages: *n})
		case *idlePOP3 > 0:
			err = b.idlePOP3(ctx, out, *idlePOP3)
		case *large > 0:
			err = b.large(ctx, out, *large)
		default:
			err = b.printTable(ctx, out, *rounds, *only)
		}
	}
	if err != nil {
		fmt.Fprintln(errs, "bench:", err)
		return 1
	}
	return 0
}

// bench is the sides and what they share.
type bench struct {
	n       int
	logins  int
	nodes   int
	dir     string
	temp    bool
	errs    io.Writer
	cluster *cluster
	former  *cluster // nil: the peers are compared with
	postfix *postfix
	dovecot *dovecot
	sink    *exec.Cmd
}

// sinkPort is where all sides relay to.
const sinkPort = 14025

// setUp starts the sides. If it fails, tearDown ends what it has begun.
func (b *bench) setUp(ctx context.Context, compare bool, with string) (err error) {
	for _, program := range []string{"smtp-source", "smtp-sink"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is missing: apt-get install postfix", program)
		}
	}
	if with != "" {
		if with, err = formerBinary(with); err != nil {
			return err
		}
	}
	if err := b.makeDir(); err != nil {
		return err
	}
	sink := exec.CommandContext(ctx, "smtp-sink", "-u", "nobody", fmt.Sprintf("127.0.0.1:%d", sinkPort), "1000")
	if err := sink.Start(); err != nil {
		return err
	}
	b.sink = sink
	if err := b.startClusters(ctx, with); err != nil {
		return err
	}
	if compare && with == "" {
		b.startPeers(ctx)
	}
	return nil
}

// makeDir makes the directory of all sides. Postfix and Dovecot drop privileges:
// they must get through to their files.
func (b *bench) makeDir() (err error) {
	if b.dir == "" {
		b.temp = true
		if b.dir, err = os.MkdirTemp("", "relay-bench"); err != nil {
			return err
		}
	}
	return os.Chmod(b.dir, 0o755)
}

// startClusters starts a cluster of this build, and one of the former build where
// there is one.
func (b *bench) startClusters(ctx context.Context, former string) error {
	binary := filepath.Join(b.dir, "relayd")
	if err := build(ctx, binary); err != nil {
		return err
	}
	c := &cluster{binary: binary, nodes: b.nodes, base: basePort, dir: filepath.Join(b.dir, "cluster")}
	if err := c.start(ctx); err != nil {
		return err
	}
	b.cluster = c
	if former == "" {
		return nil
	}
	c = &cluster{binary: former, nodes: b.nodes, base: formerPort, dir: filepath.Join(b.dir, "former")}
	if err := c.start(ctx); err != nil {
		return err
	}
	b.former = c
	return nil
}

func (b *bench) startPeers(ctx context.Context) {
	var err error
	if b.postfix, err = startPostfix(ctx, filepath.Join(b.dir, "postfix")); err != nil {
		fmt.Fprintln(b.errs, "bench: no Postfix:", err)
	}
	if b.dovecot, err = startDovecot(ctx, filepath.Join(b.dir, "dovecot")); err != nil {
		fmt.Fprintln(b.errs, "bench: no Dovecot:", err)
	}
}

func (b *bench) tearDown() {
	for _, c := range []*cluster{b.cluster, b.former} {
		if c != nil {
			c.stop()
		}
	}
	if b.postfix != nil {
		b.postfix.stop()
	}
	if b.dovecot != nil {
		b.dovecot.stop()
	}
	if b.sink != nil {
		_ = b.sink.Process.Kill()
		_ = b.sink.Wait()
	}
	if b.temp {
		_ = os.RemoveAll(b.dir)
	}
}
