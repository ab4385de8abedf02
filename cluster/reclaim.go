package cluster

import (
	"context"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"
)

const (
	// shortLog is the part of Tuning.LogBytes that the log may have while the disk
	// is short. A member that lags by more than half of it needs a snapshot.
	shortLog = 8
	// reclaimShare bounds the time that compactions for space may take: a sixth.
	reclaimShare = 5
)

// SetShort says whether the disk of the data directory is short of space, or
// nearly so. While it is, this node gives up space for time: the log is kept
// short, and mail that was deleted leaves the disk within a minute instead of at
// some time. It does not wait and may be called by any goroutine, again and again.
//
// It is the node's own disk; others may have room. The log is cut from 32 MiB on
// instead of 256 (a member that lags by more than half of that gets a snapshot), and
// every ten to fifteen seconds, but for a sixth of the time at most, the store is asked
// to give back what was deleted (disk/DESIGN.md, Space). The times are random: the
// nodes of a cluster run short together.
func (c *Cluster) SetShort(short bool) {
	if c.short.Swap(short) == short || !short {
		return
	}
	select {
	case c.pinch <- struct{}{}:
	default:
	}
}

// logLimit is the size of the log that makes a snapshot due.
func (c *Cluster) logLimit() int64 {
	if c.short.Load() {
		return c.t.LogBytes / shortLog
	}
	return c.t.LogBytes
}

// reclaim looks for space whenever the disk is short, until ctx ends.
func (c *Cluster) reclaim(ctx context.Context) {
	for {
		select {
		case <-c.pinch:
		case <-ctx.Done():
			return
		}
		c.told(true)
		for wait := time.Duration(0); c.short.Load(); {
			// The nodes of a cluster are short together; they should not all
			// compact together.
			timer := time.NewTimer(wait + rand.N(c.t.Reclaim/2+1))
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
			wait = max(c.t.Reclaim, reclaimShare*c.reclaimOnce(ctx))
		}
		c.told(false)
	}
}

func (c *Cluster) told(short bool) {
	c.store.SetShort(short)
	c.rlog.SetShort(short)
}

// reclaimOnce makes what space there is to make, and returns how long it took.
func (c *Cluster) reclaimOnce(ctx context.Context) time.Duration {
	start, before := time.Now(), c.store.Metrics().DiskBytes
	did, err := c.store.Reclaim(ctx)
	took := time.Since(start)
	switch {
	case err != nil && ctx.Err() == nil:
		c.log.Warn("cluster: no space could be made of deleted mail", zap.Error(err))
	case did:
		c.log.Info("cluster: the place of deleted mail is free again",
			zap.Int64("before", before), zap.Int64("now", c.store.Metrics().DiskBytes), zap.Duration("took", took))
	}
	return took
}
