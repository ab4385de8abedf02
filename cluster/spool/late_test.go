package spool_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// TestDeliveredAlthoughDeleted: an operator deletes an entry while it is being
// tried, and the attempt succeeds. The history tells both.
func TestDeliveredAlthoughDeleted(t *testing.T) {
	r := newReplica(t)
	epoch := r.register("n1", "a")
	id := newID(7)
	r.do(spool.KindAccept, acceptOf(id, epoch, []string{"x@far.example", "y@far.example"}), []byte("body"))
	res := r.do(spool.KindManage, &pb.Manage{
		Admin: &pb.Admin{Who: "ann"}, Action: pb.Action_DELETE, Ids: [][]byte{id[:]}, Recipient: "y@far.example",
	})
	require.EqualValues(t, 1, res.Count)
	verdict := func(n uint32, st pb.State) pb.Code {
		return r.do(spool.KindSettle, &pb.Settle{Epoch: epoch, Node: "n1", Verdicts: []*pb.Verdict{{
			Id: id[:], Recipient: n, Attempt: 1, State: st, Host: "mx.far.example", Reply: "250 2.0.0 ok", AtMs: 5,
		}}}).Codes[0]
	}
	before := r.counter(spool.CountDelivered)
	require.Equal(t, pb.Code_MISSING, verdict(1, pb.State_BOUNCED), "a failure of what is deleted changes nothing")
	require.Equal(t, pb.Code_MISSING, verdict(1, pb.State_DELIVERED))
	require.Equal(t, pb.Code_MISSING, verdict(1, pb.State_DELIVERED), "proposed again")
	require.Equal(t, before+1, r.counter(spool.CountDelivered))

	// The other recipient ends the message; a verdict that comes later is noted all the
	// same.
	require.Equal(t, pb.Code_OK, verdict(0, pb.State_DELIVERED))
	require.Equal(t, pb.Code_MISSING, verdict(0, pb.State_DELIVERED))
	events, err := r.view().History(id)
	require.NoError(t, err)
	var lines []string
	for _, e := range events {
		lines = append(lines, e.What+" "+e.Recipient+" "+e.Host+" "+e.Reply+" "+e.Detail)
	}
	require.Equal(t, []string{
		"accepted    ",
		"deleted y@far.example   ",
		"delivered y@far.example mx.far.example 250 2.0.0 ok although deleted by ann meanwhile",
		"delivered x@far.example mx.far.example 250 2.0.0 ok ",
	}, lines)
}

func TestDeliveredAfterAllWasDeleted(t *testing.T) {
	r := newReplica(t)
	epoch := r.register("n1", "a")
	id := newID(8)
	r.do(spool.KindAccept, acceptOf(id, epoch, []string{"x@far.example"}), []byte("body"))
	r.do(spool.KindManage, &pb.Manage{Admin: &pb.Admin{Who: "ann"}, Action: pb.Action_DELETE, Ids: [][]byte{id[:]}})
	_, waits, err := r.view().Refs(id)
	require.NoError(t, err)
	require.False(t, waits)
	require.Equal(t, pb.Code_MISSING, r.settle(epoch, id, 0, 1, pb.State_DELIVERED))
	events, err := r.view().History(id)
	require.NoError(t, err)
	require.Equal(t, "delivered", events[len(events)-1].What)
}
