package spool_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// TestGeneration: certificates of before a recovery are on nobody's record, and a
// leader that was deposed without knowing can't go back.
func TestGeneration(t *testing.T) {
	r := atVersion(t, 2)
	one := &pb.Generation{Number: 1, Name: "c.g1-0", Peers: []string{"n1=10.0.0.1:7170"}, Outcasts: []string{"n2"}}
	r.do(spool.KindRegister, &pb.Register{
		Nonce: "a", Member: &pb.Member{
			Id: "n1", MaxCommand: spool.MaxVersion, Address: "10.0.0.1:7170", Serial: []byte("1"), Key: []byte("k"),
		},
	})
	require.Equal(t, pb.Code_OK, r.do(spool.KindGeneration, one).Code)
	m, there, err := r.view().Member("n1")
	require.NoError(t, err)
	require.True(t, there)
	require.Empty(t, m.Serial)
	require.Empty(t, m.Key)
	require.Equal(t, "10.0.0.1:7170", m.Address)
	record, _, err := r.view().Cluster()
	require.NoError(t, err)
	require.EqualValues(t, 1, record.Generation)
	require.EqualValues(t, 2, record.Version)
	require.Equal(t, pb.Code_STALE, r.do(spool.KindGeneration, one).Code)

	require.Equal(t, pb.Code_INVALID, atVersion(t, 1).do(spool.KindGeneration, one).Code)
}
