package nodetest

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

// gateHop lets the sink wait in RCPT until release is called.
func gateHop(t *testing.T, c *Cluster) (entered chan string, release func()) {
	t.Helper()
	entered, open := make(chan string, 1000), make(chan struct{})
	c.Sink.Answer(func(to string) error {
		select {
		case entered <- to:
		default: // nobody counts so far
		}
		<-open
		return nil
	})
	done := false
	release = func() {
		if !done {
			done = true
			close(open)
		}
	}
	t.Cleanup(release)
	return entered, release
}

// timeline is a message's history in short.
func (c *Cluster) timeline(t *testing.T, id string) string {
	trace, err := c.Up()[0].Client().Trace(within(t, 20*time.Second), id)
	if err != nil {
		return err.Error()
	}
	var what []string
	for _, e := range trace.Events {
		what = append(what, e.What)
	}
	return strings.Join(what, " ")
}

// TestRemovedWhileDelivered: an operator removes a message whose final dot is
// just being sent. It arrives, and its history says so.
func TestRemovedWhileDelivered(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	entered, release := gateHop(t, c)
	id := c.Nodes[0].MustSend("alice@example.test", "x@far.example", Letter("too late"))
	<-entered
	by := admin.By{Who: "ann", Why: "a mistake"}
	done, err := c.Nodes[0].Client().Manage(within(t, 3*time.Minute), by,
		admin.QueueAction{Action: admin.ActionRemove, IDs: []string{id}})
	require.NoError(t, err)
	require.Equal(t, 1, done.Changed)
	release()
	require.NoError(t, c.Sink.Wait(within(t, 3*time.Minute), 1))
	c.Eventually(time.Minute, "the delivery is not told",
		func() bool { return c.timeline(t, id) == "accepted deleted delivered" })
	trace, err := c.Nodes[0].Client().Trace(within(t, 20*time.Second), id)
	require.NoError(t, err)
	require.Equal(t, admin.StateDelivered, trace.Recipients[0].State)
	last := trace.Events[2]
	require.Contains(t, last.Host, "127.0.0.1")
	require.Contains(t, last.Reply, "sunk")
	require.Contains(t, last.Detail, "although deleted by")
	c.Verify()
}
