package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"relay/cluster/clock"
	"relay/cluster/internal/wire"
	"relay/cluster/pki"
	"relay/cluster/spool"
	"relay/cluster/tuning"
)

// housekeep does what every node does for itself: it keeps the log short in
// octets, cuts off those who are no longer members, reads the member records
// again, should a hint have been missed, and changes local formats when no build
// of the former cluster version may come back.
func (c *Cluster) housekeep(ctx context.Context) {
	said := clock.Warnings{}
	tick := tuning.NewBeat(time.Second)
	defer tick.Stop()
	trail := c.t.Trailing
	for tick.Wait(ctx) {
		c.clocks.Resync()
		c.judgeClocks()
		c.findTime()
		c.sayClock(&said)
		_ = c.store.View(c.book.Learn)
		_ = c.store.View(c.roster.Learn)
		_, _ = c.Upgrade() // notes who lives, so that a new leader knows since when
		if c.At(2) {
			_ = c.rlog.SealPromises() // what fails has been told to Fatal
		}
		_ = c.store.View(func(v spool.View) error { return c.book.Admission.Learn(v, c.log) })
		c.secrets.Tidy()
		c.cutOff()
		trail = c.trim(trail)
	}
}

// cutOff ends the connections to nodes that were removed.
func (c *Cluster) cutOff() {
	c.port.CutOff(c.mustEnd)
	c.peers.Forget(func(node string) bool { return c.shutOut(wire.Peer{Node: node}, wire.RPC) })
}

// mustEnd reports whether a live connection would not be let in any more.
func (c *Cluster) mustEnd(l wire.Link) bool {
	if l.Proto == wire.RPC && c.leaving.Load().waits(l.Peer.Node) {
		return false
	}
	return c.shutOut(l.Peer, l.Proto) || c.outdated(l.Peer, l.Since)
}

// shutOut reports whether a peer is no member, nor one of those who may say hello. A node
// that hears no leader keeps the connections of the latter: it waits for the word of one.
func (c *Cluster) shutOut(p wire.Peer, proto string) bool {
	if p.Node == "" || c.book.Allow(p.Node, proto) == nil {
		return false
	}
	return !c.heeds(proto) || c.book.Admission.Denied(p.Node, p.Serial, p.Key[:])
}

// outdated reports whether a connection lives by a certificate that counts no
// more. Those of members were good when they began and have an hour; one that
// was let in as newer than the record ends as soon as the leader knows better.
func (c *Cluster) outdated(p wire.Peer, since time.Time) bool {
	err := c.roster.Judge(p)
	switch {
	case err == nil:
		return false
	case !errors.Is(err, pki.ErrNewer):
		return time.Since(since) > pki.OldGrace
	case c.deaf():
		return false
	}
	ctx, cancel := context.WithTimeout(c.ctx, confirmTime)
	defer cancel()
	if c.Consistent(ctx) != nil || c.store.View(c.roster.Learn) != nil {
		return false
	}
	return c.roster.Judge(p) != nil
}

// trim takes a snapshot when the log has grown too large. The number of entries
// that stay behind it, for members that lag a little, depends on their size:
// raft counts entries, disks count octets. It returns the number now set.
func (c *Cluster) trim(trail uint64) uint64 {
	size, limit := c.rlog.Bytes(), c.logLimit()
	if size <= limit {
		return trail
	}
	first, err := c.rlog.FirstIndex()
	if err != nil {
		return trail
	}
	last, err := c.rlog.LastIndex()
	if err != nil || last < first {
		return trail
	}
	average := max(size/int64(last-first+1), 1)
	want := min(c.t.Trailing, uint64(limit/2/average)+1)
	if want != trail {
		if err := c.reload.Trailing(want); err != nil {
			c.log.Warn("cluster: reload", zap.Error(err))
			return trail
		}
	}
	f := c.raft.Snapshot()
	if err := f.Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) &&
		!errors.Is(err, raft.ErrRaftShutdown) {
		c.log.Warn("cluster: the log is too long, and the snapshot failed", zap.Int64("octets", size), zap.Error(err))
	}
	return want
}
