package propose

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/fault"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// lonely is a proposer without a leader: all that is proposed waits.
func lonely(budget int64, deadline time.Duration) (c *Proposer, stop func()) {
	ended := make(chan struct{})
	return New(Ports{Deadline: deadline, Budget: budget, Ended: ended}, NewLeaderWatch()),
		func() { close(ended) }
}

// TestBudgetsAreApart: message bodies that wait for a leader keep other bodies
// out, so that memory is bounded, but not a lock.
func TestBudgetsAreApart(t *testing.T) {
	c, end := lonely(300<<10, time.Minute)
	chunk, err := spool.Encode(spool.KindChunk, &pb.Chunk{Id: make([]byte, 16)}, make([]byte, spool.MaxInline))
	require.NoError(t, err)
	waiting := make(chan error, 1)
	go func() {
		_, err := c.Propose(context.Background(), chunk)
		waiting <- err
	}()
	require.Eventually(t, func() bool {
		free := c.bulkBudget.TryAcquire(100 << 10)
		if free {
			c.bulkBudget.Release(100 << 10)
		}
		return !free
	}, time.Minute, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = c.Propose(ctx, chunk)
	require.ErrorIs(t, err, fault.ErrUnavailable)
	require.ErrorContains(t, err, "too much is under way")

	lock, err := spool.Encode(spool.KindLock, &pb.TakeLock{Mailbox: "a@b"})
	require.NoError(t, err)
	soon, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	_, err = c.Propose(soon, lock)
	require.ErrorIs(t, err, fault.ErrNoLeader, "control is not held up by bodies")
	end()
	require.ErrorIs(t, <-waiting, fault.ErrUnavailable)
	require.True(t, c.bulkBudget.TryAcquire(300<<10), "the octets come back")
}

func TestFramesAreBounded(t *testing.T) {
	c, _ := lonely(1<<20, time.Second)
	_, err := c.Propose(t.Context(), make(spool.Frame, spool.MaxFrame+1))
	require.ErrorIs(t, err, fault.ErrInvalid)
	_, err = spool.Encode(spool.KindChunk, &pb.Chunk{Id: make([]byte, 16)}, make([]byte, spool.MaxFrame))
	require.ErrorContains(t, err, "over the limit")
}
