package propose

import (
	"time"

	"relay/cluster/tuning"
)

// batchDelay judges whether a group should wait a moment for more. Those who were
// just answered often propose again at once, but an answer and the next
// proposal take a while to travel; if the batcher closed a group at the first
// arrival, the proposers would fall into two halves that take turns, each waiting
// for the other's syncs. The wait is at most half of what the last group took,
// and where it does not bring them together it shrinks to nothing, and is
// only tried now and then. Guarded by the batcher's mutex.
//
// Without it 20 proposers over three nodes fell into two halves: groups of 10 in place
// of 20, and a third of the rate was lost.
type batchDelay struct {
	longest   time.Duration
	share     int       // how much of the allowed wait is used, in 1/shares
	proposers int       // how many were about when the last group was answered
	until     time.Time // until when the next group waits at most
	waited    bool      // the next group has waited
	groups    int
}

const (
	shares       = 16
	probeEvery   = 64 // groups from one trial of a wait that did not pay to the next
	minProposers = 4  // fewer need no gathering
)

// answered notes the end of a group, and how many wait already.
func (c *batchDelay) answered(group, queued int, sent, now time.Time) {
	if c.groups++; c.groups%probeEvery == 1 {
		c.share = max(c.share, shares/2)
	}
	c.proposers, c.waited = group+queued, false
	c.until = now.Add(min(c.longest, now.Sub(sent)/2) * time.Duration(c.share) / shares)
}

// left returns how long a group of so many should still wait.
func (c *batchDelay) left(queued int, now time.Time) time.Duration {
	if queued == 0 || c.proposers < minProposers {
		return 0
	}
	if queued >= min(c.proposers-c.proposers/8, tuning.MaxGroup) {
		if c.waited {
			c.waited, c.share = false, min(2*c.share+1, shares)
		}
		return 0
	}
	if left := c.until.Sub(now); left > 0 {
		c.waited = true
		return left
	}
	if c.waited {
		c.waited, c.share = false, c.share/2
	}
	return 0
}
