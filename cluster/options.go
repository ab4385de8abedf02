package cluster

import (
	"context"
	"net"
	"time"

	"go.uber.org/zap"

	"relay/cluster/disk"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

// Options say which node to open and how.
type Options struct {
	Dir string // as Init or Join made it
	ID  string // of the node, where the caller knows it: another node's directory is refused
	// Listener is the cluster port; the Cluster owns it from Open on, whatever
	// Open returns. If nil, Listen is listened on.
	Listener  net.Listener
	Listen    string
	Advertise string // where others reach the port; empty: as at Init or Join
	// Peers are addresses of other members, by id, beside those that the
	// cluster itself knows: for nodes that were renumbered while stopped.
	Peers map[string]string
	// Moved: the directory was moved in order, and nothing has run on what it was
	// copied from since. Without this word a directory that was copied takes part
	// when the leader or all other voters have answered for it.
	Moved bool
	// Member is what others learn of this node; id and address are filled in.
	Member *pb.Member
	Log    *zap.Logger
	// OnChanges hears what a committed batch changed. It runs on the applying
	// goroutine: it must return at once and must not call the Cluster.
	OnChanges func(spool.Changes)
	// OnRemoved hears, on the leader alone, what a Sweep took out of mailboxes: once,
	// or not at all where the leader dies meanwhile. Nil: nobody wants to know.
	OnRemoved func([]*pb.Removed)
	// Fatal hears, at most a few times, that this node can't go on: its disk
	// failed, or an entry of the log can't be applied. The caller must end the
	// process (tests: Abandon the node). It may run on any goroutine.
	Fatal func(error)
	// Dial opens TCP connections; nil is the system's. Tests cut links here.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// SlowDisk is called in place of each write to the log and of each probe of the
	// disk, and must call it; nil calls it at once. Tests of slow disks set it.
	SlowDisk func(write func() error) error
	// FoundAt is the cluster version of a cluster that this node founds; 0: the
	// newest. Tests of mixed versions set it.
	FoundAt uint32
	// Load is disk.Options.Load; tests put a state machine with a fault there.
	Load func(spool.Reader) (disk.Machine, error)
	// Wall and Boot are the machine's clocks: the time of day, and one that never
	// jumps and counts suspends. Nil: the system's. Tests set them.
	Wall   func() time.Time
	Boot   func() time.Duration
	Tuning Tuning
}

// Tuning holds the numbers that a node runs by; zero means the default.
type Tuning = tuning.Tuning
