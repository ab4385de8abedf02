package cluster

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// book knows where the members are and who is one.
type book struct {
	self  string
	quiet time.Duration // no word from a leader for so long: our membership may be old
	raft  atomic.Pointer[raft.Raft]

	mu sync.RWMutex
	places
}

func newBook(self string, quiet time.Duration, p places) *book {
	return &book{self: self, quiet: quiet, places: p}
}

// servers returns raft's latest configuration, nil before raft runs.
func (b *book) servers() []raft.Server {
	r := b.raft.Load()
	if r == nil {
		return nil
	}
	f := r.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

// allow says whether a node with a good certificate may talk to us: members
// may. A node that hears no leader can't know who came since, and must not
// shut out the leader that would tell it: it allows everyone whom the CA
// knows; raft itself refuses votes of non-members.
func (b *book) allow(node, _ string) error {
	servers := b.servers()
	for _, s := range servers {
		if string(s.ID) == node {
			return nil
		}
	}
	if len(servers) == 0 || !b.current() {
		return nil
	}
	return fmt.Errorf("cluster: node %s is not a member", node)
}

// current reports whether our view of the membership is fresh.
func (b *book) current() bool {
	r := b.raft.Load()
	if r == nil {
		return false
	}
	return r.State() == raft.Leader || time.Since(r.LastContact()) < b.quiet
}

// recorded lists the nodes that have a member record.
func (b *book) recorded() []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return slices.Sorted(maps.Keys(b.records))
}

// member reports whether raft's configuration has a node.
func (b *book) member(node string) bool {
	return slices.ContainsFunc(b.servers(), func(s raft.Server) bool { return string(s.ID) == node })
}
