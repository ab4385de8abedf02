package spool_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

func (r *replica) historyLength() spool.HistoryLength {
	h, err := r.view().HistoryLength()
	require.NoError(r.t, err)
	return h
}

// The length of the history is that of what is there, and its bound is larger from
// cluster version 2 on.
func TestHistoryLength(t *testing.T) {
	r := newReplica(t)
	one := r.register("n1", "a")
	require.Equal(t, spool.HistoryLength{Bound: 1 << 30, Keep: 3 * 24 * time.Hour}, r.historyLength())
	id := newID(1)
	r.do(spool.KindAccept, acceptOf(id, one, []string{"x@far.example"}), []byte("body"))
	r.settle(one, id, 0, 1, pb.State_DELIVERED)
	r.now = r.now.Add(2 * time.Hour)
	r.raised(2)
	h := r.historyLength()
	require.EqualValues(t, 4<<30, h.Bound)
	require.EqualValues(t, 1, h.Messages)
	require.EqualValues(t, r.counter(spool.CountHistoryBytes), h.Bytes)
	require.InDelta(t, 2*time.Hour, h.Span, float64(time.Minute))
	r.do(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{HistoryMs: 1, HistoryBytes: 77}})
	h = r.historyLength()
	require.EqualValues(t, 77, h.Bound)
	require.Equal(t, 10*time.Minute, h.Keep, "a retried Accept must still meet its message")
}

func TestHistoryLasts(t *testing.T) {
	const keep = 72 * time.Hour
	for _, c := range []struct {
		bytes uint64
		span  time.Duration
		want  time.Duration
		known bool
	}{
		{0, 0, 0, false},
		{10, 59 * time.Minute, 0, false},
		{50, 7 * time.Minute, 14 * time.Minute, true},
		{100, 14 * time.Minute, 14 * time.Minute, true},
		{10, 2 * time.Hour, 20 * time.Hour, true},
		{10, 48 * time.Hour, keep, true},
	} {
		lasts, known := spool.HistoryLength{Bytes: c.bytes, Bound: 100, Keep: keep, Span: c.span}.Lasts()
		require.Equal(t, c.known, known, c)
		require.Equal(t, c.want, lasts, c)
	}
}
