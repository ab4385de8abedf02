package nodetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/node/admin"
	"relay/node/config"
	"relay/pop3"
	"relay/smtp"
)

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestMailIsReadFromAnyNode(t *testing.T) {
	t.Parallel()
	c := New(t, Options{})
	for i, m := range c.Nodes {
		letter := Letter(fmt.Sprint("hello", i)) + "..dots\r\n.\tline\r\n8-bit \xc3\xa9\xff\r\n"
		ctx := within(t, 3*time.Minute)
		s, err := m.Dial(ctx)
		require.NoError(t, err)
		_, err = s.Send("bob@example.test", "alice@example.test", letter)
		require.NoError(t, err)
		s.Close()
		reader := c.Nodes[(i+1)%3]
		var body strings.Builder
		c.Eventually(time.Minute, "the message is not there", func() bool {
			p, err := reader.Login(ctx, "alice")
			if err != nil {
				return false
			}
			defer p.Close()
			n, _, err := p.Stat(ctx)
			require.NoError(t, err)
			if n != 1 {
				return false
			}
			body.Reset()
			_, err = p.Retr(ctx, 1, &body)
			require.NoError(t, err)
			require.NoError(t, p.Dele(ctx, 1))
			require.NoError(t, p.Quit(ctx))
			return true
		})
		require.True(t, strings.HasSuffix(body.String(), letter), "the client's octets are unchanged: %q", body.String())
		require.True(t, strings.HasPrefix(body.String(),
			"Return-Path: <bob@example.test>\r\nDelivered-To: alice@example.test\r\nReceived: from client.test"))
	}
	c.Verify()
}

func TestRemoteMailIsDeliveredAndTraced(t *testing.T) {
	t.Parallel()
	c := New(t, Options{})
	id := c.Nodes[1].MustSend("alice@example.test", "x@far.example", Letter("away"))
	require.NoError(t, c.Sink.Wait(within(t, 3*time.Minute), 1))
	require.Equal(t, "x@far.example", c.Sink.Got()[0].To)
	c.Eventually(time.Minute, "no history", func() bool {
		trace, err := c.Nodes[2].Client().Trace(within(t, 20*time.Second), id)
		return err == nil && trace.Events[len(trace.Events)-1].What == "delivered"
	})
}

func TestBounceReachesTheLocalSender(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	c.Sink.Answer(func(string) error { return smtp.NewReply(550, "5.1.1", "nobody here") })
	c.Nodes[0].MustSend("alice@example.test", "x@far.example", Letter("refused"))
	c.Eventually(time.Minute, "no bounce", func() bool {
		found, err := c.Nodes[0].Subjects("alice")
		return err == nil && len(found) == 1
	})
}

func TestDeferredMailIsRetriedOnSchedule(t *testing.T) {
	t.Parallel()
	c := New(t, Options{
		Nodes: 1, Configure: func(_ int, conf *config.Config) {
			conf.Delivery.RetryFirst = config.Duration(300 * time.Millisecond)
		},
	})
	var tries atomic.Int32
	c.Sink.Answer(func(string) error {
		if tries.Add(1) < 3 {
			return smtp.NewReply(450, "4.2.0", "later")
		}
		return nil
	})
	id := c.Nodes[0].MustSend("alice@example.test", "x@far.example", Letter("patience"))
	require.NoError(t, c.Sink.Wait(within(t, 3*time.Minute), 1))
	c.Eventually(time.Minute, "no history", func() bool {
		trace, err := c.Nodes[0].Client().Trace(within(t, 20*time.Second), id)
		if err != nil {
			return false
		}
		var what []string
		for _, e := range trace.Events {
			what = append(what, e.What)
		}
		return strings.Join(what, " ") == "accepted deferred deferred delivered"
	})
}

// TestLeaderDiesUnderLoad is the promise: clients that try again, at any node,
// whatever got no 250, while the leader is killed in the middle. A message that got a
// 250 is there, exactly once unless its history says that it may be twice.
func TestLeaderDiesUnderLoad(t *testing.T) {
	c := New(t, Options{Tuning: Quick()})
	const clients, each = 10, 20
	ctx := within(t, 3*time.Minute)
	var acknowledged sync.Map // name → id
	var sent atomic.Int32
	var wg sync.WaitGroup
	for k := range clients {
		wg.Go(func() {
			for n := range each {
				name := fmt.Sprintf("m-%d-%d", k, n)
				to := "alice@example.test"
				if n%2 == 1 {
					to = name + "@far.example"
				}
				for try := k + n; ctx.Err() == nil; try++ {
					id, err := c.Nodes[try%3].Send(ctx, "s@far.example", to, Letter(name))
					if err == nil {
						acknowledged.Store(name, id)
						sent.Add(1)
						break
					}
				}
			}
		})
	}
	c.Eventually(time.Minute, "no traffic", func() bool { return sent.Load() > clients*each/4 })
	leader := c.Leader()
	leader.Kill()
	c.Eventually(time.Minute, "no traffic after the leader's death",
		func() bool { return sent.Load() > clients*each/2 })
	leader.Start()
	wg.Wait()
	require.NoError(t, ctx.Err())
	require.EqualValues(t, clients*each, sent.Load())
	leader.WaitReady()
	audit(t, c, &acknowledged)
}

// audit looks for every acknowledged message.
func audit(t *testing.T, c *Cluster, acknowledged *sync.Map) {
	t.Helper()
	c.Eventually(time.Minute, "the queue does not empty", func() bool {
		s, err := c.Up()[0].Client().Status(within(t, 20*time.Second))
		return err == nil && s.Queue.Messages == 0
	})
	var found map[string]int
	c.Eventually(time.Minute, "no login", func() (ok bool) {
		var err error
		found, err = c.Up()[0].Subjects("alice")
		return err == nil
	})
	sunk := map[string]int{}
	for _, d := range c.Sink.Got() {
		sunk[SubjectOf(d.Body)]++
	}
	acknowledged.Range(func(name, id any) bool {
		n := found[name.(string)] + sunk[name.(string)]
		// A client that lost its 250 sends again: that makes another message,
		// and is its right (RFC 1047).
		require.NotZero(t, n, "message %s (%s) is lost", name, id)
		return true
	})
	c.Verify()
}

func TestMaildropLockHoldsAcrossTheClusterAndDiesWithItsNode(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: Quick()})
	ctx := within(t, 3*time.Minute)
	c.Nodes[0].MustSend("bob@example.test", "alice@example.test", Letter("keep"))
	var holder *pop3.Client
	c.Eventually(time.Minute, "no login", func() bool {
		var err error
		if holder, err = c.Nodes[0].Login(ctx, "alice"); err != nil {
			return false
		}
		n, _, err := holder.Stat(ctx)
		require.NoError(t, err)
		if n == 0 {
			require.NoError(t, holder.Quit(ctx))
		}
		return n == 1
	})
	defer holder.Close()
	require.NoError(t, holder.Dele(ctx, 1))
	for _, m := range c.Nodes[1:] {
		_, err := m.Login(ctx, "alice")
		require.ErrorContains(t, err, "[IN-USE]")
		require.ErrorContains(t, err, "n1")
	}
	c.Nodes[0].Kill()
	c.Eventually(time.Minute, "the lock outlives its node", func() bool {
		p, err := c.Nodes[1].Login(ctx, "alice")
		if err != nil {
			return false
		}
		defer p.Close()
		n, _, err := p.Stat(ctx)
		if err != nil {
			return false // n2 may lose its own session while a leader is elected
		}
		require.Equal(t, 1, n, "what the dead session had marked is still there")
		return p.Quit(ctx) == nil
	})
}

func TestUnlockCutsTheSession(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	ctx := within(t, 3*time.Minute)
	p, err := c.Nodes[0].Login(ctx, "alice")
	require.NoError(t, err)
	defer p.Close()
	u, err := c.Nodes[0].Client().Unlock(ctx, admin.By{Why: "test"}, "alice@example.test", 0)
	require.NoError(t, err)
	require.Equal(t, "n1", u.Lock.Node)
	c.Eventually(time.Minute, "the session lives on", func() bool { return p.Noop(ctx) != nil })
	again, err := c.Nodes[0].Login(ctx, "alice")
	require.NoError(t, err)
	require.NoError(t, again.Quit(ctx))
}

// once checks that each message arrived once; twice only where its history
// says that it may have.
func once(t *testing.T, c *Cluster, ids []string) {
	t.Helper()
	arrived := map[string]int{}
	for _, d := range c.Sink.Got() {
		arrived[SubjectOf(d.Body)]++
	}
	for n, id := range ids {
		times := arrived[fmt.Sprint("q", n)]
		require.NotZero(t, times, "message %s is lost", id)
		if times == 1 {
			continue
		}
		trace, err := c.Up()[0].Client().Trace(within(t, 20*time.Second), id)
		require.NoError(t, err)
		told := false
		for _, e := range trace.Events {
			told = told || e.MaybeDuplicate
		}
		require.True(t, told, "message %s arrived %d times, and its history is silent: %v", id, times, trace.Events)
	}
}

func TestDeadNodesQueueIsTakenOver(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: Quick(),
		Configure: func(_ int, conf *config.Config) { conf.Delivery.RetryFirst = config.Duration(2 * time.Second) },
	})
	c.Sink.Answer(func(string) error { return smtp.NewReply(450, "4.2.0", "later") })
	var ids []string
	for n := range 20 {
		ids = append(ids, c.Nodes[0].MustSend("alice@example.test", fmt.Sprintf("x%d@far.example", n),
			Letter(fmt.Sprint("q", n))))
	}
	c.Eventually(time.Minute, "not all were tried", func() bool {
		page, _, err := c.Nodes[1].Client().Queue(within(t, 20*time.Second), admin.QueuePage{Limit: 50})
		if err != nil || len(page) != len(ids) {
			return false
		}
		for _, m := range page {
			if m.Recipients[0].Attempts == 0 {
				return false
			}
		}
		return true
	})
	c.Nodes[0].Kill()
	c.Sink.Answer(nil)
	require.NoError(t, c.Sink.Wait(within(t, 3*time.Minute), len(ids)))
	c.Eventually(time.Minute, "the queue does not empty", func() bool {
		s, err := c.Nodes[1].Client().Status(within(t, 20*time.Second))
		return err == nil && s.Queue.Messages == 0
	})
	once(t, c, ids)
	trace, err := c.Nodes[1].Client().Trace(within(t, 20*time.Second), ids[0])
	require.NoError(t, err)
	last := trace.Events[len(trace.Events)-1]
	require.Greater(t, last.Attempt, uint32(1), "attempts are kept")
	require.NotEqual(t, "n1", last.Node)
}

func impatient() cluster.Tuning {
	t := Quick()
	t.Deadline = 3 * time.Second
	return t
}

func TestWithoutAMajorityNothingIsAccepted(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: impatient()})
	s, err := c.Nodes[2].Dial(within(t, 3*time.Minute))
	require.NoError(t, err)
	defer s.Close()
	c.Nodes[0].Kill()
	c.Nodes[1].Kill()
	_, err = s.Send("bob@example.test", "alice@example.test", Letter("never"))
	require.True(t, IsTemporary(err), "%v", err)
	c.Eventually(time.Minute, "a lonely node serves", func() bool {
		_, err := c.Nodes[2].Send(within(t, 3*time.Minute), "bob@example.test", "alice@example.test", Letter("never"))
		return IsTemporary(err)
	})
	c.Nodes[0].Start()
	c.Eventually(time.Minute, "service does not resume", func() bool {
		_, err := c.Nodes[2].Send(within(t, 3*time.Minute), "bob@example.test", "alice@example.test", Letter("after"))
		return err == nil
	})
	var found map[string]int
	c.Eventually(time.Minute, "no mail", func() bool {
		found, err = c.Nodes[2].Subjects("alice")
		return err == nil && found["after"] > 0
	})
	c.Nodes[1].Start()
	c.Nodes[1].WaitReady()
	c.Verify()
}

func TestWipedNodeComesBack(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: Quick()})
	for n := range 30 {
		c.Nodes[n%3].MustSend("bob@example.test", "alice@example.test", Letter(fmt.Sprint("a", n)))
	}
	c.Nodes[2].Kill()
	for n := range 30 {
		c.Nodes[n%2].MustSend("bob@example.test", "alice@example.test", Letter(fmt.Sprint("b", n)))
	}
	c.Nodes[2].Wipe(c.Nodes[0])
	c.Nodes[2].Start()
	for n := range 30 {
		c.Nodes[n%2].MustSend("bob@example.test", "alice@example.test", Letter(fmt.Sprint("c", n)))
	}
	c.Nodes[2].WaitReady()
	var found map[string]int
	c.Eventually(time.Minute, "mail is missing at the new node", func() bool {
		var err error
		found, err = c.Nodes[2].Subjects("alice")
		return err == nil && len(found) == 90
	})
	c.Verify()
}

func TestLargeMessagePassesUnchanged(t *testing.T) {
	t.Parallel()
	c := New(t, Options{})
	line := strings.Repeat("0123456789abcde", 5) + "\r\n"
	letter := Letter("large") + strings.Repeat(line, 4<<20/len(line))
	c.Nodes[0].MustSend("bob@example.test", "alice@example.test", letter)
	ctx := within(t, 3*time.Minute)
	var body strings.Builder
	c.Eventually(time.Minute, "no mail", func() bool {
		p, err := c.Nodes[1].Login(ctx, "alice")
		require.NoError(t, err)
		defer p.Close()
		body.Reset()
		_, err = p.Retr(ctx, 1, &body)
		require.NoError(t, p.Quit(ctx))
		return err == nil
	})
	require.True(t, strings.HasSuffix(body.String(), letter))
	c.Verify()
}

// TestIsolatedLeaderAcceptsNothing cuts the leader off with clients on both
// sides: nobody gets a 250 for mail that it takes, and when it comes back all agree.
func TestIsolatedLeaderAcceptsNothing(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: impatient()})
	var old *Member
	var holder *pop3.Client
	c.Eventually(time.Minute, "no login at the leader", func() bool { // a client comes again
		var err error
		old = c.Leader()
		holder, err = old.Login(within(t, 3*time.Minute), "alice")
		return err == nil
	})
	defer holder.Close()
	c.Isolate(old)
	_, err := old.Send(within(t, 3*time.Minute), "bob@example.test", "alice@example.test", Letter("lost side"))
	require.True(t, IsTemporary(err), "%v", err)
	c.Eventually(time.Minute, "a fenced node keeps its POP3 session", func() bool {
		return holder.Noop(within(t, 20*time.Second)) != nil
	})
	var other *Member
	for _, m := range c.Nodes {
		if m != old {
			other = m
		}
	}
	c.Eventually(time.Minute, "the majority does not serve", func() bool {
		_, err := other.Send(within(t, 3*time.Minute), "bob@example.test", "alice@example.test", Letter("right side"))
		return err == nil
	})
	c.Eventually(time.Minute, "the isolated node's lock is not freed", func() bool {
		found, err := other.Subjects("alice")
		return err == nil && found["right side"] > 0
	})
	c.Heal(old)
	c.WaitHealthy()
	c.Verify()
}
