package propose

import (
	"time"

	"relay/cluster/spool"
)

// company lets proposals for which nobody waits wait a moment for others to go with: on its
// own each costs a whole commit, for which the next message of a lone client would wait.
// They are patient for longest at most. Guarded by the batcher's mutex.
//
// A Settle is, while others propose; it goes at once while they do not, as when a queue is
// delivered that nobody adds to. A node that dies meanwhile may deliver once more what it
// had just delivered, as it may between a delivery and the commit of its Settle anyway: the
// wait is as long as two such commits.
//
// A Renew is until as many have come as the last time: all nodes renew at the same moments.
type company struct {
	longest time.Duration
	patient int       // queued proposals that may wait
	until   time.Time // when the first of them goes
	other   time.Time // when a proposal came last that is neither

	round   time.Time // when the first Renew of a round came
	came    int       // Renews in this round
	expects int       // in the one before
}

const (
	companyRecent = 4                      // times longest since the last other: nobody is expected any more
	companyRound  = 100 * time.Millisecond // the Renews of one round come within that
	companyMost   = 16                     // Renews of a round; more are no round
)

// queued notes a proposal, and reports whether it may wait.
func (c *company) queued(f spool.Frame, now time.Time) (patient bool) {
	switch f.Kind() {
	case spool.KindSettle:
		patient = now.Sub(c.other) <= companyRecent*c.longest
	case spool.KindRenew:
		if now.Sub(c.round) > companyRound {
			c.round, c.expects, c.came = now, c.came, 0
		}
		c.came++
		patient = c.came < c.expects && c.expects <= companyMost
	default:
		c.other = now
	}
	if patient {
		if c.patient == 0 {
			c.until = now.Add(c.longest)
		}
		c.patient++
	}
	return patient
}

// left notes that a proposal is queued no longer.
func (c *company) left(p *proposal) {
	if p.patient {
		c.patient--
	}
}

// wait is how long a group of so many should wait.
func (c *company) wait(queued int, now time.Time) time.Duration {
	if queued == 0 || queued > c.patient {
		return 0
	}
	return c.until.Sub(now)
}
