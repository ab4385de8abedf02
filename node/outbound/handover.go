package outbound

import (
	"context"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica"
	"relay/queue"
)

// Times of a drain.
const (
	handoverLook     = 100 * time.Millisecond
	handoverPatience = 5 * time.Minute // for attempts under way; RFC 5321 §4.5.3.2.6 lets a host think for ten
)

// Heir reports whether a node other than but has a session and is not being
// drained.
func Heir(sessions []*pb.Session, but string) bool {
	for _, s := range sessions {
		if s.Node != but && !s.Draining {
			return true
		}
	}
	return false
}

// leaves reports whether a node is being drained and another can take what it
// owns. A node that is alone, or among others that are drained, goes on.
func leaves(v spool.View, node string) (bool, error) {
	sessions, err := v.Sessions()
	if err != nil {
		return false, err
	}
	for _, s := range sessions {
		if s.Node == node && s.Draining {
			return Heir(sessions, node), nil
		}
	}
	return false, nil
}

// HandOver gives this node's queue entries to others while it is drained. From
// when outbound is leaving no attempt starts; entries move when those under way
// are settled, because an entry that moved during its attempt would be tried
// by two nodes at a time. It runs until ctx ends.
func (o *Spool) HandOver(ctx context.Context, m *queue.Manager) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-o.left:
			o.handOver(ctx, m)
		}
	}
}

// leave wakes HandOver.
func (o *Spool) leave() {
	select {
	case o.left <- struct{}{}:
	default:
	}
}

// handOver moves entries until outbound stays, or ctx ends.
func (o *Spool) handOver(ctx context.Context, m *queue.Manager) {
	tick := time.NewTicker(handoverLook)
	defer tick.Stop()
	since := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !o.leaving.Load() {
			return
		}
		if m.Stats().Active > 0 && time.Since(since) < handoverPatience {
			continue
		}
		if err := o.giveAway(ctx); err != nil && ctx.Err() == nil {
			o.log.Warn("the queue of this node can not be handed over yet", zap.Error(err))
		}
	}
}

// giveAway hands over what this node owns, if anything.
func (o *Spool) giveAway(ctx context.Context) error {
	epoch := o.epoch.Load()
	var owned map[uint64]int64
	err := o.replica.View(func(v spool.View) (err error) {
		owned, err = v.OwnedCounts()
		return err
	})
	if err != nil || epoch == 0 || owned[epoch] == 0 {
		return err
	}
	_, err = replica.Propose(ctx, o.replica, spool.KindAdopt, &pb.Adopt{
		From: epoch, Admin: &pb.Admin{Who: "node " + o.node, Why: "it is being drained", Node: o.node},
	})
	return err
}
