package cluster

import (
	"context"
	"time"
)

// Silence is how long this node has heard no leader.
func (c *Cluster) Silence() time.Duration { return c.silence() }

// StandsAgainst reports whether this node would stand for election against a
// leader that nothing listens for, if all others said that they miss it too.
// asked runs before each of them answers.
func (c *Cluster) StandsAgainst(ctx context.Context, leader string, asked func()) bool {
	v := newVigil(c)
	v.gone, v.goneIn = leader, c.raft.CurrentTerm()
	v.ask = func(context.Context, string) (report, error) {
		asked()
		return report{Term: v.goneIn, Leader: leader, Silent: time.Hour.Milliseconds()}, nil
	}
	return v.due(ctx)
}
