package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
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
			"-l", strconv.Itoa(l.size), "-f", "sender@bench.example", "-t", "rcpt@far.example"}
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

// latency is the median time from DATA's final dot to 250, in milliseconds,
// one message at a time.
func latency(ctx context.Context, addr string, n int) (float64, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	tp := textproto.NewConn(conn)
	if _, _, err := tp.ReadResponse(220); err != nil {
		return 0, err
	}
	say := func(code int, line string) error {
		if err := tp.PrintfLine("%s", line); err != nil {
			return err
		}
		_, _, err := tp.ReadResponse(code)
		return err
	}
	if err := say(250, "EHLO bench"); err != nil {
		return 0, err
	}
	body := "Subject: bench\r\n\r\n" + strings.Repeat(strings.Repeat("x", 62)+"\r\n", 64) + "."
	var times []float64
	for range n {
		for _, step := range []struct {
			code int
			line string
		}{{250, "MAIL FROM:<sender@bench.example>"}, {250, "RCPT TO:<rcpt@far.example>"}, {354, "DATA"}} {
			if err := say(step.code, step.line); err != nil {
				return 0, err
			}
		}
		begin := time.Now()
		if err := say(250, body); err != nil {
			return 0, err
		}
		times = append(times, float64(time.Since(begin).Microseconds())/1000)
	}
	return median(times), nil
}

// cluster is relayd dev, as a process of its own.
type cluster struct {
	binary string
	nodes  int
	cmd    *exec.Cmd
	dir    string
	base   int
	filled bool
}

// The clusters' lowest ports.
const (
	basePort   = 13000
	formerPort = 13500
)

// build makes this tree's relayd.
func build(ctx context.Context, into string) error {
	build := exec.CommandContext(ctx, "go", "build", "-o", into, "relay/cmd/relayd")
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
	log, err := os.Create(filepath.Join(c.dir, "dev.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	c.cmd = exec.CommandContext(ctx, c.binary, "dev", "--dir", filepath.Join(c.dir, "state"), "--nodes",
		strconv.Itoa(c.nodes),
		"--base-port", strconv.Itoa(c.base), "--relay", fmt.Sprintf("127.0.0.1:%d", sinkPort), "--ready-file", ready)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		return err
	}
	if err := waitFor(ctx, 60*time.Second, func() bool { _, err := os.Stat(ready); return err == nil }); err != nil {
		c.stop()
		return fmt.Errorf("the cluster did not become ready, see %s: %w", log.Name(), err)
	}
	return nil
}

func (c *cluster) stop() {
	_ = c.cmd.Process.Signal(os.Interrupt)
	_ = c.cmd.Wait()
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
	Leader string `json:"leader"`
	Queue  struct {
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

const postfixPort = 14026

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
