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
