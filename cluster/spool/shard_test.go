package spool_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// A node that was drained and takes work again gets its own mail back when the
// last entry that others took over is settled. Its components judge by what
// they read at the last change of ownership, so they must hear of this one.
func TestOwnershipThatComesHomeIsAChange(t *testing.T) {
	r := newReplica(t)
	n1, n2 := r.register("n1", "a"), r.register("n2", "b")
	first, second := newID(1), newID(17) // of one shard
	r.do(spool.KindAccept, acceptOf(first, n1, []string{"x@remote.test"}), []byte("body"))
	r.do(spool.KindDrain, &pb.Drain{Node: "n1"})
	require.Equal(t, pb.Code_OK, r.do(spool.KindAdopt, &pb.Adopt{From: n1}).Code)
	r.do(spool.KindDrain, &pb.Drain{Node: "n1", Off: true})
	r.m.Changes()

	require.Equal(t, pb.Code_OK, r.settle(n2, first, 0, 1, pb.State_DELIVERED))
	require.True(t, r.m.Changes().Sessions, "the shard is n1's again")
	r.do(spool.KindAccept, acceptOf(second, n1, []string{"y@remote.test"}), []byte("body"))
	queued := r.m.Changes().Queued
	require.Len(t, queued, 1)
	require.Equal(t, n1, queued[0].Owner)
	owners, err := r.view().Owners()
	require.NoError(t, err)
	require.Equal(t, n1, owners.Of(n1, second))
}

// A drain moves nothing by itself: the node may be sending the final dot.
func TestDrainWaitsForAttempts(t *testing.T) {
	r := newReplica(t)
	n1, n2 := r.register("n1", "a"), r.register("n2", "b")
	under, waits := newID(1), newID(17)
	for _, id := range []spool.ID{under, waits} {
		r.do(spool.KindAccept, acceptOf(id, n1, []string{"x@remote.test"}), []byte("body"))
	}
	require.Equal(t, pb.Code_STALE, r.do(spool.KindAdopt, &pb.Adopt{From: n1}).Code, "it is not draining")
	r.do(spool.KindDrain, &pb.Drain{Node: "n1"})
	require.Equal(t, pb.Code_OK, r.settle(n1, under, 0, 1, pb.State_DELIVERED))
	require.Equal(t, pb.Code_STALE, r.settle(n2, waits, 0, 1, pb.State_DELIVERED))
	require.EqualValues(t, 1, r.do(spool.KindAdopt, &pb.Adopt{From: n1}).Count)
	require.Equal(t, pb.Code_OK, r.settle(n2, waits, 0, 1, pb.State_DELIVERED))
}
