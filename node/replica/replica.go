// Package replica is what the parts of a node need of the replicated spool: proposals,
// local reads, and the confirmation of permanent refusals by a linearizable read.
package replica

import (
	"context"
	"io"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// Replica is what the adapters need of the cluster; *cluster.Cluster meets it.
// Writes are proposals, reads are local.
type Replica interface {
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
	Sealer
}

// Sealer encrypts what the replicated state holds and nobody may read there; see cluster.Cluster.Seal.
type Sealer interface {
	Seal(ctx context.Context, secret []byte, about string) ([]byte, error)
	Unseal(ctx context.Context, sealed []byte, about string) ([]byte, error)
}

// Fenced is a replica that knows until when this node may act.
type Fenced interface {
	Replica
	// Until is when the node's session ends unless it is renewed. It counts from
	// before the renewal was sent, so that a node stops before others take over.
	Until() time.Time
}

// Propose encodes one command and has it applied. Its errors are those of
// Replica.Propose, and that of a header that cannot be encoded.
func Propose(ctx context.Context, r Replica, kind spool.Kind, h proto.Message, body ...[]byte) (*pb.Result, error) {
	f, err := spool.Encode(kind, h, body...)
	if err != nil {
		return nil, err
	}
	return r.Propose(ctx, f)
}

// NewID makes the id of a message. Its time is the cluster's: ids of all nodes
// sort by acceptance, and a queue tells a message's age by its id.
func NewID(now time.Time) spool.ID {
	return ulid.MustNew(ulid.Timestamp(now), ulid.DefaultEntropy())
}

// Others lists the nodes with a live session besides the one that is given, as the local
// replica knows them; nil where they cannot be read.
func Others(r Replica, own string) (nodes []string) {
	_ = r.View(func(v spool.View) error {
		sessions, err := v.Sessions()
		for _, s := range sessions {
			if s.Node != own {
				nodes = append(nodes, s.Node)
			}
		}
		return err
	})
	return nodes
}
