package cluster

import (
	"context"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// Propose puts a command into the log and returns what Apply said, which is a
// refusal or a success: both are results. It forwards to the leader if need
// be, and proposes the same frame again, because commands are idempotent,
// until it has an answer, ctx ends, or Tuning.Deadline is over. Then the error
// is ErrUnavailable (surely not applied) or ErrUnknown (perhaps applied); both
// wrap the last cause. ErrInvalid: the frame is no command of this version.
//
// The result is the leader's: a local read sees it after WaitApplied of
// Result.Index. The frame must not be modified after the call; it may be
// proposed again. Propose may be called from any number of goroutines:
// commands proposed at the same time are written to disk together.
func (c *Cluster) Propose(ctx context.Context, f spool.Frame) (*pb.Result, error) {
	return c.proposer.Propose(ctx, f)
}

// propose is Propose for the Cluster's own commands too, which go on while it
// stops.
func (c *Cluster) propose(ctx context.Context, f spool.Frame) (*pb.Result, error) {
	return c.proposer.ProposeOwn(ctx, f)
}

// At reports whether the cluster version has reached v here, as far as this
// node has applied the log. It is cheap, and never turns false again. The proposer of
// a command of a newer version asks first.
func (c *Cluster) At(v uint32) bool { return c.version.Load() >= v }

// Version is the cluster version, as far as this node has applied the log; 0
// before there is a cluster record.
func (c *Cluster) Version() uint32 { return c.version.Load() }
