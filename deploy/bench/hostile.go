package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"relay/smtp/sasl"
)

// attack is what strangers do to node 1 for a while. It returns what they got.
type attack struct {
	name string
	run  func(ctx context.Context, c *cluster) string
}

// attackFor is how long each attack lasts.
const attackFor = 5 * time.Second

func attacks() []attack {
	return []attack{
		{"nobody", func(ctx context.Context, _ *cluster) string { <-ctx.Done(); return "" }},
		{"MAIL, RCPT, RSET, silent DNS", floodDNS},
		{"3,000 silent connections", holdConnections},
		{"50 clients say NOOP", func(ctx context.Context, c *cluster) string {
			return flood(ctx, c, 50, strings.Repeat("NOOP\r\n", 500), "250")
		}},
		{"8 clients guess recipients", func(ctx context.Context, c *cluster) string {
			return flood(ctx, c, 8, "MAIL FROM:<a@x.invalid>\r\n"+strings.Repeat("RCPT TO:<nobody@example.test>\r\n", 9), "550")
		}},
		{"1,500 slow messages", slowMessages},
		{"400 messages of 5 MB", largeMessages},
		{"150 logins at once", guessLogins},
	}
}

// hostile runs the attacks against this build, and a former one where there is
// one, and prints what they cost the node and an innocent sender. only names some by a part.
func (b *bench) hostile(ctx context.Context, out io.Writer, only string) error {
	for _, c := range []*cluster{b.former, b.cluster} {
		if c != nil {
			if err := c.asksDNS(); err != nil {
				return err
			}
		}
	}
	w := tabwriter.NewWriter(out, 2, 8, 2, ' ', 0)
	fmt.Fprintln(w, "attack, 5 s\tbuild\tdescriptors\tmemory, MB\tprocessor, s\tinnocent "+
		"median\tworst\tfailed\tof the attack")
	all := slices.DeleteFunc(attacks(), func(a attack) bool { return !wanted(a.name, only) })
	for _, a := range all {
		for _, side := range []struct {
			name string
			c    *cluster
		}{{"former", b.former}, {"this", b.cluster}} {
			if side.c == nil {
				continue
			}
			line, err := measure(ctx, side.c, a)
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", a.name, side.name, line)
		}
	}
	return w.Flush()
}

// measure runs one attack and looks at node 1 all the while.
func measure(ctx context.Context, c *cluster, a attack) (string, error) {
	pid, err := os.ReadFile(filepath.Join(c.dir, "state", "n1", "relayd.pid"))
	if err != nil {
		return "", err
	}
	proc := "/proc/" + strings.TrimSpace(string(pid))
	before := processor(proc)
	ctx, cancel := context.WithTimeout(ctx, attackFor)
	defer cancel()
	most, memory := 0, 0
	var watch sync.WaitGroup
	watch.Go(func() {
		for ctx.Err() == nil {
			if all, err := os.ReadDir(proc + "/fd"); err == nil {
				most = max(most, len(all))
			}
			memory = max(memory, resident(proc))
			time.Sleep(50 * time.Millisecond)
		}
	})
	var took []time.Duration
	failed := 0
	watch.Go(func() {
		for ctx.Err() == nil {
			began := time.Now()
			if err := innocent(c.smtp()[0]); err != nil {
				failed++
			}
			took = append(took, time.Since(began))
			time.Sleep(100 * time.Millisecond)
		}
	})
	got := a.run(ctx, c)
	cancel()
	watch.Wait()
	spent := processor(proc) - before
	slices.Sort(took)
	time.Sleep(2 * time.Second) // what is left of it ends
	return fmt.Sprintf("%d\t%d\t%.1f\t%s\t%s\t%d of %d\t%s", most, memory/1024, spent,
		took[len(took)/2].Round(time.Millisecond),
		took[len(took)-1].Round(time.Millisecond), failed, len(took), got), nil
}

// processor is the time that a process has had, in seconds.
func processor(proc string) float64 {
	stat, _ := os.ReadFile(proc + "/stat")
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

func resident(proc string) (kb int) {
	status, _ := os.ReadFile(proc + "/status")
	_, _ = scanAfter(string(status), "VmRSS:", "%d", &kb)
	return kb
}

// innocent hands one message in, as a stranger from a network of its own.
func innocent(addr string) error {
	s, err := from("127.99.9.9", addr)
	if err != nil {
		return err
	}
	defer s.conn.Close()
	for _, one := range [][2]string{
		{"EHLO innocent.example", "250"}, {"MAIL FROM:<innocent@example.com>", "250"},
		{"RCPT TO:<bob@example.test>", "250"}, {"DATA", "354"},
		{"Subject: x\r\n\r\n" + strings.Repeat("a line of text\r\n", 250) + ".", "250"},
	} {
		if err := s.ask(one[0], one[1]); err != nil {
			return err
		}
	}
	return nil
}

// stranger is a client of a loopback address that is not trusted.
type stranger struct {
	conn net.Conn
	in   *bufio.Reader
}

func from(source, addr string) (*stranger, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: 10 * time.Second}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &stranger{conn, bufio.NewReader(conn)}
	if err = s.hear("220"); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

func (s *stranger) ask(line, want string) error {
	if _, err := io.WriteString(s.conn, line+"\r\n"); err != nil {
		return err
	}
	return s.hear(want)
}

func (s *stranger) hear(want string) error {
	_ = s.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		line, err := s.in.ReadString('\n')
		switch {
		case err != nil:
			return err
		case len(line) > 3 && line[3] == '-':
		case !strings.HasPrefix(line, want):
			return errors.New(line)
		default:
			return nil
		}
	}
}

// all runs n clients until ctx ends. Each begins anew when its connection has
// ended.
func all(ctx context.Context, n int, client func(i int) error) {
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() {
			for ctx.Err() == nil {
				if client(i) != nil {
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	running.Wait()
}

func address(i int) string { return fmt.Sprintf("127.%d.%d.%d", 10+i/64, i/8%8, 1+i%8) }

func floodDNS(ctx context.Context, c *cluster) string {
	var n atomic.Int64
	all(ctx, 64, func(i int) error {
		s, err := from(fmt.Sprintf("127.10.0.%d", 1+i%8), c.smtp()[0])
		if err != nil {
			return err
		}
		defer s.conn.Close()
		err = s.ask("EHLO x.example", "250")
		for err == nil && ctx.Err() == nil {
			err = s.ask(fmt.Sprintf("MAIL FROM:<a@d%d.example.com>", n.Add(1)), "250")
			err = errors.Join(err, s.ask("RCPT TO:<bob@example.test>", "250"), s.ask("RSET", "250"))
		}
		return err
	})
	return fmt.Sprint(n.Load(), " transactions")
}

func holdConnections(ctx context.Context, c *cluster) string {
	var open atomic.Int64
	var running sync.WaitGroup
	for i := range 3000 {
		running.Go(func() {
			if s, err := from(address(i%512), c.smtp()[0]); err == nil {
				open.Add(1)
				<-ctx.Done()
				_ = s.conn.Close()
			}
		})
	}
	running.Wait()
	return fmt.Sprint(open.Load(), " open")
}

// flood writes lines without end and counts answers.
func flood(ctx context.Context, c *cluster, n int, lines, want string) string {
	var got atomic.Int64
	all(ctx, n, func(i int) error {
		s, err := from(fmt.Sprintf("127.10.0.%d", 1+i%8), c.smtp()[0])
		if err != nil {
			return err
		}
		defer s.conn.Close()
		defer context.AfterFunc(ctx, func() { _ = s.conn.Close() })()
		if err := s.ask("EHLO x.example", "250"); err != nil {
			return err
		}
		go func() {
			for {
				if _, err := io.WriteString(s.conn, lines); err != nil {
					return
				}
			}
		}()
		for {
			line, err := s.in.ReadString('\n')
			if err != nil {
				return err
			}
			if strings.HasPrefix(line, want) {
				got.Add(1)
			}
		}
	})
	return fmt.Sprintf("%.0f %s/s", float64(got.Load())/attackFor.Seconds(), want)
}

// slowMessages begin, send 200 KB, and stop.
func slowMessages(ctx context.Context, c *cluster) string {
	var open atomic.Int64
	var running sync.WaitGroup
	text := strings.Repeat(strings.Repeat("x", 76)+"\r\n", 2600)
	for i := range 1500 {
		running.Go(func() {
			s, err := from(address(i%512), c.smtp()[0])
			if err != nil {
				return
			}
			defer s.conn.Close()
			err = errors.Join(s.ask("EHLO x.example", "250"), s.ask("MAIL FROM:<a@example.com>", "250"),
				s.ask("RCPT TO:<bob@example.test>", "250"), s.ask("DATA", "354"))
			if err == nil {
				_, err = io.WriteString(s.conn, text)
			}
			if err == nil {
				open.Add(1)
			}
			<-ctx.Done()
		})
	}
	running.Wait()
	return fmt.Sprint(open.Load(), " begun")
}

// largeMessages hands 400 messages of 5 MB in at once, as fast as they are taken.
func largeMessages(ctx context.Context, c *cluster) string {
	var taken, put atomic.Int64
	var running sync.WaitGroup
	text := strings.Repeat(strings.Repeat("x", 76)+"\r\n", 65_000)
	for i := range 400 {
		running.Go(func() {
			s, err := from(address(i%512), c.smtp()[0])
			if err != nil {
				return
			}
			defer s.conn.Close()
			err = errors.Join(s.ask("EHLO x.example", "250"), s.ask("MAIL FROM:<a@example.com>", "250"),
				s.ask("RCPT TO:<bob@example.test>", "250"), s.ask("DATA", "354"))
			if err == nil {
				stop := context.AfterFunc(ctx, func() { _ = s.conn.Close() })
				defer stop()
				_, _ = io.WriteString(s.conn, text)
				if err = s.ask(".", "250"); err == nil {
					taken.Add(1)
					return
				}
			}
			put.Add(1)
		})
	}
	running.Wait()
	<-ctx.Done()
	return fmt.Sprintf("%d taken, %d put off", taken.Load(), put.Load())
}

// guessLogins tries 150 passwords at once.
func guessLogins(ctx context.Context, c *cluster) string {
	var judged, put atomic.Int64
	var running sync.WaitGroup
	for i := range 150 {
		running.Go(func() {
			d := tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.10.0.1")}},
				Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // a test's certificate
			conn, err := d.DialContext(ctx, "tcp", c.port(1, 65))
			if err != nil {
				return
			}
			s := &stranger{conn, bufio.NewReader(conn)}
			defer conn.Close()
			err = errors.Join(s.hear("220"), s.ask("EHLO x.example", "250"))
			if err != nil {
				return
			}
			secret := sasl.EncodeInitial(fmt.Appendf(nil, "\x00alice@example.test\x00guess%d", i))
			if err = s.ask("AUTH PLAIN "+secret, "535"); err == nil {
				judged.Add(1)
			} else {
				put.Add(1)
			}
		})
	}
	running.Wait()
	<-ctx.Done()
	return fmt.Sprintf("%d judged, %d put off", judged.Load(), put.Load())
}

// deafDNS is a name server that answers nothing. The clusters that are started
// after it ask it.
func deafDNS() (io.Closer, error) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return conn, os.Setenv("RELAY_DELIVERY_DNS_SERVERS", conn.LocalAddr().String())
}

// asksDNS has strangers' mail checked, which asks name servers.
func (c *cluster) asksDNS() error {
	return c.call(http.MethodPatch, "/v1/domains/example.test", `{"auth_policy":"tag"}`)
}
