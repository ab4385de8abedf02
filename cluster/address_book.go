package cluster

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"relay/cluster/datadir"
)

// addressBook knows where the members are and who is one.
type addressBook struct {
	self      string
	admission *admission // nil: everybody is let in
	raft      atomic.Pointer[raft.Raft]

	mu sync.RWMutex
	places
	logs  map[string]string // names of the members' raft logs, as far as they are known
	onLog func(node string) // a member has another log than before
}

func newAddressBook(self string, p places) *addressBook {
	return &addressBook{self: self, places: p, onLog: func(string) {}}
}

// follow gives the book raft, whose configuration it goes by from now on.
func (b *addressBook) follow(r *raft.Raft) { b.raft.Store(r) }

// running reports whether raft runs.
func (b *addressBook) running() bool { return b.raft.Load() != nil }

// servers returns raft's latest configuration, nil before raft runs.
func (b *addressBook) servers() []raft.Server {
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

// allow says whether a node with a good certificate may talk to us.
func (b *addressBook) allow(node, _ string) error {
	if b.admission == nil || node == b.self || b.admission.member(node) {
		return nil
	}
	return fmt.Errorf("cluster: node %s is not a member", node)
}

// mayAsk reports whether a node may put any question to us, and propose; others may
// say hello at most.
func (b *addressBook) mayAsk(node string) bool { return b.allow(node, "") == nil }

// marks names the logs that places in them are of; a place of no known log is left
// out.
func (b *addressBook) marks(all map[string]datadir.Mark) map[string]datadir.Mark {
	b.mu.RLock()
	defer b.mu.RUnlock()
	maps.DeleteFunc(all, func(node string, _ datadir.Mark) bool { return b.logs[node] == "" })
	for node, m := range all {
		m.Log = b.logs[node]
		all[node] = m
	}
	return all
}

// recorded lists the nodes that have a member record.
func (b *addressBook) recorded() []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return slices.Sorted(maps.Keys(b.records))
}

// member reports whether raft's configuration has a node.
func (b *addressBook) member(node string) bool {
	return slices.ContainsFunc(b.servers(), func(s raft.Server) bool { return string(s.ID) == node })
}

// votes reports whether raft's configuration has a node with a vote.
func (b *addressBook) votes(node string) bool {
	return slices.ContainsFunc(b.servers(),
		func(s raft.Server) bool { return string(s.ID) == node && s.Suffrage == raft.Voter })
}
