package spool_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// TestRegistrationsAreAChain: a node that does not know the nonce of the last one is
// another copy of the directory, and a session goes over only to a node that names it
// as it is.
func TestRegistrationsAreAChain(t *testing.T) {
	r := atVersion(t, 2)
	ask := func(nonce string, over *pb.Result, previous ...string) *pb.Result {
		h := &pb.Register{
			Nonce: nonce, Member: &pb.Member{Id: "n1", MaxCommand: spool.MaxVersion, Address: "10.0.0.1:7170", Log: "x"},
			Previous: previous, Term: 4, Last: 90,
		}
		if over != nil {
			h.OverEpoch, h.OverRenewed = over.Epoch, over.Renewed
		}
		return r.do(spool.KindRegister, h)
	}
	first := ask("a", nil, "a")
	require.Equal(t, pb.Code_OK, first.Code, first.Text)
	require.Equal(t, pb.Code_DUPLICATE, ask("a", nil, "a").Code, "the answer was lost")
	require.Equal(t, first.Epoch, r.member("n1").Registered)

	busy := ask("b", nil, "a", "b")
	require.Equal(t, pb.Code_BUSY, busy.Code)
	require.Equal(t, []uint64{first.Epoch, first.Index}, []uint64{busy.Epoch, busy.Renewed})
	require.Equal(t, "10.0.0.1:7170", busy.Node)
	r.do(spool.KindRenew, &pb.Renew{Node: "n1", Epoch: first.Epoch, Term: 5, Last: 120})
	moved := ask("b", busy, "a", "b")
	require.Equal(t, pb.Code_BUSY, moved.Code, "who has it renewed it")
	second := ask("b", moved, "a", "b")
	require.Equal(t, pb.Code_OK, second.Code, second.Text)

	stale := ask("c", second, "a", "c")
	require.Equal(t, pb.Code_STALE, stale.Code, "it does not know of b")
	require.Contains(t, stale.Text, "another copy of this data directory registered at 10.0.0.1:7170")
	require.Equal(t, pb.Code_BUSY, ask("c", nil).Code, "a node that has not seen the Raise yet")

	s := r.session("n1")
	require.Equal(t, pb.Code_OK, r.do(spool.KindExpire, &pb.Expire{Node: "n1", Epoch: s.Epoch, Renewed: s.Renewed}).Code)
	m := r.member("n1")
	require.Equal(t, []uint64{4, 90}, []uint64{m.Term, m.Last}, "what the session said of the log outlives it")
	require.Equal(t, pb.Code_STALE, ask("c", nil, "a", "c").Code, "also when there is no session")
	require.Equal(t, pb.Code_OK, ask("c", nil, "b", "c").Code)
}

func TestRegistrationsOfVersionOneTakeOver(t *testing.T) {
	r := newReplica(t)
	require.NotEqual(t, r.register("n1", "a"), r.register("n1", "b"))
	require.Empty(t, r.member("n1").Nonce)
}

// TestRemovedNodeLeavesATomb also wants that who joins anew is not held to what
// the node before was.
func TestRemovedNodeLeavesATomb(t *testing.T) {
	for version := range uint32(3) {
		if version == 0 {
			continue
		}
		r := atVersion(t, version)
		r.register("n1", "a")
		require.Equal(t, pb.Code_OK, r.do(spool.KindDropMember, &pb.DropMember{Id: "n1"}).Code)
		tombs, err := r.view().Tombs()
		require.NoError(t, err)
		require.Len(t, tombs, int(version-1))
		if version == 2 {
			require.Equal(t, "n1", tombs[0].Node)
			require.Equal(t, r.index, tombs[0].Index)
		}
		require.Equal(t, pb.Code_OK,
			r.do(spool.KindRegister, &pb.Register{Nonce: "b", Member: &pb.Member{Id: "n1", MaxCommand: spool.MaxVersion}}).Code)
	}
}
