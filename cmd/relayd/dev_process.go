package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// starter starts processes from one operating system thread that lives as long
// as the cluster: the signal that a child gets when its parent dies is tied to
// the thread that made it, and the Go runtime may end any other thread.
type starter struct {
	jobs chan func()
}

func newStarter() *starter {
	s := &starter{jobs: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for job := range s.jobs {
			job()
		}
	}()
	return s
}

func (s *starter) start(cmd *exec.Cmd) error {
	done := make(chan error, 1)
	s.jobs <- func() { done <- cmd.Start() }
	return <-done
}

func (s *starter) close() { close(s.jobs) }

// process is one node of a trial cluster. Its methods are called by one
// goroutine; pid may be called by any.
type process struct {
	plan    *plan
	node    int
	starter *starter
	out     *lines

	mu   sync.Mutex
	cmd  *exec.Cmd     // nil: never started
	gone chan struct{} // closed when cmd has ended
	err  error         // how it ended
}

func newProcess(p *plan, node int, s *starter, out *lines) *process {
	return &process{plan: p, node: node, starter: s, out: out}
}

// devPromote makes a trial cluster's nodes vote sooner than is wise where a node
// comes in over a network.
const devPromote = 200 * time.Millisecond

// start runs the node's process; its output goes to the end of DIR/nI/log.
func (n *process) start() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(n.logPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(self, "run", "--promote-after", devPromote.String(), "--config", n.plan.config(n.node))
	cmd.Dir, cmd.Env = n.plan.nodeDir(n.node), childEnv(os.Environ())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttr()
	if err := n.starter.start(cmd); err != nil {
		return err
	}
	gone := make(chan struct{})
	n.mu.Lock()
	n.cmd, n.gone = cmd, gone
	n.mu.Unlock()
	go func() {
		err := cmd.Wait()
		n.mu.Lock()
		n.err = err
		n.mu.Unlock()
		close(gone)
	}()
	return nil
}

// childEnv keeps settings meant for another relay away from the trial cluster;
// one of them could open a port to the world.
func childEnv(env []string) []string {
	var kept []string
	for _, e := range env {
		if !strings.HasPrefix(e, "RELAY_") && !strings.HasPrefix(e, "NOTIFY_SOCKET=") {
			kept = append(kept, e)
		}
	}
	return kept
}

func (n *process) logPath() string { return n.plan.path(n.plan.id(n.node), "log") }

func (n *process) pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return 0
	}
	return n.cmd.Process.Pid
}

// ended returns a channel that is closed when the process is gone.
func (n *process) ended() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.gone
}

// failure says how the process ended, with the last line of its log.
func (n *process) failure() error {
	n.mu.Lock()
	err := n.err
	n.mu.Unlock()
	text := "it stopped"
	if err != nil {
		text = err.Error()
	}
	if last := lastLine(n.logPath()); last != "" {
		text += ": " + last
	}
	return fmt.Errorf("node %s did not start: %s (its log: %s)", n.plan.id(n.node), text, n.logPath())
}

// keepUp starts the node again whenever it dies, until ctx ends.
func (n *process) keepUp(ctx context.Context, after time.Duration) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.ended():
		}
		id := n.plan.id(n.node)
		if after == 0 {
			n.out.printf("%s (process %d) is dead and stays so\n", id, n.pid())
			<-ctx.Done()
			return nil
		}
		n.out.printf("%s (process %d) is dead; it comes back in %s\n", id, n.pid(), after)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(after):
		}
		if err := n.start(); err != nil {
			n.out.printf("%s could not be started: %v\n", id, err)
			continue
		}
		n.out.printf("%s runs again as process %d\n", id, n.pid())
	}
}

// stop asks the process to end and, when ctx ends first, kills it.
func (n *process) stop(ctx context.Context) {
	if n.pid() == 0 {
		return
	}
	select {
	case <-n.ended():
		return
	default:
	}
	// Without a notice: nobody looks away here. A stopped (SIGSTOP) node must hear
	// it too.
	_ = n.cmd.Process.Signal(syscall.SIGINT)
	_ = n.cmd.Process.Signal(syscall.SIGCONT)
	select {
	case <-n.ended():
	case <-ctx.Done():
		_ = n.cmd.Process.Kill()
		<-n.ended()
	}
}

// lastLine returns the last line of a file that is not empty.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const tail = 4 << 10
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-tail), io.SeekStart)
	}
	data, err := io.ReadAll(f)
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	all := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.TrimSpace(all[len(all)-1]))
}

// lines writes whole texts from several goroutines.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, format, args...)
}
