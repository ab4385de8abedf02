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
	"strconv"
	"strings"
	"syscall"
	"time"

	"relay/deploy/bench/cgroup"
	"relay/deploy/bench/preload"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == reaperVerb {
		os.Exit(reap(os.Args[2:]))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// options are what the flags say.
type options struct {
	n, rounds, logins, history, waiting, base, idle, busy, large, idlePOP3, hugeMail int
	with, nodes, only, dir                                                           string
	steady, hostile, stages                                                          bool
	cpus                                                                             float64

	mail  string
	sizes []int
}

func parse(args []string, errs io.Writer) (*options, error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(errs)
	o := &options{}
	flags.IntVar(&o.n, "n", 3000, "messages a row")
	flags.IntVar(&o.rounds, "rounds", 0, "rounds; the median counts (default 3, with -with 5)")
	flags.StringVar(&o.with, "with", "", "run this relayd of a former build in turns with this one, in place of the "+
		"peers;\nempty: this build, without what -history fills in")
	flags.StringVar(&o.nodes, "nodes", "3",
		"nodes of the cluster: 1, 3 or 5, or several of them, as 3,1: the table has a column for each")
	flags.IntVar(&o.base, "base-port", basePort, "lowest port of the clusters; the others count from it")
	flags.StringVar(&o.only, "rows", "",
		"rows, or with -hostile attacks, to run, by a part of their name, comma-separated")
	flags.StringVar(&o.dir, "dir", "", "keep logs in this directory")
	flags.StringVar(&o.mail, "mail", "filler", "what rows of SMTP send: filler, as smtp-source makes it,\n"+
		"or real, which looks like the mail of people and programs, of 4 KiB to 1 MiB")
	flags.IntVar(&o.logins, "logins", 100, "POP3 sessions of each of 20 clients a round")
	flags.IntVar(&o.history, "history", 0, "begin with so many messages of history, and sweep it meanwhile")
	flags.IntVar(&o.waiting, "waiting", 0, "instead of the table: what so many waiting messages cost")
	flags.IntVar(&o.idle, "idle", 0, "instead of the table: busy connections beside so many idle ones, on one node")
	flags.IntVar(&o.busy, "busy", 200, "busy connections, with -idle")
	flags.IntVar(&o.large, "large", 0, "instead of the table: a mailbox of so many messages, and what it costs others")
	flags.IntVar(&o.idlePOP3, "idle-pop3", 0, "instead of the table: so many idle POP3 connections to one node")
	flags.BoolVar(&o.steady, "steady", false, "instead of the table: what mail costs while as much history is swept")
	flags.BoolVar(&o.hostile, "hostile", false, "instead of the table: what attacks cost a node, and an innocent sender")
	flags.BoolVar(&o.stages, "stages", false, "instead of the table: what each stage of a message costs each node")
	flags.IntVar(&o.hugeMail, "huge", 0, "instead of the table: memory while so many messages of 50 MB come in at once")
	flags.Float64Var(&o.cpus, "cpus", 0, "limit each node of the clusters to so many processors, as 0.5; 0: no limit")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if o.waiting > 0 {
		o.with = emptyBuild
	}
	if o.rounds <= 0 {
		o.rounds = 3
		if o.with != "" && o.waiting == 0 {
			o.rounds = 5
		}
	}
	var err error
	if o.sizes, err = parseSizes(o.nodes); err != nil {
		fmt.Fprintln(errs, "bench:", err)
		return o, err
	}
	if o.mail != "filler" && o.mail != realMail {
		err = fmt.Errorf("-mail wants filler or real, and not %q", o.mail)
		fmt.Fprintln(errs, "bench:", err)
	}
	return o, err
}

// compares reports whether the peers take part.
func (o *options) compares() bool {
	return o.idle+o.idlePOP3+o.large+o.waiting+o.hugeMail == 0 && !o.hostile && !o.steady && !o.stages
}

func run(args []string, out, errs io.Writer) int {
	o, err := parse(args, errs)
	if err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{
		n: o.n, logins: o.logins, nodes: o.sizes[0], more: o.sizes[1:], dir: o.dir, errs: errs, history: o.history,
		base: o.base, cpus: o.cpus,
		real: o.mail == realMail,
	}
	defer b.tearDown()
	if err := b.perform(ctx, out, o); err != nil {
		fmt.Fprintln(errs, "bench:", err)
		return 1
	}
	return 0
}

// perform sets up what the options ask for, and measures it.
func (b *bench) perform(ctx context.Context, out io.Writer, o *options) error {
	if o.hostile {
		dns, err := deafDNS()
		if err != nil {
			return err
		}
		defer dns.Close()
	}
	if o.waiting > 0 {
		hop, err := closedHop()
		if err != nil {
			return err
		}
		defer hop.Close()
		b.hop = hop.Addr().String()
	}
	if err := b.setUp(ctx, o.compares(), o.with); err != nil {
		return err
	}
	switch {
	case o.hostile:
		return b.hostile(ctx, out, o.only)
	case o.steady:
		return b.steady(ctx, out)
	case o.hugeMail > 0:
		return b.huge(ctx, out, o.hugeMail, o.only)
	case o.stages:
		return b.stages(ctx, out, o.only)
	case o.idle > 0:
		return b.crowded(ctx, out, o.rounds, crowd{idle: o.idle, busy: o.busy, messages: o.n})
	case o.idlePOP3 > 0:
		return b.idlePOP3(ctx, out, o.idlePOP3)
	case o.large > 0:
		return b.large(ctx, out, o.large)
	case o.waiting > 0:
		return b.waiting(ctx, out, o.waiting, o.rounds)
	}
	return b.printTable(ctx, out, o.rounds, o.only)
}

// bench is the sides and what they share.
type bench struct {
	n       int
	logins  int
	nodes   int
	more    []int   // sizes of more clusters
	base    int     // lowest port of the clusters
	cpus    float64 // that each node may use; 0: all
	history int     // messages that the clusters begin with
	hop     string  // where the clusters' remote mail goes; empty: the sink
	real    bool    // rows of SMTP send mail that looks real
	dir     string
	temp    bool
	errs    io.Writer
	cluster *cluster
	former  *cluster   // nil: the peers are compared with
	others  []*cluster // of this build, of other sizes
	postfix *postfix
	exim    *exim
	dovecot *dovecot
	sink    *exec.Cmd
	weight  *cgroup.Group // of the load, where nodes are limited
}

// sinkPort is where all sides relay to.
const sinkPort = 9925

// setUp starts the sides. If it fails, tearDown ends what it has begun.
func (b *bench) setUp(ctx context.Context, compare bool, with string) (err error) {
	for _, program := range []string{"smtp-source", "smtp-sink"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is missing: apt-get install postfix", program)
		}
	}
	if with != "" && with != emptyBuild {
		if with, err = formerBinary(with); err != nil {
			return err
		}
	}
	if err := b.makeDir(); err != nil {
		return err
	}
	if err := b.weigh(); err != nil {
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

// weigh puts this process and its children, the load and the next hop, into a group that
// gets processors like the nodes do, where those are limited: else other work on the
// machine would limit the load.
func (b *bench) weigh() (err error) {
	if b.cpus == 0 {
		return nil
	}
	if b.weight, err = cgroup.New(cgroup.Root, fmt.Sprintf("relay-bench-%d", os.Getpid()), 0); err != nil {
		return err
	}
	return b.weight.Add(os.Getpid())
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
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
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
	base := b.base
	start := func(name, binary, dir string, nodes int) (*cluster, error) {
		c := &cluster{name: name, binary: binary, nodes: nodes, base: base, dir: filepath.Join(b.dir, dir), hop: b.hop,
			cpus: b.cpus}
		base += 100 * (nodes + 1)
		return c, c.start(ctx)
	}
	var err error
	switch former {
	case "":
		b.cluster, err = start("", binary, "cluster", b.nodes)
	case emptyBuild:
		if b.cluster, err = start("", binary, "cluster", b.nodes); err == nil {
			b.former, err = start("with an empty store", binary, "former", b.nodes)
			b.former.empties = true
		}
	default:
		if b.cluster, err = start("this build", binary, "cluster", b.nodes); err == nil {
			b.former, err = start("former build", former, "former", b.nodes)
		}
	}
	for _, n := range b.more {
		if err != nil {
			return err
		}
		var c *cluster
		c, err = start("", binary, fmt.Sprintf("cluster-of-%d", n), n)
		b.others = append(b.others, c)
	}
	if err != nil {
		return err
	}
	return b.age(ctx)
}

// clusters are all that there are, this build's first.
func (b *bench) clusters() (all []*cluster) {
	all = append(all, b.cluster)
	if b.former != nil {
		all = append(all, b.former)
	}
	return append(all, b.others...)
}

// parseSizes reads -nodes.
func parseSizes(text string) (sizes []int, err error) {
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(part)
		if err != nil || n != 1 && n != 3 && n != 5 || slices.Contains(sizes, n) {
			return nil, fmt.Errorf("-nodes wants 1, 3 or 5, or several of them, as 3,1, and not %q", text)
		}
		sizes = append(sizes, n)
	}
	return sizes, nil
}

// emptyBuild is the value of -with that names this build, without history.
const emptyBuild = "empty"

// age gives the clusters their history, and has them sweep it from then on.
func (b *bench) age(ctx context.Context) error {
	if b.history == 0 {
		return nil
	}
	due := time.Now().Add(historyDue - historySpan + time.Minute)
	for _, c := range b.clusters() {
		switch {
		case c.empties:
			if err := c.raise(ctx); err != nil {
				return err
			}
		default:
			if err := c.preload(ctx, preload.Stock{Messages: b.history, Size: 200, Span: historySpan}); err != nil {
				return err
			}
			if err := c.boundHistory(ctx); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(b.errs, "bench: waiting until %s, when history may be swept\n", due.Format(time.TimeOnly))
	return sleep(ctx, time.Until(due))
}

const (
	// historySpan is within how long the messages of -history came: as long as their windows
	// take messages. Their sweeping takes as long.
	historySpan = 9*time.Minute + 30*time.Second
	// historyDue is how long behind its end a window may be swept where history is over its
	// bound: ten minutes in which messages are on time for it, and the least time for them.
	historyDue = 20 * time.Minute
)

func (b *bench) startPeers(ctx context.Context) {
	var err error
	if b.postfix, err = startPostfix(ctx, filepath.Join(b.dir, "postfix")); err != nil {
		fmt.Fprintln(b.errs, "bench: no Postfix:", err)
	}
	if x, err := startExim(ctx, filepath.Join(b.dir, "exim")); err != nil {
		fmt.Fprintln(b.errs, "bench: no Exim:", err)
	} else {
		b.exim = x
	}
	if b.dovecot, err = startDovecot(ctx, filepath.Join(b.dir, "dovecot")); err != nil {
		fmt.Fprintln(b.errs, "bench: no Dovecot:", err)
	}
}

func (b *bench) tearDown() {
	for _, c := range b.clusters() {
		if c != nil && c.cmd != nil && c.cmd.Process != nil {
			c.stop()
		}
	}
	if b.postfix != nil {
		b.postfix.stop()
	}
	if b.exim != nil {
		b.exim.stop()
	}
	if b.dovecot != nil {
		b.dovecot.stop()
	}
	if b.sink != nil {
		_ = b.sink.Process.Kill()
		_ = b.sink.Wait()
	}
	if b.weight != nil {
		_ = b.weight.Remove(os.Getpid())
		_ = b.weight.Close()
	}
	if b.temp {
		_ = os.RemoveAll(b.dir)
	}
}
