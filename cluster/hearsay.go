package cluster

import (
	"context"
	"sync"
	"time"
)

// hearsay finds the leader for a node that hears none: one whose address has
// changed, so that the leader can't reach it, or one in a network that is cut
// in one direction. It asks the others whom they follow. What it learns serves
// to forward proposals, above all the registration that carries the new
// address; raft itself never hears of it. It belongs to one goroutine.
type hearsay struct {
	c       *Cluster
	silent  time.Time // since when there is no leader
	mu      sync.Mutex
	asking  bool
	said    string
	learned time.Time
}

// leader returns the leader as raft knows it, or else by hearsay.
func (h *hearsay) leader(ctx context.Context, known string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if known != "" {
		h.silent, h.said = time.Time{}, ""
		return known
	}
	if h.silent.IsZero() {
		h.silent = now
	}
	if now.Sub(h.silent) < h.c.t.Heartbeat {
		return ""
	}
	if !h.asking && now.Sub(h.learned) > h.c.t.Heartbeat/2 {
		h.asking = true
		h.c.goRun(func() { h.inquire(ctx) })
	}
	return h.said
}

func (h *hearsay) inquire(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	votes := make(chan string)
	others := 0
	for node := range h.c.addresses() {
		if node == h.c.id.Node {
			continue
		}
		others++
		go func() {
			r, err := h.c.askReport(ctx, node)
			if err != nil || r.Leader == h.c.id.Node {
				r.Leader = ""
			}
			votes <- r.Leader
		}()
	}
	said := ""
	for range others {
		if v := <-votes; v != "" {
			said = v
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asking, h.said, h.learned = false, said, time.Now()
}
