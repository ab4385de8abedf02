package node

import (
	"context"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// replica is what the adapters need of the cluster; *cluster.Cluster meets it.
// Writes are proposals, reads are local.
type replica interface {
	// Propose has a command applied. It returns what Apply said, or an error
	// that wraps cluster.ErrUnavailable (surely not applied) or
	// cluster.ErrUnknown (maybe applied).
	Propose(ctx context.Context, f spool.Frame) (*pb.Result, error)
	View(fn func(spool.View) error) error
	Frozen(fn func(v spool.View, index uint64) error) error
	OpenBody(id spool.ID, chunks uint32, prefix []byte) (io.ReadCloser, error)
	WaitApplied(ctx context.Context, index uint64) error
	Consistent(ctx context.Context) error
	Epoch() uint64
	// Now is what replicated times are compared with and made from; see
	// cluster.Cluster.Now.
	Now() time.Time
}

// propose encodes one command and has it applied.
func propose(ctx context.Context, r replica, kind spool.Kind, h proto.Message, body ...[]byte) (*pb.Result, error) {
	f, err := spool.Encode(kind, h, body...)
	if err != nil {
		return nil, err
	}
	return r.Propose(ctx, f)
}
