package liveness

import (
	"context"
	"sync"
	"time"
)

// DiscoveryPorts are what a Discovery needs. All are required.
type DiscoveryPorts struct {
	Self      string        // this node
	Heartbeat time.Duration // longest silence of a leader that is heard
	Timeout   time.Duration // for one round of questions
	Others    func() []string
	// Ask asks a node whom it follows, empty for nobody.
	Ask func(ctx context.Context, node string) (leader string, err error)
	// LostMembership asks whether this node was removed.
	LostMembership func(ctx context.Context) bool
	// Leave ends this node, which was removed.
	Leave func()
	// Go runs fn on a goroutine that the caller waits for.
	Go func(fn func())
}

// denialsThatCount is how many rounds in a row must say that this node was removed.
const denialsThatCount = 2

// Discovery finds the leader for a node that hears none: one whose address has
// changed, so that the leader can't reach it, or one in a network that is cut
// in one direction. It asks the others whom they follow. The answer serves
// to forward proposals, above all the registration that carries the new
// address; raft itself never hears of it. One goroutine calls Leader.
//
// Leaders dial, so a node whose address changed hears none. After a heartbeat of
// silence it asks, and with the question it says where it is; the answer says where
// others are.
type Discovery struct {
	DiscoveryPorts
	silent   time.Time // since when there is no leader
	mu       sync.Mutex
	asking   bool
	answer   string
	answered time.Time
	denials  int // how often in a row the others said that this node is no member
}

// Leader returns the leader as raft knows it, or else by discovery.
func (h *Discovery) Leader(ctx context.Context, known string) string {
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
	if now.Sub(h.silent) < h.Heartbeat {
		return ""
	}
	if !h.asking && now.Sub(h.answered) > h.Heartbeat/2 {
		h.asking = true
		h.Go(func() { h.discover(ctx) })
	}
	return h.answer
}

// discover asks the others. If none of them follows anybody, or none talks to
// us, they may have removed this node.
func (h *Discovery) discover(ctx context.Context) {
	said := h.ask(ctx)
	denied := said == "" && h.LostMembership(ctx)
	h.mu.Lock()
	h.asking, h.answer, h.answered = false, said, time.Now()
	if h.denials++; !denied {
		h.denials = 0
	}
	leave := h.denials == denialsThatCount
	h.mu.Unlock()
	if leave {
		h.Leave()
	}
}

// ask collects whom the others follow; empty: nobody that we know of.
func (h *Discovery) ask(ctx context.Context) (said string) {
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	votes := make(chan string)
	others := 0
	for _, node := range h.Others() {
		others++
		go func() {
			leader, err := h.Ask(ctx, node)
			if err != nil || leader == h.Self {
				leader = ""
			}
			votes <- leader
		}()
	}
	for range others {
		if v := <-votes; v != "" {
			said = v
		}
	}
	return said
}
