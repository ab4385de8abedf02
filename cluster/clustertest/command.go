package clustertest

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// Propose proposes a command by way of a node and wants it applied. It proposes the same
// frame again where the node had no leader for a moment.
func Propose(ctx context.Context, t testing.TB, n *Node, kind spool.Kind, h proto.Message, body ...[]byte) *pb.Result {
	t.Helper()
	f, err := spool.Encode(kind, h, body...)
	require.NoError(t, err)
	var res *pb.Result
	n.g.Eventually("a command is not taken", func() bool {
		res, err = n.C().Propose(ctx, f)
		return err == nil || ctx.Err() != nil || !transient(err)
	})
	require.NoError(t, err)
	require.Contains(t, []pb.Code{pb.Code_OK, pb.Code_DUPLICATE}, res.Code, res.Text)
	return res
}

// transient reports whether a proposal ended without a word on the command itself.
func transient(err error) bool {
	return errors.Is(err, cluster.ErrUnavailable) || errors.Is(err, cluster.ErrUnknown)
}
