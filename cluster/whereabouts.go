package cluster

import (
	"context"
	"encoding/json"
)

// whereabouts is what a node that hears no leader says with its question for a
// report, so that those it finds find it, and one another.
type whereabouts struct {
	Address string `json:"address"` // of who asks
}

// tell remembers where the node is that asks, and reports whether it asked for
// the whereabouts of others.
func (c *Cluster) tell(from string, question []byte) bool {
	var w whereabouts
	if len(question) == 0 || json.Unmarshal(question, &w) != nil {
		return false
	}
	c.book.Hear(from, w.Address)
	return true
}

// heard takes over what a member said of where others are.
func (c *Cluster) heard(r report) {
	for node, addr := range r.Found {
		if c.book.Member(node) {
			c.book.Hear(node, addr)
		}
	}
}

// refuses reports whether nothing listens at any address of a node.
func (c *Cluster) refuses(ctx context.Context, node string, refused func(error) bool) bool {
	all := c.book.Candidates(node)
	for _, addr := range all {
		if err := c.port.Probe(ctx, addr); !refused(err) {
			return false
		}
	}
	return len(all) > 0
}
