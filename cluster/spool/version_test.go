package spool_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

func TestAFrameSaysTheVersionItNeeds(t *testing.T) {
	frame := func(m *pb.Renew) spool.Frame {
		f, err := spool.Encode(spool.KindRenew, m)
		require.NoError(t, err)
		return f
	}
	require.Equal(t, uint32(1), frame(&pb.Renew{Node: "n1", Epoch: 7}).Version())
	require.Equal(t, uint32(2), frame(&pb.Renew{Node: "n1", Epoch: 7, WallMs: 1}).Version())
	raise, err := spool.Encode(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	require.NoError(t, err)
	require.Equal(t, uint32(1), raise.Version(), "a Raise leads to version 2, and so is of version 1")
	newer := frame(&pb.Renew{Node: "n1"})
	newer[0] = spool.MaxVersion + 1
	_, err = spool.Decode(newer)
	require.ErrorIs(t, err, spool.ErrFrame)
}
