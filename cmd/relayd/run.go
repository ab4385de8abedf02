package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"relay/cluster"
	"relay/node"
	"relay/node/config"
)

func newRun() *cobra.Command {
	var path string
	var tuning cluster.Tuning
	var moved bool
	var notice time.Duration
	cmd := &cobra.Command{
		Use:   "run --config FILE",
		Short: "run the node until SIGTERM",
		Long: `Runs the node that FILE describes. SIGTERM takes it out of service and stops it:
/readyz says so at once, new clients are served until the notice is over, open
transactions end. SIGINT does that without a notice. A second signal stops it at
once; SIGHUP reads certificates, tokens and what else can change live again. The
process id is in DATA_DIR/relayd.pid.

A data directory that was copied takes part only after the leader, or all
other nodes, have answered for it: a restored copy may have forgotten mail that
it acknowledged. --moved says once that you moved the directory in order, and
that no node has run on the former one since.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if notice < 0 || notice > 10*time.Minute {
				return usage("--notice must be between 0s and 10m, not %s", notice)
			}
			return runNode(cmd.Context(), path, node.Options{Tuning: tuning, Moved: moved}, notice, os.Stderr)
		},
	}
	configFlag(cmd, &path)
	cmd.Flags().DurationVar(&notice, "notice", node.DefaultNotice,
		"how long new clients are still served after SIGTERM, where another node serves, too")
	cmd.Flags().DurationVar(&tuning.Promote, "promote-after", 0,
		"how long a new node must have caught up before it votes (0: the default)")
	_ = cmd.Flags().MarkHidden("promote-after")
	cmd.Flags().BoolVar(&moved, "moved", false, "the data directory was moved in order, and nothing has run since")
	return cmd
}

func configFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVarP(path, "config", "c", "", "configuration of the node (required)")
	_ = cmd.MarkFlagRequired("config")
	_ = cmd.MarkFlagFilename("config", "toml")
}

// runNode serves until ctx ends or a signal says so.
func runNode(ctx context.Context, path string, o node.Options, notice time.Duration, stderr *os.File) error {
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	last := &lastWord{to: stderr}
	log, flush, err := newLogger(cfg.Log.Level, cfg.Log.Format, last)
	if err != nil {
		return err
	}
	defer last.close() // what runNode returns is said behind it
	defer flush()
	sayStart(log, cfg, path)
	tuneMemory(log)
	if cfg.Storage.Cache == config.AutoCache {
		autoCache(&o.Tuning, machineMemory())
	}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	done := make(chan struct{})
	defer close(done)
	reload := make(chan struct{}, 1)
	var interrupted atomic.Bool
	go watchSignals(done, signals, func(s os.Signal) { interrupted.Store(s == syscall.SIGINT); stop() }, reload, func() {
		log.Warn("stopped at once by a second signal")
		flush()
		os.Exit(exitFailed)
	})
	if err := ensureMember(ctx, cfg, log); err != nil {
		return err
	}
	for _, w := range append(cfg.Warnings(), config.Unknown(os.Environ())...) {
		log.Warn(w)
	}
	o.Notice = func() time.Duration { return noticeOf(interrupted.Load(), notice) }
	o.Log, o.Version, o.Fatal = log, version(), fatal(log, flush, last)
	n, err := node.New(cfg, o)
	if err != nil {
		return err
	}
	pid := filepath.Join(cfg.Node.DataDir, "relayd.pid")
	if err := writeFile(pid, []byte(fmt.Sprintln(os.Getpid())), 0o644); err != nil {
		return err
	}
	defer os.Remove(pid)
	go reloadOn(ctx, reload, reloader{n, cfg, path}, log)
	go tellManager(ctx, n)
	err = n.Run(ctx)
	log.Info("stopped", zap.Error(err))
	return err
}

// noticeOf is how long clients hear of a stop before it: not at all where somebody waits at the keyboard.
func noticeOf(interrupted bool, notice time.Duration) time.Duration {
	if interrupted {
		return 0
	}
	return notice
}

// fatal ends the process, with its cause as the last line.
func fatal(log *zap.Logger, flush func(), last *lastWord) func(error) {
	return func(err error) {
		log.Error("the node can not go on; the other nodes carry on without it", zap.Error(err))
		flush()
		last.say(err)
		os.Exit(exitFailed)
	}
}

// sayStart leaves the first lines of the log.
func sayStart(log *zap.Logger, cfg *config.Config, path string) {
	log.Info("starting", zap.String("version", version()), zap.String("node", cfg.Node.ID),
		zap.String("hostname", cfg.Node.Hostname), zap.String("config", path), zap.Int("pid", os.Getpid()))
	if os.Geteuid() == 0 {
		log.Warn("relayd runs as root, which it has no need of: run it as a user of its own, as deploy/systemd does")
	}
}

// watchSignals turns signals into stop, reload and, the second time, kill. It
// ends with done, not with the context that stop cancels: while the node
// drains, a second signal must still be heard.
func watchSignals(done <-chan struct{}, signals <-chan os.Signal, stop func(os.Signal),
	reload chan<- struct{}, kill func()) {
	stopping := false
	for {
		var s os.Signal
		select {
		case <-done:
			return
		case s = <-signals:
		}
		switch {
		case s == syscall.SIGHUP:
			select {
			case reload <- struct{}{}:
			default: // one is waiting already
			}
		case stopping:
			kill()
		default:
			stopping = true
			stop(s)
		}
	}
}

// reloader reads again what can change while the node runs.
type reloader struct {
	node interface{ Reload() error }
	cfg  *config.Config // what the node runs with
	path string
}

// reload reads again what can change live, and says which keys of the file have
// other values than the node runs with.
func (r reloader) reload(log *zap.Logger) {
	if err := r.node.Reload(); err != nil {
		log.Error("reload failed, the old settings stay", zap.Error(err))
		return
	}
	log.Info("reloaded")
	now, err := config.Load(r.path)
	if err != nil {
		log.Warn("the configuration can't be read any more; the node would not start with it", zap.Error(err))
		return
	}
	if keys := config.Changed(r.cfg, now); len(keys) > 0 {
		log.Warn("keys of the configuration that were changed and not taken over: restart the node for them",
			zap.Strings("keys", keys))
	}
}

func reloadOn(ctx context.Context, reload <-chan struct{}, r reloader, log *zap.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-reload:
			r.reload(log)
		}
	}
}

// ensureMember lets a node without state in where its configuration names
// members to ask; without such it refuses, because a new cluster must be
// wanted, not happen.
func ensureMember(ctx context.Context, cfg *config.Config, log *zap.Logger) error {
	dir := cfg.Node.DataDir
	if err := cluster.CheckNode(dir, cfg.Node.ID); err != nil || cluster.Initialised(dir) {
		return err
	}
	if len(cfg.Cluster.Join) == 0 {
		return fmt.Errorf("%s holds no node yet; make a cluster with 'relayd init' or join one with 'relayd join'", dir)
	}
	token, err := readToken(cfg.Cluster.JoinTokenFile)
	if err != nil {
		return err
	}
	for wait := time.Second; ; wait = min(2*wait, 15*time.Second) {
		err := joinAny(ctx, cfg, token, log)
		if err == nil {
			return nil
		}
		log.Warn("could not join yet, trying again", zap.Duration("in", wait), zap.Error(err))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

func readToken(path string) (string, error) {
	if path == "" {
		return "", errors.New("cluster.join is set but cluster.join_token_file is not; 'relayctl node token' makes a token")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("the join token: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

func joinAny(ctx context.Context, cfg *config.Config, token string, log *zap.Logger) error {
	var errs []error
	for _, addr := range cfg.Cluster.Join {
		err := cluster.Join(ctx, cluster.JoinOptions{
			ID: cfg.Node.ID, Dir: cfg.Node.DataDir, Advertise: cfg.Cluster.Advertise,
			Token: token, Addr: addr, Log: log,
		})
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
	}
	return errors.Join(errs...)
}
