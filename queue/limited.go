package queue

import (
	"fmt"
	"strings"

	"relay/queue/limit"
	"relay/queue/readyq"
)

// A destination learns its limits from its first job: the agent knows which site the mail goes to. From then on a job
// is taken only while all of its gates have room.

// reserve takes what a unit needs of its gates, where some are known. It needs m.mu. If another job was quicker, the
// agent finds no room, and the unit comes back untried.
func (u *unit) reserve() {
	known := u.batch.Gates()
	if len(known) == 0 || u.check {
		return
	}
	for _, g := range known {
		u.limit.Gates = append(u.limit.Gates, g.(*limit.Gate))
	}
	u.limit.Pass = limit.Begin(u.limit.Gates, len(u.batch.N))
}

// endLimited gives back what a unit had of its gates, and keeps those that the agent has found. It needs m.mu.
func (m *Manager) endLimited(u *unit, now int64) {
	u.limit.Pass.End()
	if u.job == nil || !u.job.Limits.Found {
		return
	}
	if p := u.job.Limits.Pass; p != u.limit.Pass {
		p.End()
	}
	var gates []readyq.Gate
	for _, g := range u.job.Limits.Gates {
		gates = append(gates, g)
	}
	m.queue.Attach(&u.batch, gates, now)
}

// Kick says that a gate may have room for mail that waits for it.
func (m *Manager) Kick(g *limit.Gate) {
	for more := true; more; {
		m.mu.Lock()
		more = m.queue.Kick(g, m.now().UnixNano())
		m.unlock()
	}
}

// waitsForLimit says what mail waits for that stands in the line of a gate.
func waitsForLimit(g readyq.Gate) string {
	text, share, open := g.(*limit.Gate).Words()
	key, bounds, _ := strings.Cut(text, " ")
	if strings.Contains(bounds, "connections=") && share == 0 && open == 0 {
		return fmt.Sprintf("waiting for the limit of %s (%s): other nodes use it now", key, bounds)
	}
	return fmt.Sprintf("waiting for its turn within the limit of %s (%s)", key, bounds)
}
