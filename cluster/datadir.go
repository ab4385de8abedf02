package cluster

import (
	"context"

	"relay/cluster/datadir"
)

// InitOptions describe a new cluster and its first node.
type InitOptions = datadir.InitOptions

// Init makes a cluster of one node in an empty directory: its CA, the node's
// certificate, and, at the first Open, a raft log with one voter. The identity
// file is written last and as a whole: before that the directory is as if
// nothing had happened. ErrInUse: there is a node in the directory.
func Init(ctx context.Context, o InitOptions) error { return datadir.Init(ctx, o) }

// Initialised reports whether a directory holds a node's identity: whether
// Open can open it.
func Initialised(dir string) bool { return datadir.Initialised(dir) }

// CheckNode returns ErrOtherNode where a directory holds a node with another
// id, and nil where it holds none.
func CheckNode(dir, id string) error { return datadir.CheckNode(dir, id) }

// Peer is a member as Recover is told of it.
type Peer = datadir.Peer

// RecoverOptions say what the cluster shall consist of from now on.
type RecoverOptions = datadir.RecoverOptions

// Recovered says what Recover found.
type Recovered = datadir.Recovered

// Inspect reads what a stopped node knows; see datadir.Inspect.
func Inspect(ctx context.Context, o RecoverOptions) (Recovered, error) {
	return datadir.Inspect(ctx, o)
}

// Recover writes a new membership into a stopped node's log after a majority is gone
// for ever; see datadir.Recover.
func Recover(ctx context.Context, o RecoverOptions) (Recovered, error) {
	return datadir.Recover(ctx, o)
}
