package nodetest

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

// TestEventsAtEveryNode: who watches any node sees the events of the whole cluster in one
// order with the same ids; the death of a node ends the answers of that one alone.
func TestEventsAtEveryNode(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: Quick()})
	ctx := within(t, time.Minute)
	var streams []admin.EventStream
	for _, m := range c.Nodes {
		s, err := m.Client().Events(ctx, admin.EventFilter{})
		require.NoError(t, err)
		t.Cleanup(s.Close)
		streams = append(streams, s)
	}
	var want []string
	for i, m := range c.Nodes {
		id := m.MustSend("alice@example.test", fmt.Sprintf("x%d@far.example", i), Letter(fmt.Sprint("far", i)))
		want = append(want, "accepted "+id, "delivered "+id)
	}
	require.NoError(t, c.Sink.Wait(within(t, 30*time.Second), 3))
	require.NoError(t, c.Nodes[1].Client().SetAlias(within(t, 20*time.Second), admin.By{Why: "a test"},
		admin.Alias{Address: "new@example.test", Targets: []string{"alice@example.test"}}))

	want = append(want, "admin a test")
	until := func(s admin.EventStream) (seen []string) {
		left := slices.Clone(want)
		for len(left) > 0 {
			list, err := s.Next(ctx)
			require.NoError(t, err)
			for _, e := range list {
				seen = append(seen, e.ID+" "+e.What)
				if e.Message != "" {
					require.Equal(t, "alice@example.test", e.Sender)
				}
				left = slices.DeleteFunc(left, func(one string) bool { return one == e.What+" "+cmp.Or(e.Message, e.Why) })
			}
		}
		return seen
	}
	first := until(streams[0])
	for _, s := range streams[1:] {
		require.Equal(t, first, until(s))
	}
	c.Nodes[2].Kill()
	_, err := streams[2].Next(ctx)
	require.Error(t, err)
	id := c.Nodes[0].MustSend("alice@example.test", "later@far.example", Letter("later"))
	for {
		list, err := streams[0].Next(ctx)
		require.NotErrorIs(t, err, io.EOF)
		require.NoError(t, err)
		if len(list) > 0 && list[0].Message == id {
			break
		}
	}
}
