package cluster

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// unanswered is a future that raft forgets, until the test ends.
type unanswered struct{ end chan struct{} }

func (u unanswered) Error() error { <-u.end; return nil }

// TestANodeStopsThoughRaftForgetsATransfer: the future of a transfer that raft never took
// up before it shut down has no answer.
func TestANodeStopsThoughRaftForgetsATransfer(t *testing.T) {
	f := unanswered{make(chan struct{})}
	defer close(f.end)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, await(ctx, f), context.Canceled)
}
