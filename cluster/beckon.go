package cluster

import (
	"context"
	"encoding/json"

	"go.uber.org/zap"

	"relay/cluster/internal/wire"
)

// A node that was off while all others were replaced knows nobody who lives. Its
// leader knows it, and says hello to each server that does not answer raft. Such a
// node takes a hello, and nothing else, from whoever has a certificate of our CA and
// generation, and asks back: the answer of a leader that knows it as a server, under a
// configuration newer than its own, tells it whom to ask next. It is vetted by the
// voters of that one as ever.

// lost reports whether this node hears no leader: it listens to strangers.
func (c *Cluster) lost() bool {
	return c.book.Running() && c.leaderTerm.Load() == nil &&
		(!c.trans.Vetted.Load() || c.silence() > 2*c.t.Heartbeat)
}

// heeds reports whether a node that is no member may say hello on a connection.
func (c *Cluster) heeds(proto string) bool { return proto == wire.RPC && c.lost() }

// beckon says hello, as the leader, to the servers that have not answered for a while.
func (c *Cluster) beckon(ctx context.Context) {
	silent := c.silentServers()
	if len(silent) == 0 {
		return
	}
	h, err := c.introduce()
	if err != nil {
		return
	}
	h.At = c.id.Advertise
	body, err := json.Marshal(h)
	if err != nil {
		return
	}
	for _, node := range silent {
		if _, busy := c.beckoned.LoadOrStore(node, true); busy {
			continue
		}
		c.goRun(func() {
			defer c.beckoned.Delete(node)
			_, _ = c.greet(ctx, node, body)
		})
	}
}

// silentServers are the others that have not answered for a while.
func (c *Cluster) silentServers() (nodes []string) {
	for _, s := range c.book.Servers() {
		if string(s.ID) != c.id.Node && c.pace.Silent(s.ID, 2*c.t.Heartbeat) {
			nodes = append(nodes, string(s.ID))
		}
	}
	return nodes
}

// heed asks back a stranger that said hello. One is asked at a time.
func (c *Cluster) heed(node, addr string) {
	if addr == "" || !c.heeding.CompareAndSwap(false, true) {
		return
	}
	c.goRun(func() {
		defer c.heeding.Store(false)
		c.book.Hear(node, addr)
		h, err := c.introduce()
		if err != nil {
			return
		}
		body, err := json.Marshal(h)
		if err != nil {
			return
		}
		r, err := c.greet(c.ctx, node, body)
		if err != nil || !r.Leads || !c.book.Admission.Vouch(r.Known) {
			return
		}
		c.log.Info("cluster: a leader that this node did not know has it as a member",
			zap.String("leader", node), zap.Uint64("index", r.Known.Index), zap.Strings("servers", r.Known.Servers))
		for member, at := range r.Where {
			c.book.Hear(member, at)
		}
	})
}
