package node

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/smtp"
)

// A node that can not keep mail says so alike to new connections and on those
// that are open.
func TestNotReady(t *testing.T) {
	why := errors.New("no leader")
	b := &receiver{ready: func(context.Context) error { return why }, storage: &storage{}}
	var r *smtp.Reply
	_, err := b.NewSession(context.Background(), &smtp.Peer{})
	require.ErrorAs(t, err, &r)
	require.Equal(t, [2]any{421, "4.3.2"}, [2]any{r.Code, r.Enhanced})
	s := &session{receiver: b, peer: &smtp.Peer{}}
	require.ErrorAs(t, s.Mail(context.Background(), "a@example.test", nil), &r)
	require.Equal(t, [2]any{451, "4.3.2"}, [2]any{r.Code, r.Enhanced})
	require.Equal(t, why, r.Cause)
}
