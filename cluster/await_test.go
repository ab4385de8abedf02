package cluster

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// silent is a question to raft that raft stopped without an answer to.
type silent struct{ never chan struct{} }

func (f silent) Error() error { <-f.never; return nil }

// TestStopDoesNotWaitForAnAnswerOfRaft: a read whose question raft never answers ends
// with the node, and so does who waits for it.
func TestStopDoesNotWaitForAnAnswerOfRaft(t *testing.T) {
	f := silent{make(chan struct{})}
	defer close(f.never)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	asked := make(chan struct{})
	k := &rounds{ctx: ctx, wg: &wg, fn: func(ctx context.Context) (uint64, error) {
		close(asked)
		return 0, await(ctx, f)
	}}
	failed := make(chan error, 1)
	go func() {
		_, err := k.do(t.Context())
		failed <- err
	}()
	<-asked
	stop()
	k.drain()
	require.True(t, endsIn(&wg, 10*time.Second), "the node does not stop")
	require.ErrorIs(t, <-failed, context.Canceled)
}
