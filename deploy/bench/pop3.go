package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// mailboxes is how many accounts the POP3 rows use, and inBox how many
// messages of 4 KiB each holds.
const (
	mailboxes = 20
	inBox     = 100
	retrTimes = 30 // how often a RETR row reads all messages of a mailbox
)

// pop3Rows are the loads beside Dovecot.
func (b *bench) pop3Rows() []row {
	rows := []row{
		b.popRow("POP3 login, STAT, UIDL of 100, QUIT (20 at once)", "sessions/s", mailboxes*b.logins,
			func(ctx context.Context, p popServer) (float64, error) {
				return popLogins(ctx, p.pop3, p.mailbox, b.logins)
			}),
		b.popRow("POP3 RETR 4 KiB, one by one", "msg/s", retrTimes*inBox,
			func(ctx context.Context, p popServer) (float64, error) {
				return popRetr(ctx, p.pop3(0), p.mailbox(0), false)
			}),
		b.popRow("POP3 RETR 4 KiB, pipelined", "msg/s", retrTimes*inBox,
			func(ctx context.Context, p popServer) (float64, error) {
				return popRetr(ctx, p.pop3(0), p.mailbox(0), true)
			}),
	}
	if b.cluster.nodes > 1 {
		name := "POP3 login at a follower, idle cluster, p99"
		sides := slices.DeleteFunc(b.relays(followerSide), func(s side) bool { return s.name == "relay, 1 node" })
		rows = append(rows, row{name: name, unit: "ms", less: true, sides: sides})
	}
	return rows
}

// popServer is a side of a POP3 row. Client i meets its own mailbox.
type popServer interface {
	pop3(i int) string    // where client i connects
	mailbox(i int) string // how client i logs in
	root() (int, error)
}

func (b *bench) popRow(name, unit string, work int, load func(context.Context, popServer) (float64, error)) row {
	on := func(p popServer, ready func(context.Context) error) side {
		return side{ready: ready, root: p.root, load: func(ctx context.Context) (float64, error) { return load(ctx, p) }}
	}
	r := row{name: name, unit: unit, work: work, sides: b.relays(func(c *cluster) side { return on(c, c.fill) })}
	if b.dovecot != nil {
		one := on(b.dovecot, nil)
		one.name, one.rival = "Dovecot", true
		r.sides = append(r.sides, one)
	}
	return r
}

func followerSide(c *cluster) side {
	return side{ready: c.fill, root: c.root, load: func(ctx context.Context) (float64, error) {
		addr, err := c.follower()
		if err != nil {
			return 0, err
		}
		return popLatency(ctx, addr, c.mailbox(0))
	}}
}

func (c *cluster) pop3(i int) string    { return c.port(i%c.nodes+1, 10) }
func (c *cluster) mailbox(i int) string { return fmt.Sprintf("bench%d@example.test", i) }

func (d *dovecot) pop3(int) string      { return d.addr() }
func (d *dovecot) mailbox(i int) string { return fmt.Sprintf("bench%d", i) }

// root returns Dovecot's master process.
func (d *dovecot) root() (int, error) {
	return pidFile(filepath.Join(filepath.Dir(d.conf), "run", "master.pid"))
}

// follower is where a node that does not lead serves POP3.
func (c *cluster) follower() (string, error) {
	status, err := c.status()
	if err == nil && status.Leader == "" {
		err = errors.New("the cluster has no leader")
	}
	if err != nil {
		return "", err
	}
	if status.Leader == "n1" {
		return c.port(2, 10), nil
	}
	return c.port(1, 10), nil
}

// popLatency is how long PASS takes to be answered in 99 of 100 cases, in
// milliseconds, where one client comes now and then. Its first login, which
// hashes the password, does not count.
func popLatency(ctx context.Context, addr, user string) (float64, error) {
	pause := time.NewTicker(30 * time.Millisecond)
	defer pause.Stop()
	var times []float64
	for i := range 201 {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		c, err := popLogin(ctx, addr, user)
		if err != nil {
			return 0, err
		}
		err = c.say("QUIT")
		_ = c.conn.Close()
		if err != nil {
			return 0, err
		}
		if i > 0 {
			times = append(times, float64(c.answered.Microseconds())/1000)
		}
	}
	return quantile(times, 0.99), nil
}

// popClient is just enough POP3 for a load.
type popClient struct {
	conn net.Conn
	*textproto.Reader
	w        *bufio.Writer
	answered time.Duration // how long PASS took
}

func popLogin(ctx context.Context, addr, user string) (*popClient, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	c := &popClient{conn: conn, Reader: textproto.NewReader(bufio.NewReaderSize(conn, 64<<10)), w: bufio.NewWriter(conn)}
	if err := c.ok(); err != nil {
		return nil, err
	}
	for _, line := range []string{"USER " + user, "PASS secret"} {
		begin := time.Now()
		if err := c.say(line); err != nil {
			conn.Close()
			return nil, err
		}
		c.answered = time.Since(begin)
	}
	return c, nil
}

func (c *popClient) ok() error {
	line, err := c.ReadLine()
	if err == nil && !strings.HasPrefix(line, "+OK") {
		err = fmt.Errorf("server says %q", line)
	}
	return err
}

func (c *popClient) say(line string) error {
	if _, err := fmt.Fprintf(c.conn, "%s\r\n", line); err != nil {
		return err
	}
	return c.ok()
}

// skip reads a multi-line answer to its end and counts its octets.
func (c *popClient) skip() (int, error) {
	n := 0
	for {
		line, err := c.R.ReadSlice('\n')
		if err != nil {
			return n, err
		}
		if n += len(line); len(line) == 3 && line[0] == '.' {
			return n, nil
		}
	}
}

// popLogins is whole sessions a second, one client a mailbox.
func popLogins(ctx context.Context, addr, user func(int) string, each int) (float64, error) {
	var wg sync.WaitGroup
	errs := make([]error, mailboxes)
	begin := time.Now()
	for i := range mailboxes {
		wg.Go(func() {
			for range each {
				if errs[i] = popSession(ctx, addr(i), user(i)); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return float64(mailboxes*each) / time.Since(begin).Seconds(), nil
}

func popSession(ctx context.Context, addr, user string) error {
	c, err := popLogin(ctx, addr, user)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	if err := c.say("STAT"); err != nil {
		return err
	}
	if err := c.say("UIDL"); err != nil {
		return err
	}
	if _, err := c.skip(); err != nil {
		return err
	}
	return c.say("QUIT")
}

// popRetr is messages a second over one connection.
func popRetr(ctx context.Context, addr, user string, pipelined bool) (float64, error) {
	c, err := popLogin(ctx, addr, user)
	if err != nil {
		return 0, err
	}
	defer c.conn.Close()
	begin := time.Now()
	if pipelined {
		go func() {
			for range retrTimes {
				for i := range inBox {
					fmt.Fprintf(c.w, "RETR %d\r\n", i+1)
				}
				c.w.Flush()
			}
		}()
	}
	for range retrTimes {
		for i := range inBox {
			if !pipelined {
				if _, err := c.conn.Write([]byte("RETR " + strconv.Itoa(i+1) + "\r\n")); err != nil {
					return 0, err
				}
			}
			if err := c.ok(); err != nil {
				return 0, err
			}
			if _, err := c.skip(); err != nil {
				return 0, err
			}
		}
	}
	rate := float64(retrTimes*inBox) / time.Since(begin).Seconds()
	return rate, c.say("QUIT")
}

// message is what the POP3 rows keep, 4 KiB.
func message() string {
	return "From: bench@bench.example\r\nSubject: bench\r\n\r\n" + strings.Repeat(strings.Repeat("x", 62)+"\r\n", 63)
}

// fill makes the accounts and their mail, once.
func (c *cluster) fill(ctx context.Context) error {
	if c.filled {
		return nil
	}
	c.filled = true
	for i := range mailboxes {
		body := fmt.Sprintf(`{"address":"bench%d@example.test","password":"secret"}`, i)
		if err := c.call(http.MethodPost, "/v1/users", body); err != nil {
			return err
		}
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", c.smtp()[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	tp := textproto.NewConn(conn)
	say := func(code int, line string) error {
		if line != "" {
			if err := tp.PrintfLine("%s", line); err != nil {
				return err
			}
		}
		_, _, err := tp.ReadResponse(code)
		return err
	}
	if err := say(220, ""); err != nil {
		return err
	}
	if err := say(250, "EHLO bench"); err != nil {
		return err
	}
	for range inBox {
		if err := say(250, "MAIL FROM:<bench@bench.example>"); err != nil {
			return err
		}
		for i := range mailboxes {
			if err := say(250, fmt.Sprintf("RCPT TO:<bench%d@example.test>", i)); err != nil {
				return err
			}
		}
		if err := say(354, "DATA"); err != nil {
			return err
		}
		if err := say(250, message()+"."); err != nil {
			return err
		}
	}
	return nil
}

// dovecot is an instance with its own configuration, Maildirs and users.
type dovecot struct{ conf string }

const dovecotPort = 9910

func startDovecot(ctx context.Context, dir string) (*dovecot, error) {
	if _, err := exec.LookPath("dovecot"); err != nil {
		return nil, err
	}
	d := &dovecot{conf: filepath.Join(dir, "dovecot.conf")}
	var users strings.Builder
	for i := range mailboxes {
		box := filepath.Join(dir, "mail", fmt.Sprintf("bench%d", i), "Maildir")
		for _, sub := range []string{"cur", "new", "tmp"} {
			if err := os.MkdirAll(filepath.Join(box, sub), 0o755); err != nil {
				return nil, err
			}
		}
		for n := range inBox {
			name := fmt.Sprintf("%d.M%dP1.bench,S=%d:2,", 1700000000+n, n, len(message()))
			if err := os.WriteFile(filepath.Join(box, "cur", name), []byte(message()), 0o644); err != nil {
				return nil, err
			}
		}
		fmt.Fprintf(&users, "bench%d:{PLAIN}secret\n", i)
	}
	if err := os.WriteFile(filepath.Join(dir, "users"), []byte(users.String()), 0o644); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, "chown", "-R", "mail:mail",
		filepath.Join(dir, "mail")).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	if err := os.WriteFile(d.conf,
		[]byte(strings.ReplaceAll(strings.ReplaceAll(dovecotConf, "DIR", dir), "PORT", strconv.Itoa(dovecotPort))),
		0o644); err != nil {
		return nil, err
	}
	// The daemon keeps its standard output: a pipe would never end.
	if err := exec.CommandContext(ctx, "dovecot", "-c", d.conf).Run(); err != nil {
		return nil, fmt.Errorf("dovecot -c %s: %w", d.conf, err)
	}
	return d, waitFor(ctx, 10*time.Second, func() bool {
		c, err := popLogin(ctx, d.addr(), "bench0")
		if err != nil {
			return false
		}
		defer c.conn.Close()
		return c.say("QUIT") == nil
	})
}

func (d *dovecot) stop() { _ = exec.Command("doveadm", "-c", d.conf, "stop").Run() }

func (d *dovecot) addr() string { return fmt.Sprintf("127.0.0.1:%d", dovecotPort) }

const dovecotConf = `protocols = pop3
listen = 127.0.0.1
base_dir = DIR/run
state_dir = DIR/state
log_path = DIR/log
ssl = no
disable_plaintext_auth = no
mail_location = maildir:DIR/mail/%n/Maildir
mail_uid = mail
mail_gid = mail
first_valid_uid = 1
first_valid_gid = 1
default_internal_user = dovecot
service pop3-login {
  inet_listener pop3 {
    port = PORT
  }
  inet_listener pop3s {
    port = 0
  }
  service_count = 0
  process_min_avail = 2
  client_limit = 1000
}
service pop3 {
  service_count = 1000
  process_min_avail = 20
}
passdb {
  driver = passwd-file
  args = DIR/users
}
userdb {
  driver = static
  args = uid=mail gid=mail home=DIR/mail/%n
}
`
