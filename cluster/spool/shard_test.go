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

// From version 2 on the mark of a drain outlives the session, so that a node
// that is started again stays drained; version 1 forgets it.
func TestDrainOutlivesTheSession(t *testing.T) {
	for _, version := range []int{1, 2} {
		r := newReplica(t)
		if version == 2 {
			r = newReplicaAt2(t)
		}
		r.register("n1", "a")
		r.register("n2", "b")
		require.Equal(t, pb.Code_OK, r.do(spool.KindDrain, &pb.Drain{Node: "n1"}).Code)
		r.expire("n1")
		res := r.do(spool.KindDrain, &pb.Drain{Node: "n1"})
		require.Equal(t, pb.Code_MISSING, res.Code, "what does not run is not drained")
		r.again("n1", "a", "c")
		s, _, err := r.view().Session("n1")
		require.NoError(t, err)
		require.Equal(t, version == 2, s.Draining)

		res = r.do(spool.KindDrain, &pb.Drain{Node: "n2"})
		require.Equal(t, version == 1, res.Code == pb.Code_OK, "the last one stays: %s", res.Text)
		r.expire("n1")
		res = r.do(spool.KindDrain, &pb.Drain{Node: "n1", Off: true})
		require.Equal(t, version == 2, res.Code == pb.Code_OK, "the mark goes without a session: %s", res.Text)
		r.again("n1", "c", "d")
		s, _, err = r.view().Session("n1")
		require.NoError(t, err)
		require.False(t, s.Draining)
	}
}

// Of two drains the one that ends the notice earlier counts.
func TestDrainTwice(t *testing.T) {
	r := newReplicaAt2(t)
	r.register("n1", "a")
	r.register("n2", "b")
	mark := func() int64 {
		m, _, err := r.view().Member("n1")
		require.NoError(t, err)
		return m.DrainMs
	}
	r.do(spool.KindDrain, &pb.Drain{Node: "n1", NoticeMs: 60_000})
	first := mark()
	r.do(spool.KindDrain, &pb.Drain{Node: "n1", NoticeMs: 90_000})
	require.Equal(t, first, mark())
	r.do(spool.KindDrain, &pb.Drain{Node: "n1", NoticeMs: 5_000})
	require.Less(t, mark(), first)
	r.do(spool.KindDrain, &pb.Drain{Node: "n1", Off: true})
	require.Zero(t, mark())
}

// expire ends a node's session.
func (r *replica) expire(node string) {
	s := r.session(node)
	require.Equal(r.t, pb.Code_OK, r.do(spool.KindExpire, &pb.Expire{Node: node, Epoch: s.Epoch, Renewed: s.Renewed}).Code)
}

// again registers a node that is started again.
func (r *replica) again(node, former, nonce string) {
	h := &pb.Register{Nonce: nonce, Member: &pb.Member{Id: node, MaxCommand: spool.MaxVersion}}
	if r.version() > 1 {
		h.Previous = []string{former}
	}
	require.NotZero(r.t, r.do(spool.KindRegister, h).Epoch)
}
