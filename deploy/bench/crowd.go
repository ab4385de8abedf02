package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// crowd is the load of many connections to one node: idle ones that have said
// EHLO, half of them after a message of their own, and busy ones that hand in
// one message after the other.
type crowd struct {
	addr       string
	idle, busy int
	messages   int // of a round of the busy ones
}

// pace is how the busy ones fared.
type pace struct {
	rate     float64 // messages a second
	p50, p99 float64 // ms from the final dot to the 250
}

// crowded compares the busy connections alone and beside the idle ones, in turns,
// and says what an idle connection costs.
func (b *bench) crowded(ctx context.Context, out io.Writer, rounds int, c crowd) error {
	c.addr = b.cluster.smtp()[0]
	if _, err := b.busy(ctx, c); err != nil { // so that the heap has its size
		return err
	}
	var alone, beside []pace
	var each, live []float64
	for range rounds {
		p, err := b.busy(ctx, c)
		if err != nil {
			return err
		}
		alone = append(alone, p)
		before, err := b.memory()
		if err != nil {
			return err
		}
		idle, err := c.open(ctx)
		if err != nil {
			return err
		}
		after, err := b.memory()
		if err == nil {
			live = append(live, float64(after.live-before.live)/float64(c.idle)/1024)
			each = append(each, float64(after.resident-before.resident)/float64(c.idle)/1024)
			p, err = b.busy(ctx, c)
		}
		err = errors.Join(err, hangUp(ctx, idle))
		if err != nil {
			return err
		}
		beside = append(beside, p)
	}
	w := tabwriter.NewWriter(out, 2, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%d busy, 4 KiB\talone\tbeside %d idle\tunit\t\n", c.busy, c.idle)
	for _, line := range []struct {
		name, unit string
		of         func(pace) float64
	}{
		{"accepted", "msg/s", func(p pace) float64 { return p.rate }},
		{"dot to 250, median", "ms", func(p pace) float64 { return p.p50 }},
		{"dot to 250, p99", "ms", func(p pace) float64 { return p.p99 }},
	} {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%s\t\n", line.name, middle(alone, line.of), middle(beside, line.of), line.unit)
	}
	fmt.Fprintf(w, "an idle connection, live heap and stack\t–\t%.1f\tKiB\t\n", median(live))
	fmt.Fprintf(w, "an idle connection, resident memory\t–\t%.1f\tKiB\t\n", median(each))
	fmt.Fprintf(b.errs, "alone %.1f, beside %.1f, live %.1f, resident %.1f KiB\n", alone, beside, live, each)
	return w.Flush()
}

func middle(all []pace, of func(pace) float64) float64 {
	var v []float64
	for _, p := range all {
		v = append(v, of(p))
	}
	return median(v)
}

// memory is what node 1 holds.
type memory struct {
	resident int64 // of the machine's, what the heap keeps free for later included
	live     int64 // heap in use after a collection, and stacks
}

func (b *bench) memory() (m memory, err error) {
	for range 2 { // pools let go of what they lend in the second one
		if m.live, err = b.live(); err != nil {
			return m, err
		}
	}
	pid, err := os.ReadFile(filepath.Join(b.cluster.dir, "state", "n1", "relayd.pid"))
	if err != nil {
		return m, err
	}
	status, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/status")
	if err != nil {
		return m, err
	}
	var kb int64
	if _, err = scanAfter(string(status), "VmRSS:", "%d", &kb); err != nil {
		return m, fmt.Errorf("no VmRSS in /proc, this needs Linux: %w", err)
	}
	m.resident = kb << 10
	return m, nil
}

// live has node 1 collect its garbage, and reads what is left.
func (b *bench) live() (int64, error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+b.cluster.port(1, 80)+"/debug/pprof/heap?gc=1&debug=1", nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer dev")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	var heap, stack int64
	_, err1 := scanAfter(string(text), "# HeapAlloc = ", "%d", &heap)
	_, err2 := scanAfter(string(text), "# Stack = ", "%d", &stack)
	return heap + stack, errors.Join(err1, err2)
}

// scanAfter scans what stands behind a mark.
func scanAfter(text, mark, format string, into ...any) (int, error) {
	_, rest, ok := strings.Cut(text, mark)
	if !ok {
		return 0, fmt.Errorf("no %q", mark)
	}
	return fmt.Sscanf(rest, format, into...)
}

// open opens the idle connections.
func (c crowd) open(ctx context.Context) ([]net.Conn, error) {
	all := make([]net.Conn, c.idle)
	err := each(ctx, 50, c.idle, func(i int) error {
		s, err := newSender(ctx, c.addr)
		if err != nil {
			return err
		}
		all[i] = s.conn
		if i%2 == 0 {
			_, err = s.send()
		}
		return err
	})
	return all, err
}

// hangUp ends them, each with its last word heard.
func hangUp(ctx context.Context, all []net.Conn) error {
	return each(ctx, 50, len(all), func(i int) error {
		if all[i] == nil {
			return nil
		}
		defer all[i].Close()
		if _, err := io.WriteString(all[i], "QUIT\r\n"); err != nil {
			return err
		}
		line, err := bufio.NewReaderSize(all[i], 64).ReadString('\n')
		if err == nil && !strings.HasPrefix(line, "221") {
			err = fmt.Errorf("an idle connection was answered %q", line)
		}
		return err
	})
}

// busy is one round of the busy connections. It ends with an empty queue.
func (b *bench) busy(ctx context.Context, c crowd) (pace, error) {
	senders := make([]*sender, c.busy)
	err := each(ctx, 50, c.busy, func(i int) (err error) {
		senders[i], err = newSender(ctx, c.addr)
		return err
	})
	for _, s := range senders {
		if s != nil {
			defer s.conn.Close()
		}
	}
	if err != nil {
		return pace{}, err
	}
	var mu sync.Mutex
	var times []float64
	begin := time.Now()
	err = each(ctx, c.busy, c.busy, func(i int) error {
		for range c.messages / c.busy {
			took, err := senders[i].send()
			if err != nil {
				return err
			}
			mu.Lock()
			times = append(times, float64(took.Microseconds())/1000)
			mu.Unlock()
		}
		return nil
	})
	if err != nil {
		return pace{}, err
	}
	p := pace{
		rate: float64(len(times)) / time.Since(begin).Seconds(), p50: quantile(times, 0.5), p99: quantile(times, 0.99),
	}
	if err := waitFor(ctx, 5*time.Minute, b.cluster.empty); err != nil {
		return p, fmt.Errorf("the queue does not empty: %w", err)
	}
	return p, nil
}

// each calls do for 0 to n-1, so many at a time, until one fails.
func each(ctx context.Context, atOnce, n int, do func(int) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, atOnce)
	for w := range atOnce {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil && errs[w] == nil; i = int(next.Add(1)) - 1 {
				errs[w] = do(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

// sender is one SMTP connection.
type sender struct {
	conn net.Conn
	tp   *textproto.Reader
}

func newSender(ctx context.Context, addr string) (*sender, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &sender{conn, textproto.NewReader(bufio.NewReaderSize(conn, 1024))}
	if _, _, err = s.tp.ReadResponse(220); err == nil {
		err = s.say("EHLO bench\r\n", 250)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

// say sends lines and hears as many replies.
func (s *sender) say(lines string, codes ...int) error {
	if _, err := io.WriteString(s.conn, lines); err != nil {
		return err
	}
	for _, code := range codes {
		if _, _, err := s.tp.ReadResponse(code); err != nil {
			return err
		}
	}
	return nil
}

// send hands in one message of 4 KiB, and returns the time from its final dot to
// the 250.
func (s *sender) send() (time.Duration, error) {
	if err := s.say("MAIL FROM:<sender@bench.example>\r\nRCPT TO:<rcpt@far.example>\r\nDATA\r\n", 250, 250,
		354); err != nil {
		return 0, err
	}
	begin := time.Now()
	err := s.say("Subject: bench\r\n\r\n"+strings.Repeat(textLine, 63)+".\r\n", 250)
	return time.Since(begin), err
}

// textLine is one of 64 octets.
const textLine = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n"

func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[min(int(q*float64(len(v))), len(v)-1)]
}
