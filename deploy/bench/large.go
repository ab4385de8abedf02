package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"text/tabwriter"
	"time"
)

// largeUser has the large mailbox.
const largeUser = "large@example.test"

// large fills one mailbox with n messages, reads its lists, and deletes all of it
// in one session. Beside that others log in, read a list and log out at each
// node: their wait is the cost of a large mailbox to everybody else.
func (b *bench) large(ctx context.Context, out io.Writer, n int) error {
	c := b.cluster
	if err := c.fill(ctx); err != nil {
		return err
	}
	if err := c.call(http.MethodPost, "/v1/users", `{"address":"`+largeUser+`","password":"secret"}`); err != nil {
		return err
	}
	if err := c.fillLarge(ctx, n); err != nil {
		return err
	}
	o := watchOthers(ctx, c)
	defer o.stop()
	if err := o.rest(ctx, 5*time.Second); err != nil {
		return err
	}
	alone := o.cut()
	m, err := largeSession(ctx, c, n)
	if err != nil {
		return err
	}
	beside := o.cut()
	// Sweep lets go of the messages from now on.
	if err := o.rest(ctx, 20*time.Second); err != nil {
		return err
	}
	after := o.cut()
	if err := o.stop(); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 2, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "mailbox of %d messages\t\t\n", n)
	for _, line := range []struct {
		name string
		took time.Duration
	}{
		{"login", m.login}, {"UIDL", m.uidl}, {"DELE of all", m.dele}, {"QUIT", m.quit},
		{"the same user's next login, at another node", m.again},
	} {
		fmt.Fprintf(w, "%s\t%d ms\t\n", line.name, line.took.Milliseconds())
	}
	fmt.Fprintf(w, "answers that saw a part of it deleted\t%d of %d\t\n", m.partly, m.looks)
	for _, line := range []struct {
		name string
		took []float64
	}{{"others' sessions before", alone}, {"while it was read and deleted", beside}, {"while the messages went", after}} {
		fmt.Fprintf(w, "%s, median, p99, longest of %d\t%.0f, %.0f, %.0f ms\t\n", line.name, len(line.took),
			quantile(line.took, 0.5), quantile(line.took, 0.99), quantile(line.took, 1))
	}
	return w.Flush()
}

// fillLarge hands in n small messages over some connections to each node.
func (c *cluster) fillLarge(ctx context.Context, n int) error {
	for node := 1; node <= c.nodes; node++ { // who has not heard of the account refuses its mail
		if err := waitFor(ctx, time.Minute, func() bool {
			_, err := c.messages(ctx, node, largeUser)
			return err == nil
		}); err != nil {
			return err
		}
	}
	const atOnce = 60
	senders := make([]*sender, atOnce)
	for i := range senders {
		var err error
		if senders[i], err = newSender(ctx, c.smtp()[i%c.nodes]); err != nil {
			return err
		}
		defer senders[i].conn.Close()
	}
	free := make(chan *sender, atOnce)
	for _, s := range senders {
		free <- s
	}
	return each(ctx, atOnce, n, func(int) error {
		s := <-free
		defer func() { free <- s }()
		if err := s.say("MAIL FROM:<bench@bench.example>\r\nRCPT TO:<"+largeUser+">\r\nDATA\r\n", 250, 250, 354); err != nil {
			return err
		}
		return s.say("Subject: large\r\n\r\nlarge\r\n.\r\n", 250)
	})
}

// largeTimes is what a client of the large mailbox waited for.
type largeTimes struct {
	login, uidl, dele, quit, again time.Duration
	looks, partly                  int // views of the mailbox, and those that showed a part of it
}

func largeSession(ctx context.Context, c *cluster, n int) (m largeTimes, err error) {
	begin := time.Now()
	lap := func() time.Duration {
		took := time.Since(begin)
		begin = time.Now()
		return took
	}
	s, err := popLogin(ctx, c.port(1, 10), largeUser)
	if err != nil {
		return m, err
	}
	defer s.conn.Close()
	m.login = lap()
	if err := s.say("UIDL"); err != nil {
		return m, err
	}
	if _, err := s.skip(); err != nil {
		return m, err
	}
	m.uidl = lap()
	go func() {
		w := bufio.NewWriterSize(s.conn, 32<<10)
		for i := range n {
			fmt.Fprintf(w, "DELE %d\r\n", i+1)
		}
		_ = w.Flush() // who reads the answers will see
	}()
	for range n {
		if err := s.ok(); err != nil {
			return m, err
		}
	}
	m.dele = lap()
	look := c.look(ctx, n)
	begin = time.Now()
	err = s.say("QUIT")
	m.quit = lap()
	if err == nil {
		var next *popClient
		if next, err = popLogin(ctx, c.port(min(2, c.nodes), 10), largeUser); err == nil {
			m.again = lap()
			defer next.conn.Close()
			var line string
			if _, err = fmt.Fprint(next.conn, "STAT\r\n"); err == nil {
				if line, err = next.ReadLine(); err == nil && line != "+OK 0 0" {
					err = fmt.Errorf("after QUIT the mailbox holds %q", line)
				}
			}
		}
	}
	m.looks, m.partly = look()
	return m, err
}

// look views the mailbox again and again at all nodes until it is told to stop.
func (c *cluster) look(ctx context.Context, n int) (stop func() (looks, partly int)) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var mu sync.Mutex
	looks, partly := 0, 0
	for node := 1; node <= c.nodes; node++ {
		wg.Go(func() {
			for ctx.Err() == nil {
				if got, err := c.messages(ctx, node, largeUser); err == nil {
					mu.Lock()
					looks++
					if got != 0 && got != n {
						partly++
					}
					mu.Unlock()
				}
				select {
				case <-ctx.Done():
				case <-time.After(2 * time.Millisecond):
				}
			}
		})
	}
	return func() (int, int) {
		cancel()
		wg.Wait()
		return looks, partly
	}
}

// messages is how many messages a user has, as a node sees it.
func (c *cluster) messages(ctx context.Context, node int, user string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.port(node, 80)+"/v1/users/"+user, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer dev")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	var seen struct{ Messages *int }
	if err := json.NewDecoder(res.Body).Decode(&seen); err != nil {
		return 0, err
	}
	if seen.Messages == nil {
		return 0, fmt.Errorf("node %d does not tell of %s: %s", node, user, res.Status)
	}
	return *seen.Messages, nil
}

// others are users of other mailboxes, one at each node.
type others struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	took   []float64 // ms a session
	err    error
}

func watchOthers(ctx context.Context, c *cluster) *others {
	ctx, cancel := context.WithCancel(ctx)
	o := &others{cancel: cancel}
	for node := 1; node <= c.nodes; node++ {
		o.wg.Go(func() {
			for ctx.Err() == nil {
				begin := time.Now()
				err := popSession(ctx, c.port(node, 10), fmt.Sprintf("bench%d@example.test", node))
				took := time.Since(begin)
				o.mu.Lock()
				if err == nil {
					o.took = append(o.took, float64(took.Microseconds())/1000)
				} else if ctx.Err() == nil && o.err == nil {
					o.err = fmt.Errorf("another user's session at node %d: %w", node, err)
				}
				o.mu.Unlock()
				select {
				case <-ctx.Done():
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
	}
	return o
}

// cut returns what was noted since the last time.
func (o *others) cut() []float64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	took := o.took
	o.took = nil
	return took
}

func (o *others) rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (o *others) stop() error {
	o.cancel()
	o.wg.Wait()
	return o.err
}
