package clustertest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// Propose proposes a command by way of a node and wants it applied.
func Propose(ctx context.Context, t testing.TB, n *Node, kind spool.Kind, h proto.Message, body ...[]byte) *pb.Result {
	t.Helper()
	f, err := spool.Encode(kind, h, body...)
	require.NoError(t, err)
	res, err := n.C().Propose(ctx, f)
	require.NoError(t, err)
	require.Contains(t, []pb.Code{pb.Code_OK, pb.Code_DUPLICATE}, res.Code, res.Text)
	return res
}
