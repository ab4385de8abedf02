package inbound

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/node/directory"
	"relay/node/login"
	"relay/node/replica"
	"relay/pop3"
	"relay/smtp"
)

// TestErrorsKnowWhetherTheyArePermanent: whether a refusal is confirmed by an up-to-date read is said by the error, and
// the client is told the same: 5xx, or a code of class 5, exactly where the error is permanent.
func TestErrorsKnowWhetherTheyArePermanent(t *testing.T) {
	permanent := []error{
		directory.ErrNoUser, directory.ErrDisabled, directory.ErrNoDomain, directory.ErrAliasLoop, directory.ErrAliasLarge,
		errHops, errLooping, replyNoUser, replyNoRelay, replyDisabled, replyLoop, smtp.NewReply(459, "5.7.1", "no"),
	}
	temporary := []error{
		errors.New("the disk"), replica.ErrUnsure, fmt.Errorf("%w: %w", replica.ErrUnsure, cluster.ErrUnavailable),
		replica.ErrOutdated, cluster.ErrUnavailable, cluster.ErrUnknown, errGone, errFull, errSpent, errWide, errMeantTwice,
		replyNotReady, replyFull, replyThrottled, replySpent, replyWide, replyQuota, replyChanged,
	}
	for i, err := range append(permanent, temporary...) {
		for _, err := range []error{err, fmt.Errorf("bob@example.test: %w", err)} {
			require.Equal(t, i < len(permanent), replica.Permanent(err), "%v", err)
			r, ok := errors.AsType[*smtp.Reply](mapError(err))
			require.True(t, ok)
			require.Equal(t, i < len(permanent), r.Permanent(), "%v: %v", err, r)
		}
	}
	for _, err := range []error{pop3.ErrAuth, smtp.ErrCredentials, login.ErrWrongAgain} {
		require.True(t, replica.Permanent(err), "%v", err)
	}
}
