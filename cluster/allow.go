package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"relay/cluster/fault"
	"relay/cluster/internal/wire"
	"relay/cluster/pki"
)

// confirmTime is the longest wait for the leader's word on a certificate.
const confirmTime = time.Second

// allow is the port's question: whether a node may talk to us, by its
// membership and by the certificate that it shows.
func (c *Cluster) allow(p wire.Peer, proto string) error {
	if err := c.book.Allow(p.Node, proto); err != nil && !c.heeds(proto) {
		return err
	}
	if c.book.Admission.Denied(p.Node, p.Serial, p.Key[:]) {
		return fmt.Errorf("cluster: the certificate of node %s is one of a node that was removed", p.Node)
	}
	return c.judge(p)
}

// judge says whether a peer's certificate counts. If it is newer than what is
// on record here, the leader's word decides: a leader records a certificate
// before it hands it out. A node that hears no leader lets such a peer in, or
// the leader that would tell it could not.
func (c *Cluster) judge(p wire.Peer) error {
	err := c.roster.Judge(p)
	if !errors.Is(err, pki.ErrNewer) || c.deaf() {
		return unlessNewer(err)
	}
	if c.leaderTerm.Load() != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.ctx, confirmTime)
	defer cancel()
	if bad := c.Consistent(ctx); bad != nil {
		if c.deaf() || mustBelieve(p.Node, c.trans.Leader(), bad) {
			return nil // cutOff looks again, and ends it when the leader's word is here
		}
		return fmt.Errorf("%w, and the leader does not confirm it: %w", err, bad)
	}
	if bad := c.store.View(c.roster.Learn); bad != nil {
		return bad
	}
	return c.roster.Judge(p)
}

// mustBelieve reports whether a peer with a newer certificate is let in although
// the leader's word on it did not come. A node that lags for long would have no
// other way to catch up: the leader sends heartbeats and entries on connections of
// their own, and one that comes first must not shut the other out.
func mustBelieve(node, leader string, unconfirmed error) bool {
	lags := !errors.Is(unconfirmed, fault.ErrUnavailable) // the leader has answered, but that index is not applied here
	return lags || node == leader
}

func unlessNewer(err error) error {
	if errors.Is(err, pki.ErrNewer) {
		return nil
	}
	return err
}

// deaf reports whether this node hears no leader.
func (c *Cluster) deaf() bool {
	if !c.book.Running() {
		return true // raft is just starting
	}
	return c.leaderTerm.Load() == nil && c.silence() > c.t.Heartbeat/2
}
