package spool_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// TestPutSecret: a cluster gets one secret, from version 2 on, and keeps it.
func TestPutSecret(t *testing.T) {
	put := func(r *replica, secret string) pb.Code {
		return r.do(spool.KindPutSecret, &pb.PutSecret{Secret: []byte(secret)}).Code
	}
	r := newReplica(t)
	require.Equal(t, pb.Code_INVALID, put(r, "0123456789abcdef"), "no cluster of version 2")
	r = newReplicaAt2(t)
	require.Equal(t, pb.Code_INVALID, put(r, "short"))
	require.Equal(t, pb.Code_OK, put(r, "0123456789abcdef"))
	require.Equal(t, pb.Code_DUPLICATE, put(r, "another one, as long"))
	c, _, err := r.view().Cluster()
	require.NoError(t, err)
	require.Equal(t, "0123456789abcdef", string(c.Secret))
	require.EqualValues(t, 2, encode(t, spool.KindPutSecret, &pb.PutSecret{Secret: []byte("x")}).Version())
}

// TestReseal: what a record still has is replaced, and what was set meanwhile stays.
func TestReseal(t *testing.T) {
	r := newReplicaAt2(t)
	put := func(route *pb.Route) {
		require.Equal(t, pb.Code_OK, r.do(spool.KindPutRoute, &pb.PutRoute{Route: route}).Code)
	}
	put(&pb.Route{Domain: "a.example", Target: "smtp:a", User: "u", Password: []byte("a1"), ClientKey: []byte("a2")})
	put(&pb.Route{Domain: "b.example", Target: "smtp:b", User: "u", Password: []byte("b2")})
	put(&pb.Route{Domain: "c.example", Target: "smtp:c"})
	item := func(domain, old, sealed string) *pb.Reseal_Item {
		return &pb.Reseal_Item{Domain: domain, Old: []byte(old), Sealed: []byte(sealed)}
	}
	h := &pb.Reseal{Items: []*pb.Reseal_Item{item("a.example", "a1", "A1"), item("a.example", "a2", "A2"),
		item("b.example", "b1", "B1"), item("c.example", "", "C1"), item("gone.example", "x", "X")}}
	require.Equal(t, pb.Code_OK, r.do(spool.KindReseal, h).Code)
	all, err := r.view().Sealed()
	require.NoError(t, err)
	require.Equal(t, [][]byte{[]byte("A1"), []byte("A2"), []byte("b2")}, all)
	require.EqualValues(t, 2, encode(t, spool.KindReseal, h).Version())
}
