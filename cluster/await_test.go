package cluster

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/rounds"
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
	k := rounds.New(ctx, &wg, 0, func(ctx context.Context) (uint64, error) {
		close(asked)
		return 0, await(ctx, f)
	})
	failed := make(chan error, 1)
	go func() {
		_, err := k.Do(t.Context())
		failed <- err
	}()
	<-asked
	stop()
	k.Drain()
	require.True(t, endsIn(&wg, 10*time.Second), "the node does not stop")
	require.ErrorIs(t, <-failed, context.Canceled)
}
