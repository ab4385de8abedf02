package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

// devOptions are the flags of relayd dev.
type devOptions struct {
	nodes        int
	dir          string // empty: a fresh temporary one, removed at the end
	basePort     int
	listen       string
	readyFile    string
	relay        string // HOST:PORT that takes remote mail; empty: the sink
	restartAfter time.Duration
	discard      bool
}

func newDev() *cobra.Command {
	var o devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "a whole cluster on loopback, to try things on",
		Long: `Runs a cluster on loopback, each node its own process so that one can be
killed, and a sink that takes all remote mail, so that nothing leaves the
machine. Domain example.test is local; alice@example.test and
bob@example.test have the password secret, postmaster is an alias of alice.

Node i (1, 2, 3), base port 12000: SMTP 12i25, submission 12i87 (STARTTLS) and
12i65 (TLS), POP3 12i10, POP3S 12i95, admin HTTP 12i80, cluster 12i70. The sink
listens on 12025 and keeps each message as a file under DIR/sink. Node i keeps
its state, its log and relayd.pid under DIR/nI. Admin token: dev.

127.0.0.1 and ::1 are trusted; every other loopback address is a stranger.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			return runDev(cmd.Context(), o, cmd.Flags().Changed, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.nodes, "nodes", 3, "how many nodes: 1, 3 or 5")
	f.StringVar(&o.dir, "dir", "",
		"keep the state here and find it again (default: a temporary directory, removed at exit)")
	f.IntVar(&o.basePort, "base-port", defaultBase, "lowest port; the others count from it")
	f.StringVar(&o.listen, "listen", "127.0.0.1", "address of all ports; only loopback is taken")
	f.StringVar(&o.readyFile, "ready-file", "", "write this file when the cluster serves")
	f.StringVar(&o.relay, "relay", "", "HOST:PORT that gets all remote mail, instead of the sink")
	f.DurationVar(&o.restartAfter, "restart-after", 10*time.Second, "start a dead node again after this; 0: never")
	f.BoolVar(&o.discard, "discard", false, "let the sink throw mail away (for benchmarks)")
	_ = f.MarkHidden("discard")
	_ = f.MarkHidden("listen")
	_ = cmd.MarkFlagDirname("dir")
	return cmd
}

func (o *devOptions) check() error {
	if o.nodes != 1 && o.nodes != 3 && o.nodes != 5 {
		return usage("--nodes must be 1, 3 or 5, not %d", o.nodes)
	}
	if o.basePort < 1 || o.basePort+100*o.nodes+99 > 65535 {
		return usage("--base-port %d leaves no room for the ports of %s", o.basePort, count(o.nodes, "node"))
	}
	if !isLoopback(o.listen) {
		return usage("--listen %s is not a loopback address; a trial cluster has known passwords and must not be reachable",
			o.listen)
	}
	if o.restartAfter < 0 {
		return usage("--restart-after must not be negative")
	}
	if o.relay != "" {
		if _, _, err := net.SplitHostPort(o.relay); err != nil {
			return usage("--relay %s is not HOST:PORT", o.relay)
		}
	}
	return nil
}

// runDev runs the cluster until a signal, or until ctx ends.
func runDev(ctx context.Context, o devOptions, changed func(string) bool, stdout io.Writer) (err error) {
	began := time.Now()
	if o.readyFile != "" {
		_ = os.Remove(o.readyFile) // of an earlier run
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "relay-dev-"); err != nil {
			return err
		}
		defer os.RemoveAll(o.dir)
	} else if o.dir, err = filepath.Abs(o.dir); err != nil {
		return err
	}
	p, err := loadPlan(o, changed)
	if err != nil {
		return err
	}
	d := &dev{plan: p, options: o, out: &lines{w: stdout}}
	err = d.serve(ctx, stop, began)
	if ctx.Err() != nil {
		return nil // as it was asked to; the work that it broke off does not matter
	}
	return err
}

// dev is a running trial cluster.
type dev struct {
	plan    *plan
	options devOptions
	out     *lines
	nodes   []*process
	filled  bool // the directory or the route was made by this run
}

// serve brings everything up, says so, and keeps it up until ctx ends.
func (d *dev) serve(ctx context.Context, stop func(), began time.Time) error {
	if err := d.prepare(); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	if d.options.relay == "" {
		ended, end, err := d.openSink()
		if err != nil {
			return err
		}
		defer end() // after the nodes, which hand over what they have in hand
		g.Go(func() error {
			select {
			case err := <-ended:
				return err
			case <-gctx.Done():
				return nil
			}
		})
	}
	starter := newStarter()
	defer starter.close()
	for i := 1; i <= d.plan.Nodes; i++ {
		d.nodes = append(d.nodes, newProcess(d.plan, i, starter, d.out))
	}
	defer d.stop(stop)
	g.Go(func() error {
		if err := d.bringUp(gctx); err != nil {
			return err
		}
		if err := d.announce(time.Since(began)); err != nil {
			return err
		}
		return d.keepUp(gctx)
	})
	return g.Wait()
}

// openSink starts the sink. The channel tells how it ended, should it end
// before end is called.
func (d *dev) openSink() (ended <-chan error, end func(), err error) {
	s, err := newSink(filepath.Join(d.plan.Dir, "sink"), d.options.discard)
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", d.plan.sink())
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- s.serve(ctx, l) }()
	return result, cancel, nil
}

// prepare writes what the nodes read.
func (d *dev) prepare() error {
	p := d.plan
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		return err
	}
	if expired(p.path("ca.pem")) || expired(p.path("tls.crt")) {
		hosts := []string{"localhost", "127.0.0.1", "::1"}
		for i := 1; i <= p.Nodes; i++ {
			hosts = append(hosts, p.hostname(i))
		}
		if err := writeCertificate(p.path("tls.crt"), p.path("tls.key"), p.path("ca.pem"), hosts); err != nil {
			return err
		}
	}
	if err := makeToken(p.path("admin.token"), devToken); err != nil {
		return err
	}
	for i := 1; i <= p.Nodes; i++ {
		if err := p.writeConfig(i); err != nil {
			return err
		}
	}
	if err := p.checkPorts(); err != nil {
		return err
	}
	return p.save()
}

// keepUp starts dead nodes again until ctx ends.
func (d *dev) keepUp(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range d.nodes {
		g.Go(func() error { return n.keepUp(ctx, d.options.restartAfter) })
	}
	return g.Wait()
}

// stop ends all nodes: politely, and after a while or a second Ctrl-C not.
func (d *dev) stop(restoreSignals func()) {
	restoreSignals()
	again, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	patient, cancel := context.WithTimeout(again, 20*time.Second)
	defer cancel()
	var g errgroup.Group
	for _, n := range d.nodes {
		g.Go(func() error { n.stop(patient); return nil })
	}
	_ = g.Wait()
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (d *dev) announce(took time.Duration) error {
	d.out.printf("%s", d.table(took))
	if d.options.readyFile == "" {
		return nil
	}
	data, err := d.readyInfo()
	if err != nil {
		return err
	}
	if err := writeFile(d.options.readyFile, data, 0o644); err != nil {
		return fmt.Errorf("--ready-file: %w", err)
	}
	return nil
}
