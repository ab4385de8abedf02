package remote

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"relay/queue/replyclass"
)

// greyed remembers from which address a host has put mail off because it came for the first time: it lets the mail pass
// when that comes again from the same address, and knows nothing of the node's others.
type greyed struct {
	mu  sync.Mutex
	all map[hop]greyedFrom
}

type greyedFrom struct {
	from netip.Addr
	at   time.Time
}

// Bounds of what is remembered.
const (
	greyedFor  = 24 * time.Hour
	greyedMost = 1000
)

func newGreyed() *greyed { return &greyed{all: make(map[hop]greyedFrom)} }

// note remembers the address of a connection on which a host greylists. The first one counts for its time.
func (g *greyed) note(c *conn, reply string) {
	if !c.from.IsValid() || replyclass.Of(reply) != replyclass.Greylist {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if one, ok := g.all[c.hop]; ok && time.Since(one.at) < greyedFor {
		return
	}
	for old := range g.all {
		if len(g.all) < greyedMost {
			break
		}
		delete(g.all, old)
	}
	g.all[c.hop] = greyedFrom{c.from, time.Now()}
}

// of returns the address from which a host has greylisted, if it is one of these.
func (g *greyed) of(h hop, these []netip.Addr) (netip.Addr, bool) {
	if len(these) < 2 {
		return netip.Addr{}, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	one, ok := g.all[h]
	return one.from, ok && time.Since(one.at) < greyedFor && slices.Contains(these, one.from)
}
