package fault

import "errors"

// A proposal ends in a Result or in one of these errors.
var (
	// ErrUnavailable: the command was surely not applied. No leader took it in
	// time, or this node is stopping.
	ErrUnavailable = errors.New("cluster: the command was not applied")
	// ErrUnknown: the command may have been applied, now or later. Proposing the
	// same frame again is safe.
	ErrUnknown = errors.New("cluster: it is not known whether the command was applied")
	// ErrInvalid: the frame is not a command that this cluster may write.
	ErrInvalid = errors.New("cluster: not a command of this cluster's version")
	// ErrChanged: a change of the members was surely not made, as others were members
	// than those it was decided on. It may be decided again.
	ErrChanged = errors.New("cluster: the members have changed meanwhile")
)

// These errors say why a node can't be opened, initialised or joined.
var (
	ErrInUse  = errors.New("cluster: the data directory is in use")
	ErrNoNode = errors.New("cluster: the data directory belongs to no cluster: run 'relayd init' or " +
		"'relayd join' first")
	ErrOtherNode = errors.New("cluster: the data directory is another node's")
	ErrLogLost   = errors.New("cluster: the raft log of this node is lost")
	ErrToken     = errors.New("cluster: the join token is refused")
	ErrMember    = errors.New("cluster: a member has the id or the address")
	ErrTooOld    = errors.New("cluster: this relayd can't follow the cluster")
	ErrRemoved   = errors.New("cluster: this node is no member of its cluster any more")
	ErrOutlived  = errors.New("cluster: the cluster goes on without this node's data")
	ErrQuorum    = errors.New("cluster: that would lose the quorum")
	ErrStays     = errors.New("cluster: the leadership did not move")
	// ErrCopy: another copy of the data directory has the node's place, or the
	// directory is older than what the node has promised.
	ErrCopy          = errors.New("cluster: this data directory is not the newest of its node")
	ErrContradiction = errors.New("cluster: what is committed does not change")
)

// One attempt of a proposal can end in these errors, without a result.
var (
	ErrNotLeader = errors.New("not the leader")                     // surely not applied
	ErrUnsent    = errors.New("the leader can't be reached")        // surely not applied
	ErrLost      = errors.New("the connection to the leader broke") // may be applied
	ErrDeposed   = errors.New("leadership was lost")                // may be applied
	ErrStopping  = errors.New("the node is stopping")               // surely not applied
	errRefused   = errors.New("raft refuses the configuration")     // surely not applied
)

// MayBeApplied tells the ends of an attempt apart.
func MayBeApplied(err error) bool {
	for _, sure := range []error{ErrNotLeader, ErrNoLeader, ErrUnsent, ErrStopping, errRefused, ErrInvalid,
		ErrChanged} {
		if errors.Is(err, sure) {
			return false
		}
	}
	return err != nil
}

// ErrNoLeader says that an election is under way, or that the quorum is gone.
var ErrNoLeader = errors.New("the cluster has no leader at the moment")

// ErrUnimplemented says that another node does not know a question: its build is
// an older one.
var ErrUnimplemented = errors.New("the node does not know the question")

// IsInvalid reports whether a frame was no command that the cluster may write.
func IsInvalid(err error) bool { return errors.Is(err, ErrInvalid) }
