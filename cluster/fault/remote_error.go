package fault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Code is the kind of an error on the way between nodes.
func Code(err error) codes.Code {
	switch {
	case errors.Is(err, ErrNotLeader), errors.Is(err, ErrUnavailable):
		return codes.Unavailable
	case errors.Is(err, ErrUnknown):
		return codes.Aborted
	case errors.Is(err, ErrQuorum):
		return codes.FailedPrecondition
	case errors.Is(err, ErrMember):
		return codes.AlreadyExists
	case errors.Is(err, ErrChanged):
		return codes.OutOfRange
	case errors.Is(err, ErrToken):
		return codes.PermissionDenied
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	}
	return codes.Unknown
}

// RemoteError is an error that another node answered with.
type RemoteError struct {
	Node string
	Text string
	kind error
}

func (e *RemoteError) Error() string { return e.Node + ": " + e.Text }

// Unwrap returns the kind of error it was at the other node, if it has one.
func (e *RemoteError) Unwrap() error { return e.kind }

// OfRemote reads an error with which a node answered.
func OfRemote(node string, err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	e := &RemoteError{Node: node, Text: st.Message()}
	switch st.Code() {
	case codes.Unimplemented:
		e.kind = ErrUnimplemented
	case codes.Unavailable:
		e.kind = ErrUnavailable
	case codes.Aborted:
		e.kind = ErrUnknown
	case codes.FailedPrecondition:
		e.kind = ErrQuorum
	case codes.AlreadyExists:
		e.kind = ErrMember
	case codes.OutOfRange:
		e.kind = ErrChanged
	case codes.PermissionDenied:
		e.kind = ErrToken
	case codes.DeadlineExceeded:
		e.kind = context.DeadlineExceeded
	case codes.Canceled:
		e.kind = context.Canceled
	}
	return e
}

// OfRaft sorts raft's errors: which of them mean surely not applied.
func OfRaft(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress),
		errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: %w", ErrNotLeader, err)
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown),
		errors.Is(err, raft.ErrAbortedByRestore):
		return fmt.Errorf("%w: %w", ErrDeposed, err)
	case err != nil && strings.HasPrefix(err.Error(), changedText):
		return fmt.Errorf("%w: %w", ErrChanged, err)
	case err != nil && slices.ContainsFunc(refusedTexts(), func(text string) bool {
		return strings.HasPrefix(err.Error(), text)
	}):
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	return err
}

// refusedTexts begin raft's words for configurations that it does not write.
func refusedTexts() []string {
	return []string{"found duplicate ", "need at least one voter ", "empty ID ", "empty address "}
}

// changedText begins raft's word for a condition that does not hold.
const changedText = "configuration changed since "
