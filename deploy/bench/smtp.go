package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"relay/deploy/bench/cgroup"
)

// source runs smtp-source against the addresses at once, no more of them than
// there are sessions, and returns how long it took until all was accepted.
func source(ctx context.Context, addrs []string, l load) (time.Duration, error) {
	addrs = addrs[:min(len(addrs), l.sessions)]
	begin := time.Now()
	var wg sync.WaitGroup
	errs := make([]error, len(addrs))
	for i, addr := range addrs {
		args := []string{"-s", share(l.sessions, len(addrs), i), "-m", share(l.messages, len(addrs), i),
			"-l", strconv.Itoa(l.size), "-f", "sender@bench.example", "-t", cmp.Or(l.to, "rcpt@far.example")}
		if !l.reconnect {
			args = append(args, "-d")
		}
		wg.Go(func() {
			out, err := exec.CommandContext(ctx, "smtp-source", append(args, addr)...).CombinedOutput()
			if err != nil {
				errs[i] = fmt.Errorf("smtp-source to %s: %w: %s", addr, err, out)
			}
		})
	}
	wg.Wait()
	return time.Since(begin), errors.Join(errs...)
}

// latencies are the times from DATA's final dot to 250 of n messages in each of some
// sessions at once, in milliseconds.
func latencies(ctx context.Context, addrs []string, sessions, n int) ([]float64, error) {
	senders, hangUp, err := openSenders(ctx, addrs, sessions)
	defer hangUp()
	if err != nil {
		return nil, err
	}
	times := make([][]float64, sessions)
	err = each(ctx, sessions, sessions, func(i int) error {
		for range n {
			took, err := senders[i].send()
			if err != nil {
				return err
			}
			times[i] = append(times[i], float64(took.Microseconds())/1000)
		}
		return nil
	})
	return slices.Concat(times...), err
}

// sendToMany hands in messages of manyDomains recipients, over some sessions.
func sendToMany(ctx context.Context, addrs []string, sessions, messages int) error {
	senders, hangUp, err := openSenders(ctx, addrs, sessions)
	defer hangUp()
	if err != nil {
		return err
	}
	lines, codes := "MAIL FROM:<sender@bench.example>\r\n", []int{250}
	for i := range manyDomains {
		lines, codes = lines+fmt.Sprintf("RCPT TO:<rcpt@far%d.example>\r\n", i), append(codes, 250)
	}
	lines, codes = lines+"DATA\r\n", append(codes, 354)
	body := "Subject: bench\r\n\r\n" + strings.Repeat(textLine, 63) + ".\r\n"
	free := make(chan *sender, sessions)
	for _, s := range senders {
		free <- s
	}
	return each(ctx, sessions, messages, func(int) error {
		s := <-free
		defer func() { free <- s }()
		if err := s.say(lines, codes...); err != nil {
			return err
		}
		return s.say(body, 250)
	})
}

// openSenders opens sessions, over all addresses. hangUp closes those that there are.
func openSenders(ctx context.Context, addrs []string, sessions int) (senders []*sender, hangUp func(), err error) {
	hangUp = func() {
		for _, s := range senders {
			_ = s.conn.Close()
		}
	}
	for i := range sessions {
		s, err := newSender(ctx, addrs[i%len(addrs)])
		if err != nil {
			return senders, hangUp, err
		}
		senders = append(senders, s)
	}
	return senders, hangUp, nil
}

// cluster is relayd dev, as a process of its own.
type cluster struct {
	binary string
	nodes  int
	cmd    *exec.Cmd
	dir    string
	base   int
	hop    string // where remote mail goes; empty: the sink of all sides
	filled bool
	cpus   float64         // that each node may use; 0: all
	limits []*cgroup.Group // of the nodes that run

	name    string // of its column; empty: by its size
	empties bool   // it begins without history, whatever -history says
}

// basePort is the lowest port of the clusters where no flag says otherwise. It and those
// of the peers are below the ports that tests take (cluster/porttest).
const basePort = 10000

// build makes this tree's relayd.
func build(ctx context.Context, into string) error {
	build := exec.CommandContext(ctx, "go", "build", "-tags", "grpcnotrace", "-o", into, "relay/cmd/relayd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build relayd: %w: %s", err, out)
	}
	return nil
}

func (c *cluster) start(ctx context.Context) error {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	ready := filepath.Join(c.dir, "ready")
	_ = os.Remove(ready) // of a former start
	log, err := os.Create(filepath.Join(c.dir, "dev.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	hop := c.hop
	if hop == "" {
		hop = fmt.Sprintf("127.0.0.1:%d", sinkPort)
	}
	c.cmd = exec.CommandContext(ctx, c.binary, "dev", "--dir", filepath.Join(c.dir, "state"), "--nodes",
		strconv.Itoa(c.nodes),
		"--base-port", strconv.Itoa(c.base), "--relay", hop, "--ready-file", ready)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		return err
	}
	err = waitFor(ctx, 60*time.Second, func() bool { return exists(ready) || c.ended() })
	if err != nil || !exists(ready) {
		c.stop()
		return fmt.Errorf("the cluster did not become ready, see %s: %w", log.Name(), err)
	}
	if err := c.limit(); err != nil {
		c.stop()
		return err
	}
	return nil
}

// limit has each node use c.cpus processors at most.
func (c *cluster) limit() error {
	for node := 1; node <= c.nodes && c.cpus > 0; node++ {
		pid, err := pidFile(filepath.Join(c.nodeDir(node), "relayd.pid"))
		if err != nil {
			return err
		}
		g, err := cgroup.New(cgroup.Root, fmt.Sprintf("relay-bench-%d", pid), c.cpus)
		if err != nil {
			return err
		}
		c.limits = append(c.limits, g)
		if err := g.Add(pid); err != nil {
			return err
		}
	}
	return nil
}

// unlimit removes what limit has made, when the nodes have ended.
func (c *cluster) unlimit() {
	for _, g := range c.limits {
		_ = g.Close()
	}
	c.limits = nil
}

func (c *cluster) stop() {
	_ = c.cmd.Process.Signal(os.Interrupt)
	_ = c.cmd.Wait()
	c.unlimit()
}

// ended reports whether the process has ended, which a parent sees by its state alone.
func (c *cluster) ended() bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	return err != nil || strings.Contains(string(line), ") Z ")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// kill ends all processes of the cluster by SIGKILL: the nodes die with their parent.
func (c *cluster) kill() {
	var pids []int
	for i := range c.nodes {
		if pid, err := pidFile(filepath.Join(c.nodeDir(i+1), "relayd.pid")); err == nil {
			pids = append(pids, pid)
		}
	}
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		for i := 0; i < 1000 && syscall.Kill(pid, 0) == nil; i++ {
			time.Sleep(10 * time.Millisecond)
		}
	}
	c.unlimit()
}

func (c *cluster) nodeDir(node int) string {
	return filepath.Join(c.dir, "state", fmt.Sprintf("n%d", node))
}

func (c *cluster) port(node, service int) string {
	return fmt.Sprintf("127.0.0.1:%d", c.base+100*node+service)
}

// size says how many nodes the cluster has.
func (c *cluster) size() string {
	if c.nodes == 1 {
		return "1 node"
	}
	return fmt.Sprintf("%d nodes", c.nodes)
}

// label heads the cluster's column of the table.
func (c *cluster) label() string {
	if c.name != "" {
		return c.name
	}
	return "relay, " + c.size()
}

// root returns the process that has started the nodes.
func (c *cluster) root() (int, error) { return c.cmd.Process.Pid, nil }

func (c *cluster) smtp() (addrs []string) {
	for node := range c.nodes {
		addrs = append(addrs, c.port(node+1, 25))
	}
	return addrs
}

// addresses are those of all nodes, the leader's first: a single session always
// meets the leader, wherever that is.
func (c *cluster) addresses() ([]string, error) {
	s, err := c.status()
	if err != nil {
		return nil, err
	}
	addrs := c.smtp()
	for i := range addrs {
		if s.Leader == fmt.Sprintf("n%d", i+1) {
			addrs[0], addrs[i] = addrs[i], addrs[0]
			return addrs, nil
		}
	}
	return nil, errors.New("the cluster has no leader")
}

func (c *cluster) empty() bool {
	s, err := c.status()
	return err == nil && s.Queue.Messages == 0
}

// status is what the loads need of what node 1 says of the cluster.
type status struct {
	Leader  string `json:"leader"`
	Version int    `json:"cluster_version"`
	Queue   struct {
		Messages int `json:"messages"`
	} `json:"queue"`
}

func (c *cluster) status() (s status, err error) {
	req, _ := http.NewRequest(http.MethodGet, "http://"+c.port(1, 80)+"/v1/status", nil)
	req.Header.Set("Authorization", "Bearer dev")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	return s, json.NewDecoder(res.Body).Decode(&s)
}

func (c *cluster) call(method, path, body string) error {
	req, _ := http.NewRequest(method, "http://"+c.port(1, 80)+path, strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer dev")
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		b, _ := io.ReadAll(res.Body)
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, b)
	}
	return nil
}

func waitFor(ctx context.Context, d time.Duration, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// postfix is an instance with its own configuration and queue.
type postfix struct{ conf string }

const postfixPort = 9926

func startPostfix(ctx context.Context, dir string) (*postfix, error) {
	if _, err := exec.LookPath("postfix"); err != nil {
		return nil, err
	}
	owner, err := user.Lookup("postfix")
	if err != nil {
		return nil, err
	}
	p := &postfix{conf: filepath.Join(dir, "conf")}
	for _, sub := range []string{"conf", "queue", "data"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	uid, _ := strconv.Atoi(owner.Uid)
	if err := os.Chown(filepath.Join(dir, "data"), uid, -1); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(p.conf, "main.cf"),
		fmt.Appendf(nil, mainCF, dir, dir, sinkPort, filepath.Dir(dir), dir), 0o644); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(p.conf, "master.cf"), fmt.Appendf(nil, masterCF, postfixPort),
		0o644); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, "postfix", "-c", p.conf, "start").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return p, waitFor(ctx, 10*time.Second, func() bool {
		conn, err := net.Dial("tcp", p.addr())
		if err != nil {
			return false
		}
		defer conn.Close()
		line, err := bufio.NewReader(conn).ReadString('\n')
		return err == nil && strings.HasPrefix(line, "220")
	})
}

func (p *postfix) stop() { _ = exec.Command("postfix", "-c", p.conf, "stop").Run() }

func (p *postfix) addr() string { return fmt.Sprintf("127.0.0.1:%d", postfixPort) }

func (p *postfix) addresses() ([]string, error) { return []string{p.addr()}, nil }

// root returns Postfix's master process.
func (p *postfix) root() (int, error) {
	return pidFile(filepath.Join(filepath.Dir(p.conf), "queue", "pid", "master.pid"))
}

func (p *postfix) empty() bool {
	out, err := exec.Command("postqueue", "-c", p.conf, "-p").Output()
	return err == nil && strings.Contains(string(out), "empty")
}

const mainCF = `compatibility_level = 3.6
queue_directory = %s/queue
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
data_directory = %s/data
mail_owner = postfix
setgid_group = postdrop
myhostname = postfix.bench.example
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
relayhost = [127.0.0.1]:%d
smtp_tls_security_level = none
disable_dns_lookups = yes
smtpd_recipient_restrictions = permit_mynetworks, reject
in_flow_delay = 0
smtpd_client_connection_count_limit = 0
default_process_limit = 200
maillog_file_prefixes = %s
maillog_file = %s/log
`

const masterCF = `127.0.0.1:%d inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`
