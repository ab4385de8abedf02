package spool_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

func newReplicaAt2(t *testing.T) *replica {
	r := newReplica(t)
	require.Equal(t, pb.Code_OK, r.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{
		Id: "c1", Version: 1, CaCert: []byte("ca"), CaKey: []byte("key"),
	}}).Code)
	require.Equal(t, pb.Code_OK, r.do(spool.KindRaise, &pb.Raise{From: 1, To: 2}).Code)
	return r
}

func (r *replica) member(node string) *pb.Member {
	m, _, err := r.view().Member(node)
	require.NoError(r.t, err)
	return m
}

// TestCertificateOnRecord: the first one is that of the connection; a new one
// takes its place, and the one that the node still has counts on, also where
// answers were lost several times.
func TestCertificateOnRecord(t *testing.T) {
	r := newReplicaAt2(t)
	s := func(b byte) []byte { return []byte{b} }
	register := func(nonce string, serial []byte) {
		r.do(spool.KindRegister, &pb.Register{Nonce: nonce, Member: &pb.Member{
			Id: "n1", MaxCommand: spool.MaxVersion, Address: "a:1", Serial: serial, Key: serial, Ca: s(9),
			OldSerial: s(66), IssuedMs: 5,
		}})
	}
	certify := func(serial, old []byte) pb.Code {
		return r.do(spool.KindCertify, &pb.Certify{
			Node: "n1", Serial: serial, Key: serial, Ca: s(9), Old: old, OldKey: old, IssuedMs: 7,
		}).Code
	}
	require.Equal(t, pb.Code_MISSING, certify(s(2), s(1)))
	register("a", s(1))
	require.Equal(t, s(1), r.member("n1").Serial)
	require.Empty(t, r.member("n1").OldSerial, "a node says nothing of the one before")
	require.Equal(t, pb.Code_STALE, certify(s(2), s(3)), "a certificate that is not on record asks")
	for _, serial := range [][]byte{s(2), s(3), s(4)} { // the answers to 2 and 3 were lost
		require.Equal(t, pb.Code_OK, certify(serial, s(1)))
		require.Equal(t, s(1), r.member("n1").OldSerial)
		require.Equal(t, s(1), r.member("n1").OldKey)
		require.Equal(t, serial, r.member("n1").Serial)
	}
	require.Equal(t, pb.Code_DUPLICATE, certify(s(4), s(1)))
	require.Equal(t, pb.Code_OK, certify(s(5), s(4)))
	require.Equal(t, s(4), r.member("n1").OldSerial)
	register("b", s(77))
	m := r.member("n1")
	require.Equal(t, [][]byte{s(5), s(5), s(4), s(4)}, [][]byte{m.Serial, m.Key, m.OldSerial, m.OldKey},
		"a registration changes nothing of it")
	require.EqualValues(t, 7, m.IssuedMs)
}

// TestCertificatesWaitForTheRaise: in a log that a build wrote too early, or that a
// tool made, commands of version 2 change nothing before the cluster has it.
func TestCertificatesWaitForTheRaise(t *testing.T) {
	r := newReplica(t)
	r.do(spool.KindPutCluster, &pb.PutCluster{
		Cluster: &pb.Cluster{Id: "c1", Version: 1, CaCert: []byte("ca"), CaKey: []byte("key")},
	})
	r.register("n1", "a")
	for kind, h := range map[spool.Kind]proto.Message{
		spool.KindCertify: &pb.Certify{
			Node: "n1", Serial: []byte("s"), Key: []byte("k"), Old: []byte("o"), OldKey: []byte("p"),
		},
		spool.KindPutCa: &pb.PutCa{FromStep: spool.CASettled, ToStep: spool.CATrust, NextCert: []byte("n"),
			NextKey:   []byte("k"),
			CrossCert: []byte("x")},
	} {
		res := r.do(kind, h)
		require.Equal(t, pb.Code_INVALID, res.Code, "%s", kind)
		require.Contains(t, res.Text, "before cluster version 2")
	}
	require.Empty(t, r.member("n1").Serial)
	c, _, err := r.view().Cluster()
	require.NoError(t, err)
	require.Empty(t, c.NextCert)
}

// TestCrossCertificatesDoNotPileUp: a cluster keeps those of its last rotation.
func TestCrossCertificatesDoNotPileUp(t *testing.T) {
	r := newReplicaAt2(t)
	longest := 0
	for i := range 5 {
		next := fmt.Sprintf("ca%d", i)
		for _, step := range [][2]uint32{{0, 1}, {1, 2}, {2, 0}} {
			h := &pb.PutCa{FromStep: step[0], ToStep: step[1], NextCert: []byte(next)}
			if step[0] == spool.CASettled {
				h.NextKey, h.CrossCert = []byte("key"), []byte("cross")
			}
			require.Equal(t, pb.Code_OK, r.do(spool.KindPutCa, h).Code)
		}
		c, _, err := r.view().Cluster()
		require.NoError(t, err)
		longest = max(longest, len(c.CrossCert))
	}
	require.LessOrEqual(t, longest, len("cross")+len("ca0"))
}

// TestStepsOfARotation: each is a compare-and-swap, and what nodes said of the
// step before counts no more.
func TestStepsOfARotation(t *testing.T) {
	r := newReplicaAt2(t)
	epoch := r.register("n1", "a")
	put := func(from, to uint32, next string) pb.Code {
		h := &pb.PutCa{FromStep: from, ToStep: to, NextCert: []byte(next)}
		if from == spool.CASettled {
			h.NextKey, h.CrossCert = []byte("key of "+next), []byte("cross ")
		}
		return r.do(spool.KindPutCa, h).Code
	}
	said := func() []byte {
		s, _, err := r.view().Session("n1")
		require.NoError(t, err)
		return s.Ca
	}
	require.Equal(t, pb.Code_STALE, put(1, 2, "next"))
	require.Equal(t, pb.Code_INVALID, put(0, 2, "next"))
	require.Equal(t, pb.Code_OK, put(0, 1, "next"))
	require.Equal(t, pb.Code_STALE, put(0, 1, "other"), "one rotation at a time")
	r.do(spool.KindRenew, &pb.Renew{Node: "n1", Epoch: epoch, Ca: []byte("trusts")})
	require.Equal(t, "trusts", string(said()))
	require.Equal(t, pb.Code_STALE, put(1, 2, "other"))
	require.Equal(t, pb.Code_OK, put(1, 2, "next"))
	require.Empty(t, said())
	require.Equal(t, pb.Code_STALE, put(1, 2, "next"), "a leader that was late")
	require.Equal(t, pb.Code_OK, put(2, 0, "next"))
	c, _, err := r.view().Cluster()
	require.NoError(t, err)
	require.Equal(t, "next", string(c.CaCert))
	require.Equal(t, "key of next", string(c.CaKey))
	require.Equal(t, "cross ca", string(c.CrossCert))
	require.Empty(t, c.NextCert)
	require.EqualValues(t, 2, c.Version)
}
