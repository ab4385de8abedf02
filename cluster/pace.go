package cluster

import (
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
)

// keepPace measures, and reloads raft's patience when it is off by a fifth. A
// follower without a leader keeps what it has, as it stands for election soon. A leader
// keeps to the base: it sends ten signs in that time.
func (c *Cluster) keepPace(now time.Duration) {
	switch c.raft.State() {
	case raft.Leader:
		c.pace.Look(now, time.Now(), c.others())
		c.setPatience(c.pace.Base)
	case raft.Candidate:
		c.adjustPatience(c.pace.Seek(now))
	case raft.Follower:
		if _, leader := c.raft.LeaderWithID(); leader != "" {
			c.adjustPatience(c.pace.Hear(now, string(leader), c.raft.CurrentTerm(), c.raft.LastContact()))
		}
	}
}

// adjustPatience sets raft's patience where it is off by a fifth.
func (c *Cluster) adjustPatience(want time.Duration) {
	if is := c.pace.Patience(); want > is*6/5 || want < is*5/6 {
		c.setPatience(want)
	}
}

// others are the voters beside this node.
func (c *Cluster) others() (ids []raft.ServerID) {
	for _, s := range c.book.Servers() {
		if s.Suffrage == raft.Voter && string(s.ID) != c.id.Node {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

func (c *Cluster) setPatience(d time.Duration) {
	if d == c.pace.Patience() {
		return
	}
	if err := c.reload.Silence(d); err != nil {
		c.log.Warn("cluster: raft's timeouts can't be changed", zap.Duration("to", d), zap.Error(err))
		return
	}
	c.log.Info("cluster: this node waits longer or shorter for its leader", zap.Duration("patience", d))
	c.pace.Keep(d)
}

// Trouble says in words what is wrong with the links of this node as a leader;
// empty: nothing, or it does not lead.
func (c *Cluster) Trouble() string {
	if !c.Leads() {
		return ""
	}
	return c.pace.Trouble()
}
