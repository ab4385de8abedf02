package cluster

import "relay/cluster/fault"

// A proposal ends in a Result or in one of these errors; package fault says what each
// of them means.
var (
	ErrUnavailable = fault.ErrUnavailable
	ErrUnknown     = fault.ErrUnknown
	ErrInvalid     = fault.ErrInvalid
	ErrChanged     = fault.ErrChanged
)

// These errors say why a node can't be opened, initialised, joined or moved; see package fault.
var (
	ErrInUse         = fault.ErrInUse
	ErrNoNode        = fault.ErrNoNode
	ErrOtherNode     = fault.ErrOtherNode
	ErrLogLost       = fault.ErrLogLost
	ErrToken         = fault.ErrToken
	ErrMember        = fault.ErrMember
	ErrTooOld        = fault.ErrTooOld
	ErrRemoved       = fault.ErrRemoved
	ErrOutlived      = fault.ErrOutlived
	ErrQuorum        = fault.ErrQuorum
	ErrStays         = fault.ErrStays
	ErrCopy          = fault.ErrCopy
	ErrContradiction = fault.ErrContradiction
)

// RemoteError is an error that another node answered with.
type RemoteError = fault.RemoteError
