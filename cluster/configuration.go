package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"relay/cluster/clock"
	"relay/cluster/fault"
)

// configuration is what a change of the members was decided on: raft's latest
// configuration, and an index on which the change is conditional. Raft does not say the
// index of its latest one. This is the index of the one applied here, and where a later
// one is not applied yet, the change is refused and tried again.
type configuration struct {
	servers []raft.Server
	index   uint64
}

// configuration reads the index first: an entry between the two makes the change fail.
func (c *Cluster) configuration() configuration {
	index := c.store.ConfigIndex()
	return configuration{c.book.Servers(), index}
}

// has reports whether a node is among the servers.
func (on configuration) has(id raft.ServerID) bool {
	return slices.ContainsFunc(on.servers, func(s raft.Server) bool { return s.ID == id })
}

// changeTime is how long a configuration change may wait to be begun.
const changeTime = 5 * time.Second

// reconfigure makes a change that was decided on a configuration. ErrChanged: the
// servers are others by now, and nothing was done. If they are the same and only
// their index was not known yet, it tries again.
func (c *Cluster) reconfigure(ctx context.Context, on configuration, begin func(index uint64) raft.IndexFuture) error {
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	for {
		err := fmt.Errorf("%w: none is applied here yet", fault.ErrChanged)
		if on.index != 0 { // raft takes 0 for no condition
			err = fault.OfRaft(begin(on.index).Error())
		}
		switch now := c.configuration(); {
		case err == nil:
			return nil
		case fault.MayBeApplied(err):
			return fmt.Errorf("%w: %w", fault.ErrUnknown, err)
		case !errors.Is(err, fault.ErrChanged):
			return fmt.Errorf("%w: %w", fault.ErrUnavailable, err)
		case !slices.Equal(on.servers, now.servers):
			return err
		default:
			on = now
		}
		if clock.Sleep(ctx, 10*time.Millisecond); ctx.Err() != nil {
			return err
		}
	}
}
