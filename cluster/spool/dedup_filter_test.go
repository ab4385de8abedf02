package spool_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// TestDedupOfASetBackClock: the clock comes again to where dedup keys were written before
// it was set back. A node that has run all the time answers as one that starts then.
func TestDedupOfASetBackClock(t *testing.T) {
	for _, back := range []time.Duration{2 * time.Minute, 12 * time.Minute, 25 * time.Minute, 2 * time.Hour} {
		r := newSecond(t)
		r.user(alice)
		epoch := r.register("n1", "a")
		r.pass(3 * time.Hour)
		twin := func(id byte) *pb.Accept {
			h := acceptOf(newID(id), epoch, nil, alice)
			h.Twin = []byte("0123456789abcdef0123456789abcdef")
			return h
		}
		require.Equal(t, pb.Code_OK, r.do(spool.KindAccept, twin(1), []byte("once")).Code)
		r.jump(-back, 0)
		r.pass(back - time.Minute)

		m, err := spool.Load(r.store)
		require.NoError(t, err)
		f, err := spool.Encode(spool.KindAccept, twin(2), []byte("once"))
		require.NoError(t, err)
		r.now = r.now.Add(time.Millisecond)
		f.Stamp(r.now)
		started, err := m.Apply(r.store.Batch(), r.index+1, f)
		require.NoError(t, err)
		runs, err := r.m.Apply(r.store.Batch(), r.index+1, f)
		require.NoError(t, err)
		require.Equal(t, started.Code, runs.Code, "set back by %v", back)
	}
}
