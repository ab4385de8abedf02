package cluster

import (
	"context"
	"sync"
	"time"
)

// leaderDiscovery finds the leader for a node that hears none: one whose address has
// changed, so that the leader can't reach it, or one in a network that is cut
// in one direction. It asks the others whom they follow. What it learns serves
// to forward proposals, above all the registration that carries the new
// address; raft itself never hears of it. It belongs to one goroutine.
//
// Leaders dial, so a node whose address changed hears none. After a heartbeat of
// silence it asks, and with the question it says where it is; the answer says where
// others are.
type leaderDiscovery struct {
	c        *Cluster
	silent   time.Time // since when there is no leader
	mu       sync.Mutex
	asking   bool
	answer   string
	answered time.Time
	denials  int // how often in a row the others said that this node is no member
}

// leader returns the leader as raft knows it, or else by discovery.
func (h *leaderDiscovery) leader(ctx context.Context, known string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if known != "" {
		h.silent, h.answer, h.denials = time.Time{}, "", 0
		return known
	}
	if h.silent.IsZero() {
		h.silent = now
	}
	if now.Sub(h.silent) < h.c.t.Heartbeat {
		return ""
	}
	if !h.asking && now.Sub(h.answered) > h.c.t.Heartbeat/2 {
		h.asking = true
		h.c.goRun(func() { h.discover(ctx) })
	}
	return h.answer
}

// discover asks the others. If none of them follows anybody, or none talks to
// us, they may have removed this node.
func (h *leaderDiscovery) discover(ctx context.Context) {
	said := h.ask(ctx)
	denied := said == "" && h.c.lostMembership(ctx)
	h.mu.Lock()
	h.asking, h.answer, h.answered = false, said, time.Now()
	if h.denials++; !denied {
		h.denials = 0
	}
	leave := h.denials == membershipRounds
	h.mu.Unlock()
	if leave {
		h.c.leave()
	}
}

// ask collects whom the others follow; empty: nobody that we know of.
func (h *leaderDiscovery) ask(ctx context.Context) (said string) {
	ctx, cancel := context.WithTimeout(ctx, statusTime+4*h.c.t.Latency)
	defer cancel()
	votes := make(chan string)
	others := 0
	for node := range h.c.addresses() {
		if node == h.c.id.Node {
			continue
		}
		others++
		go func() {
			r, err := h.c.askLost(ctx, node)
			if err != nil || r.Leader == h.c.id.Node {
				r.Leader = ""
			}
			votes <- r.Leader
		}()
	}
	for range others {
		if v := <-votes; v != "" {
			said = v
		}
	}
	return said
}
