package cluster

import (
	"context"
	"fmt"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"relay/cluster/diverge"
	"relay/cluster/spool"
)

// newComparer makes what compares this node's state with the others', and has it answer them.
func (c *Cluster) newComparer() *diverge.Comparer {
	all := &diverge.Comparer{Ports: diverge.Ports{
		Self: c.id.Node, Build: c.build(), Renew: c.t.Renew, Life: c.ctx, Store: c.store, Promise: c.promise,
		Summing: func() bool { return c.At(2) }, Version: c.Version, Ready: c.Ready,
		Leads:  func() bool { return c.leaderTerm.Load() != nil },
		Leader: c.Leader, Voters: c.voters, Sessions: c.sessions, Ask: c.Ask, AskLeader: c.askLeader,
		Command: c.command, StandBack: c.standBack, Go: c.goRun, Fatal: c.fatal, Log: c.log,
	}}
	all.Handle(func(subject string, answer diverge.Answer) { c.server.Handle(subject, answer) })
	return all
}

// Diverged says how this node's state differs from the others'; empty: it does
// not. Such a node has no session and answers no client, but votes: its log is
// right. Its directory has to be moved away, and the node joined anew; of two nodes
// the other one has to be recovered as a cluster of one before (TestOfTwo…IsRebuilt).
func (c *Cluster) Diverged() string { return c.promise.Look().Diverged }

func (c *Cluster) build() string {
	version := ""
	if c.o.Member != nil {
		version = c.o.Member.Version
	}
	return fmt.Sprintf("%s/%d", version, spool.SumFormat)
}

// anchor is what a renewal says of this node's state.
func (c *Cluster) anchor() (index, sum uint64) {
	if !c.At(2) {
		return 0, 0
	}
	return c.store.Anchor()
}

// barred says why this node must have no session; empty: it may.
func (c *Cluster) barred() string {
	if d := c.Diverged(); d != "" {
		return "this node's state " + d + ": move its data directory away and join it anew; " +
			"see \"A node whose state differs\" in the guide"
	}
	return ""
}

// standBack keeps a node that has diverged from acting.
func (c *Cluster) standBack(ctx context.Context) {
	c.session.Stop(ctx, c.barred())
	if c.raft.State() == raft.Leader && len(c.book.Servers()) > 1 {
		if err := c.handOver(""); err != nil {
			c.log.Warn("cluster: a leader whose state is wrong could not hand over", zap.Error(err))
		}
	}
}
