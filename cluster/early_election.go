package cluster

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"relay/cluster/liveness"
	"relay/cluster/tuning"
)

// electionPorts is what the early election needs of this node.
func (c *Cluster) electionPorts() liveness.ElectionPorts {
	return liveness.ElectionPorts{
		Self: c.id.Node, Heartbeat: c.t.Heartbeat, LeaderLease: c.t.LeaderLease, Latency: c.t.Latency,
		Patience: c.pace.Patience, Term: c.raft.CurrentTerm, Follows: c.follows, Silence: c.silence,
		Own: func() liveness.View { return viewOf(c.ownReport()) }, Voters: c.votersNow,
		Ask: func(ctx context.Context, node string) (liveness.View, error) {
			r, err := c.askReport(ctx, node)
			return viewOf(r), err
		},
		PortClosed: func(ctx context.Context, node string) bool {
			return c.refuses(ctx, node, func(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) })
		},
		Stand: c.stand, Go: c.goRun, Log: c.log,
	}
}

func viewOf(r report) liveness.View {
	return liveness.View{
		Term: r.Term, Leader: r.Leader, SilentMs: r.Silent, Drains: r.Drains, LastTerm: r.LastTerm, LastIndex: r.LastIndex,
	}
}

// votersNow lists the voters of raft's latest configuration.
func (c *Cluster) votersNow() (all []string) {
	for _, s := range c.book.Servers() {
		if s.Suffrage == raft.Voter {
			all = append(all, string(s.ID))
		}
	}
	return all
}

// newDiscovery makes the discovery of a leader that this node does not hear.
func (c *Cluster) newDiscovery() *liveness.Discovery {
	return &liveness.Discovery{DiscoveryPorts: liveness.DiscoveryPorts{
		Self: c.id.Node, Heartbeat: c.t.Heartbeat, Timeout: statusTime + 4*c.t.Latency,
		Others: func() (all []string) {
			for node := range c.addresses() {
				if node != c.id.Node {
					all = append(all, node)
				}
			}
			return all
		},
		Ask: func(ctx context.Context, node string) (string, error) {
			r, err := c.askLost(ctx, node)
			return r.Leader, err
		},
		LostMembership: c.lostMembership, Leave: c.leave, Go: c.goRun,
	}}
}

// follows returns the leader that this node follows, empty where it follows none.
func (c *Cluster) follows() string {
	_, leader := c.raft.LeaderWithID()
	if c.raft.State() != raft.Follower {
		return ""
	}
	return string(leader)
}

// runEarlyElection runs it until ctx ends.
func (c *Cluster) runEarlyElection(ctx context.Context) {
	v := &liveness.Election{ElectionPorts: c.electionPorts()}
	tick := tuning.NewBeat(c.t.Pulse()).RareWhile(c.alone)
	defer tick.Stop()
	for {
		next := tick.Next()
		if c.silence() > c.t.Pulse()*11/10 { // a sign is missing
			next = time.After(max(c.t.Heartbeat/10, 10*time.Millisecond))
		}
		select {
		case <-next:
		case <-ctx.Done():
			return
		}
		c.keepPace(c.clocks.Boot())
		v.StandIfDue(ctx)
	}
}

// silence is how long no leader has been heard.
func (c *Cluster) silence() time.Duration {
	if c.raft.State() == raft.Leader {
		return 0
	}
	return time.Since(c.raft.LastContact())
}

// lastEntry is the term and index of the newest entry in the log; zero where
// the log can't tell.
func (c *Cluster) lastEntry() (term, index uint64) {
	var l raft.Log
	if c.rlog.GetLog(c.raft.LastIndex(), &l) != nil {
		return 0, 0
	}
	return l.Term, l.Index
}

// stand tells this node's own raft to stand for election now, as a leader that
// hands over would.
func (c *Cluster) stand() error {
	me := raft.ServerID(c.id.Node)
	addr, err := c.book.ServerAddr(me)
	if err != nil {
		return err
	}
	req := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(me), Addr: []byte(addr),
	}}
	return c.trans.TimeoutNow(me, addr, req, new(raft.TimeoutNowResponse))
}
