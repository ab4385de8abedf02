package cluster

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"relay/cluster/clock"
	"relay/cluster/fault"
	"relay/cluster/propose"
)

// Consistent returns when local reads are at least as new as anything that was
// acknowledged, or read anywhere, before the call. It asks the leader for its
// read index, and waits until that is applied here.
//
// A read index is the commit index, taken after the barrier of the term and before a
// round of VerifyLeader; calls that come while a round runs share the next. An index up
// to the barrier is replaced by what the store had applied then: raft never shows the
// store its own no-ops and barriers, so waiting for one would wait for the next
// command. After the barrier there are none in the term.
//
// Rejected: read leases, as clocks would decide correctness. A round of heartbeats
// costs a fraction of a millisecond.
func (c *Cluster) Consistent(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.t.Deadline)
	defer cancel()
	for {
		mark := c.leaderWatch.Current()
		index, err := c.reads.Do(ctx)
		if err == nil {
			return c.store.WaitApplied(ctx, index)
		}
		select {
		case <-mark.Changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: no read index: %w", fault.ErrUnavailable, err)
		case <-c.ctx.Done():
			return fmt.Errorf("%w: %w", fault.ErrUnavailable, fault.ErrStopping)
		default:
			clock.Sleep(ctx, readPause)
		}
	}
}

// readPause is between two tries to get a read index of one leader.
const readPause = 5 * time.Millisecond

const askReadIndex = "cluster/read-index"

// fetchReadIndex gets a read index from whoever leads.
func (c *Cluster) fetchReadIndex(ctx context.Context) (uint64, error) {
	leader := c.leaderWatch.Current().Leader
	switch leader {
	case "":
		return 0, fault.ErrNoLeader
	case c.id.Node:
		return c.verified.Do(ctx)
	}
	b, err := c.peers.Ask(ctx, leader, askReadIndex, nil)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, propose.ErrParcel
	}
	return binary.BigEndian.Uint64(b), nil
}

func (c *Cluster) answerReadIndex(ctx context.Context, _ string, _ []byte) ([]byte, error) {
	index, err := c.verified.Do(ctx)
	if err != nil && c.ctx.Err() != nil {
		err = fault.ErrStopping
	}
	if err != nil {
		return nil, err
	}
	c.trans.Want(index)
	return binary.BigEndian.AppendUint64(nil, index), nil
}

// leaderTerm is what a leader knows about its own term, once its barrier is done.
type leaderTerm struct {
	term    uint64
	barrier uint64 // index of the barrier
	applied uint64 // what the store had applied when the barrier was done
}

// readIndex is one round on the leader: the commit index, and proof that at
// some time after it was asked for nobody else led.
func (c *Cluster) readIndex(ctx context.Context) (uint64, error) {
	t := c.leaderTerm.Load()
	if t == nil || c.raft.State() != raft.Leader || c.raft.CurrentTerm() != t.term {
		return 0, fault.ErrNotLeader
	}
	commit := c.raft.CommitIndex()
	defer c.trans.Hurry()()
	if err := await(ctx, c.raft.VerifyLeader()); err != nil {
		return 0, fmt.Errorf("%w: %w", fault.ErrNotLeader, err)
	}
	if c.raft.CurrentTerm() != t.term {
		return 0, fault.ErrNotLeader
	}
	if commit <= t.barrier {
		// Raft's own entries, such as the barrier, are never shown to the
		// store, so its applied index may never reach theirs.
		return t.applied, nil
	}
	return commit, nil
}

// Lead proves that this node leads: at some time after the call nobody else did. It returns the term, whose barrier is
// behind.
func (c *Cluster) Lead(ctx context.Context) (term uint64, err error) {
	t := c.leaderTerm.Load()
	if t == nil {
		return 0, fault.ErrNotLeader
	}
	if _, err = c.verified.Do(ctx); err == nil && c.leaderTerm.Load() != t {
		err = fault.ErrNotLeader
	}
	return t.term, err
}

// await waits for raft's answer until ctx ends: raft never answers what was still in its
// channel when it stopped, such as a transfer of the leadership. The goroutine that waits for
// such an answer is left behind, as those of the batcher are (leaveBatchers).
func await(ctx context.Context, f raft.Future) error {
	answer := make(chan error, 1)
	go func() { answer <- f.Error() }()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
