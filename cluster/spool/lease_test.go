package spool_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// atVersion is a replica of a cluster of one version.
func atVersion(t *testing.T, version uint32) *replica {
	r := newReplica(t)
	res := r.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: version}})
	require.Equal(t, pb.Code_OK, res.Code)
	return r
}

func (r *replica) session(node string) *pb.Session {
	s, there, err := r.view().Session(node)
	require.NoError(r.t, err)
	require.True(r.t, there)
	return s
}

// TestRenewalsCarryTheirLease also wants that a renewal that was overtaken, or
// comes twice, changes nothing: it would look like a sign of life.
func TestRenewalsCarryTheirLease(t *testing.T) {
	r := atVersion(t, 2)
	begun := r.do(spool.KindRegister, &pb.Register{
		Nonce: "a", Member: &pb.Member{Id: "n1", MaxCommand: spool.MaxVersion}, LeaseMs: 6000,
	})
	require.Equal(t, int64(6000), r.session("n1").LeaseMs)

	third := r.do(spool.KindRenew, &pb.Renew{Node: "n1", Epoch: begun.Epoch, Seq: 3, LeaseMs: 9000})
	require.Equal(t, pb.Code_OK, third.Code)
	require.Equal(t, int64(9000), r.session("n1").LeaseMs)
	before := r.session("n1")
	for _, seq := range []uint64{2, 3} {
		late := r.do(spool.KindRenew, &pb.Renew{Node: "n1", Epoch: begun.Epoch, Seq: seq, LeaseMs: 4000})
		require.Equal(t, pb.Code_DUPLICATE, late.Code)
		require.Equal(t, begun.Epoch, late.Epoch)
		require.Equal(t, third.Index, late.Renewed)
		require.Equal(t, before.String(), r.session("n1").String())
	}
	// Seq 0 renews as in version 1: the lease stays, as its owner counts on it.
	plain := r.do(spool.KindRenew, &pb.Renew{Node: "n1", Epoch: begun.Epoch})
	require.Equal(t, pb.Code_OK, plain.Code)
	require.Equal(t, plain.Index, r.session("n1").Renewed)
	require.Equal(t, int64(9000), r.session("n1").LeaseMs)
	require.Equal(t, uint64(3), r.session("n1").Seq)

	stale := r.do(spool.KindRenew, &pb.Renew{Node: "n1", Epoch: begun.Epoch + 1, Seq: 9})
	require.Equal(t, pb.Code_STALE, stale.Code)
}

func TestLeasesHaveBounds(t *testing.T) {
	r := atVersion(t, 2)
	begun := r.do(spool.KindRegister, &pb.Register{
		Nonce: "a", Member: &pb.Member{Id: "n1", MaxCommand: spool.MaxVersion}, LeaseMs: 1 << 40,
	})
	require.Equal(t, spool.MaxLease.Milliseconds(), r.session("n1").LeaseMs)
	for seq, test := range []struct{ asked, want int64 }{
		{1, 1000}, {-5, 1000}, {1000, 1000}, {4321, 4321}, {30_001, 30_000}, {0, 30_000},
	} {
		res := r.do(spool.KindRenew, &pb.Renew{Node: "n1", Epoch: begun.Epoch, Seq: uint64(seq) + 1, LeaseMs: test.asked})
		require.Equal(t, pb.Code_OK, res.Code)
		require.Equal(t, test.want, r.session("n1").LeaseMs, "asked for %d", test.asked)
	}
}

// TestLateExpireIsToldTheRenewal is what a node needs that resigns while a
// renewal of its own is under way.
func TestLateExpireIsToldTheRenewal(t *testing.T) {
	for version, told := range map[uint32]bool{1: false, 2: true} {
		r := atVersion(t, version)
		begun := r.do(spool.KindRegister, &pb.Register{
			Nonce: "a", Member: &pb.Member{Id: "n1", MaxCommand: spool.MaxVersion},
		})
		renewed := r.do(spool.KindRenew, &pb.Renew{Node: "n1", Epoch: begun.Epoch})
		res := r.do(spool.KindExpire, &pb.Expire{Node: "n1", Epoch: begun.Epoch, Renewed: begun.Index})
		require.Equal(t, pb.Code_STALE, res.Code)
		if told {
			require.Equal(t, renewed.Index, res.Renewed)
			require.Equal(t, begun.Epoch, res.Epoch)
			res = r.do(spool.KindExpire, &pb.Expire{Node: "n1", Epoch: begun.Epoch, Renewed: res.Renewed})
			require.Equal(t, pb.Code_OK, res.Code)
			continue
		}
		require.Zero(t, res.Renewed)
	}
}

// TestVersion1KnowsNoLeases: an entry that a mixed cluster may hold means there
// what it meant before.
func TestVersion1KnowsNoLeases(t *testing.T) {
	r := atVersion(t, 1)
	begun := r.do(spool.KindRegister, &pb.Register{
		Nonce: "a", Member: &pb.Member{Id: "n1", MaxCommand: spool.MaxVersion}, LeaseMs: 6000,
	})
	for range 2 {
		res := r.do(spool.KindRenew, &pb.Renew{Node: "n1", Epoch: begun.Epoch, Seq: 1, LeaseMs: 6000})
		require.Equal(t, pb.Code_OK, res.Code)
		require.Equal(t, res.Index, r.session("n1").Renewed)
	}
	require.Zero(t, r.session("n1").LeaseMs)
	require.Zero(t, r.session("n1").Seq)
}
