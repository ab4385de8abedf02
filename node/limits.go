package node

import (
	"context"
	"net"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/limits"
)

// newLimits makes what has the limits of sites, domains and routes hold.
func (n *Node) newLimits(id string) *limits.Service {
	s := limits.New(limits.Config{
		Node: id, Leader: n.cluster.Leader, Lead: n.cluster.Lead, Ask: n.cluster.Ask, Epoch: n.cluster.Epoch,
		Live: n.live, Dead: n.unreachable, Log: n.log,
	})
	n.cluster.Handle(limits.Method, s.Answer)
	return s
}

// live are the nodes that have a session.
func (n *Node) live() (all []string) {
	_ = n.cluster.View(func(v spool.View) error {
		sessions, err := v.Sessions()
		for _, s := range sessions {
			all = append(all, s.Node)
		}
		return err
	})
	return all
}

// unreachable reports whether no connection to a node comes about: its process is gone, or it is cut off. For a process
// that is stopped the kernel takes connections.
func (n *Node) unreachable(ctx context.Context, node string) bool {
	address := ""
	_ = n.cluster.View(func(v spool.View) error {
		members, err := v.Members()
		for _, m := range members {
			if m.Id == node {
				address = m.Address
			}
		}
		return err
	})
	within, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	dial := n.options.Dial
	if dial == nil {
		dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
	c, err := dial(within, address)
	if err == nil {
		_ = c.Close()
	}
	return err != nil && ctx.Err() == nil
}

// refreshLimits reads limits and sites again.
func (n *Node) refreshLimits() error {
	var settings *pb.Settings
	err := n.cluster.View(func(v spool.View) (err error) { settings, err = v.Settings(); return err })
	if err == nil {
		n.limits.Set(settings.GetLimits(), settings.GetSites(), n.queue)
	}
	return err
}
