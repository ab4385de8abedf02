package nodetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

// owned tells how many recipients a node is to deliver.
func (c *Cluster) owned(t *testing.T, at *Member, id string) uint64 {
	s, err := at.Client().Status(within(t, 20*time.Second))
	if err != nil {
		return 1 << 62
	}
	for _, n := range s.Nodes {
		if n.ID == id {
			return n.Owned
		}
	}
	return 1 << 62
}

// load sends messages q0, q1, … round the nodes, each until some node takes it,
// as long as on says.
type load struct {
	mu  sync.Mutex
	ids []string
}

func (l *load) run(ctx context.Context, c *Cluster, on func(n int) bool) {
	for n := 0; on(n) && ctx.Err() == nil; n++ {
		for try := n; ctx.Err() == nil; try++ {
			id, err := c.Nodes[try%len(c.Nodes)].Send(ctx, "s@away.example", fmt.Sprintf("x%d@far.example", n),
				Letter(fmt.Sprint("q", n)))
			if err == nil {
				l.mu.Lock()
				l.ids = append(l.ids, id)
				l.mu.Unlock()
				break
			}
		}
	}
}

// TestDrainUnderLoad drains a node that delivers, takes it back, drains it
// again and kills it while it hands over: nothing is stuck, and nothing
// arrives twice without its history saying that it may have.
func TestDrainUnderLoad(t *testing.T) {
	c := New(t, Options{Tuning: Quick()})
	ctx := within(t, 90*time.Second)
	by := admin.By{Who: "test", Why: "maintenance"}
	n1, other := c.Nodes[0], c.Nodes[1]
	if c.Leader() == n1 {
		n1, other = other, n1
	}
	drain := func(off bool) {
		c.Eventually(time.Minute, "no drain", func() bool {
			_, err := other.Client().Drain(within(t, 20*time.Second), by, n1.ID, admin.DrainOptions{Off: off})
			return err == nil
		})
	}
	entered, release := gateHop(t, c)
	stop := make(chan struct{})
	l := &load{}
	var wg sync.WaitGroup
	wg.Go(func() {
		l.run(ctx, c, func(int) bool {
			select {
			case <-stop:
				return false
			default:
				return true
			}
		})
	})
	for range 15 {
		<-entered // attempts are under way on every node
	}
	drain(false)
	require.NotZero(t, c.owned(t, other, n1.ID), "what is being tried stays until it is settled")
	release()
	c.Eventually(time.Minute, "the drained node keeps its queue", func() bool { return c.owned(t, other, n1.ID) == 0 })
	drain(true)
	had := len(c.Sink.Got())
	c.Eventually(time.Minute, "mail does not go on", func() bool { return len(c.Sink.Got()) > had+20 })

	// The second time it dies in the middle of it.
	_, release = gateHop(t, c)
	c.Eventually(time.Minute, "nothing to hand over",
		func() bool { n := c.owned(t, other, n1.ID); return n > 3 && n < 1<<62 })
	drain(false)
	n1.Kill()
	close(stop)
	release()
	wg.Wait()
	require.NoError(t, ctx.Err())
	c.Eventually(time.Minute, "the queue does not empty", func() bool {
		s, err := other.Client().Status(within(t, 20*time.Second))
		return err == nil && s.Queue.Messages == 0
	})
	once(t, c, l.ids)
	drain(true) // though it is down
	n1.Start()
	n1.WaitReady()
	c.Verify()
}

// TestUndrainBeforeItIsOver: a node that is taken back while its attempts are
// under way keeps what it has.
func TestUndrainBeforeItIsOver(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: Quick()})
	by := admin.By{Who: "test", Why: "a mistake"}
	entered, release := gateHop(t, c)
	var ids []string
	for n := range 5 {
		ids = append(ids, c.Nodes[0].MustSend("s@away.example", fmt.Sprintf("x%d@far.example", n),
			Letter(fmt.Sprint("q", n))))
	}
	<-entered
	for _, off := range []bool{false, true} {
		_, err := c.Nodes[1].Client().Drain(within(t, 3*time.Minute), by, "n1", admin.DrainOptions{Off: off})
		require.NoError(t, err)
	}
	release()
	require.NoError(t, c.Sink.Wait(within(t, 3*time.Minute), len(ids)))
	c.Eventually(time.Minute, "the queue does not empty", func() bool {
		s, err := c.Nodes[1].Client().Status(within(t, 20*time.Second))
		return err == nil && s.Queue.Messages == 0
	})
	once(t, c, ids)
	ids = []string{c.Nodes[0].MustSend("s@away.example", "y@far.example", Letter("q0"))}
	c.Eventually(time.Minute, "a node that was taken back does not deliver",
		func() bool { return c.timeline(t, ids[0]) == "accepted delivered" })
	c.Verify()
}
