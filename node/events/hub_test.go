package events

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

// service is over a state without a record.
func service(h *Hub) *Service {
	return &Service{Hub: h, View: func(f func(spool.View) error) error { return f(spool.View{R: empty{}}) },
		Timeline: func(spool.View) (func(*pb.Event) admin.TraceEvent, error) {
			return func(e *pb.Event) admin.TraceEvent { return admin.TraceEvent{What: e.What, Recipient: e.Recipient} }, nil
		}}
}

// empty is a store without a key.
type empty struct{}

func (empty) Get([]byte) ([]byte, error)                       { return nil, nil }
func (empty) Scan(_, _ []byte, _ func(k, v []byte) bool) error { return nil }

func happened(from, n int) (c spool.Changes) {
	for i := range n {
		c.Happened = append(c.Happened, spool.Happening{Index: uint64(from + i), N: 1,
			Event: &pb.Event{What: "delivered", Recipient: fmt.Sprintf("u%d@example.test", from+i)}})
	}
	return c
}

func watch(t *testing.T, s *Service, filters ...string) admin.EventStream {
	t.Helper()
	f, err := admin.ParseEventFilter(filters)
	require.NoError(t, err)
	w, err := s.Events(t.Context(), f)
	require.NoError(t, err)
	t.Cleanup(w.Close)
	return w
}

// all takes n events.
func all(t *testing.T, w admin.EventStream, n int) (list []admin.StreamEvent) {
	t.Helper()
	for len(list) < n {
		some, err := w.Next(t.Context())
		require.NoError(t, err)
		require.NotEmpty(t, some)
		list = append(list, some...)
	}
	require.Len(t, list, n)
	return list
}

// TestWatchers: each sees all from when it came, in order; nothing is kept before the first
// comes and after the last has gone.
func TestWatchers(t *testing.T) {
	h := NewHub()
	s := service(h)
	h.Feed(happened(1, 5))
	require.False(t, h.Watched().Load())
	one := watch(t, s)
	require.True(t, h.Watched().Load())
	h.Feed(happened(6, 2))
	two := watch(t, s, "recipient=u9@example.test")
	h.Feed(happened(8, 3))
	for i, e := range all(t, one, 5) {
		require.Equal(t, fmt.Sprintf("/%d.1", i+6), e.ID)
	}
	require.Equal(t, "/9.1", all(t, two, 1)[0].ID)
	one.Close()
	one.Close()
	require.True(t, h.Watched().Load(), "one is there still")
	two.Close()
	require.False(t, h.Watched().Load())
	require.Nil(t, h.ring)
	h.Feed(happened(11, 1))
}

// TestSlowWatcher: it is told how many events it missed, and goes on behind them; the others
// miss nothing.
func TestSlowWatcher(t *testing.T) {
	h := NewHub()
	s := service(h)
	slow, quick := watch(t, s), watch(t, s)
	for i := range 3 {
		h.Feed(happened(i*ringSize, ringSize))
		require.Equal(t, fmt.Sprintf("/%d.1", i*ringSize), all(t, quick, ringSize)[0].ID)
	}
	list := all(t, slow, ringSize+1)
	require.Equal(t, admin.EventMissed, list[0].What)
	require.EqualValues(t, 2*ringSize, list[0].Missed)
	require.Equal(t, fmt.Sprintf("/%d.1", 2*ringSize), list[1].ID)
	h.Feed(spool.Changes{Restored: true})
	lost := all(t, slow, 1)[0]
	require.Equal(t, admin.EventMissed, lost.What)
	require.Zero(t, lost.Missed)
}

// TestQuietAndEnd: without events a watcher hears so after a while; the end of the node ends it.
func TestQuietAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub()
		w := watch(t, service(h))
		began := time.Now()
		list, err := w.Next(t.Context())
		require.NoError(t, err)
		require.Empty(t, list)
		require.Equal(t, quiet, time.Since(began))
		go func() {
			time.Sleep(time.Second)
			h.Close()
			h.Close()
		}()
		_, err = w.Next(t.Context())
		require.ErrorIs(t, err, io.EOF)
		_, err = service(h).Events(t.Context(), admin.EventFilter{})
		require.ErrorContains(t, err, "the node stops")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = watch(t, service(NewHub())).Next(ctx)
		require.ErrorIs(t, err, context.Canceled)
	})
}

// TestTooManyWatchers: one more than there may be is refused, until one goes.
func TestTooManyWatchers(t *testing.T) {
	s := service(NewHub())
	var last admin.EventStream
	for range watchersMost {
		last = watch(t, s)
	}
	_, err := s.Events(t.Context(), admin.EventFilter{})
	require.ErrorContains(t, err, "watch this node's events already")
	last.Close()
	watch(t, s)
}
