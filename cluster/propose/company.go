package propose

import (
	"time"

	"relay/cluster/spool"
)

// company lets a Settle wait a moment for another proposal to go with: nobody waits for
// it, but on its own it costs a whole commit, and the next message that a lone client
// sends would wait for that. It waits only while others propose, and no longer than
// longest; where they do not, as while a queue is delivered that nobody adds to, it goes
// at once. Guarded by the batcher's mutex.
//
// A node that dies meanwhile may deliver once more what it had just delivered, as it may
// between a delivery and the commit of its Settle anyway: the wait is as long as two such
// commits.
type company struct {
	longest time.Duration
	patient int       // queued proposals that may wait
	since   time.Time // when the first of them came
	other   time.Time // when a proposal came last that may not
}

// companyRecent is how many times longest it is since the last other proposal before nobody
// is expected any more.
const companyRecent = 4

func (c *company) queued(f spool.Frame, now time.Time) {
	switch {
	case f.Kind() != spool.KindSettle:
		c.other = now
	default:
		if c.patient == 0 {
			c.since = now
		}
		c.patient++
	}
}

func (c *company) left(f spool.Frame) {
	if f.Kind() == spool.KindSettle {
		c.patient--
	}
}

// wait is how long a group of so many should wait.
func (c *company) wait(queued int, now time.Time) time.Duration {
	if queued == 0 || queued > c.patient || now.Sub(c.other) > companyRecent*c.longest {
		return 0
	}
	return c.since.Add(c.longest).Sub(now)
}
