package spool_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// TestNoticeGoesWithItsOwnRecipients: the verdict on another recipient of the message makes no report on one that an
// operator has ended meanwhile. Before version 2, and where it does not say whom it is about, a notice goes with any.
func TestNoticeGoesWithItsOwnRecipients(t *testing.T) {
	for name, c := range map[string]struct {
		one   bool // version 1
		about []uint32
		want  int64
	}{
		"its own is gone":     {false, []uint32{0}, 0},
		"its own was taken":   {false, []uint32{1}, 1},
		"one of its own was":  {false, []uint32{0, 1}, 1},
		"it does not say":     {false, nil, 1},
		"before version 2":    {true, []uint32{0}, 1},
		"nobody of that kind": {false, []uint32{7}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReplica(t)
			if !c.one {
				r = newReplicaAt2(t)
			}
			owner := r.register("n1", "a")
			r.user("s@a.example")
			id := newID(1)
			r.do(spool.KindAccept, acceptOf(id, owner, []string{"x@far.example", "y@else.example"}), []byte("body"))
			r.do(spool.KindManage, &pb.Manage{Action: pb.Action_DELETE, Ids: [][]byte{id[:]}, Recipient: "x@far.example"})
			res := r.do(spool.KindSettle, &pb.Settle{Epoch: owner, Node: "n1", Verdicts: []*pb.Verdict{
				{Id: id[:], Recipient: 0, Attempt: 1, State: pb.State_BOUNCED, AtMs: r.now.UnixMilli()},
				{Id: id[:], Recipient: 1, Attempt: 1, State: pb.State_DELIVERED, AtMs: r.now.UnixMilli()},
			}, Notices: []*pb.Notice{{About: id[:], Body: []byte("report"), Recipients: c.about,
				Accept: acceptOf(newID(9), 0, nil, "s@a.example")}}})
			require.Equal(t, []pb.Code{pb.Code_MISSING, pb.Code_OK}, res.Codes)
			require.Equal(t, c.want, r.counter(spool.CountMailboxMessages))
		})
	}
}
