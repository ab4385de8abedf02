package members

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"relay/cluster/datadir"
)

// AddressBook knows where the members are and who is one.
type AddressBook struct {
	Self      string
	Admission *admission // nil: everybody is let in
	raft      atomic.Pointer[raft.Raft]

	mu sync.RWMutex
	places
	logs  map[string]string // names of the members' raft logs, as far as they are known
	OnLog func(node string) // a member has another log than before
}

// NewAddressBook makes the book of the node self; Admission and OnLog are set before it is used.
func NewAddressBook(self string, p places) *AddressBook {
	return &AddressBook{Self: self, places: p, OnLog: func(string) {}}
}

// Follow gives the book raft, whose configuration it goes by from now on.
func (b *AddressBook) Follow(r *raft.Raft) { b.raft.Store(r) }

// Running reports whether raft runs.
func (b *AddressBook) Running() bool { return b.raft.Load() != nil }

// Servers returns raft's latest configuration, nil before raft runs.
func (b *AddressBook) Servers() []raft.Server {
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

// Allow says whether a node with a good certificate may talk to us.
func (b *AddressBook) Allow(node, _ string) error {
	if b.Admission == nil || node == b.Self || b.Admission.Member(node) {
		return nil
	}
	return fmt.Errorf("cluster: node %s is not a member", node)
}

// MayAsk reports whether a node may put any question to us, and propose; others may
// say hello at most.
func (b *AddressBook) MayAsk(node string) bool { return b.Allow(node, "") == nil }

// Marks names the logs that places in them are of; a place of no known log is left
// out.
func (b *AddressBook) Marks(all map[string]datadir.Mark) map[string]datadir.Mark {
	b.mu.RLock()
	defer b.mu.RUnlock()
	maps.DeleteFunc(all, func(node string, _ datadir.Mark) bool { return b.logs[node] == "" })
	for node, m := range all {
		m.Log = b.logs[node]
		all[node] = m
	}
	return all
}

// Recorded lists the nodes that have a member record.
func (b *AddressBook) Recorded() []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return slices.Sorted(maps.Keys(b.records))
}

// Member reports whether raft's configuration has a node.
func (b *AddressBook) Member(node string) bool {
	return slices.ContainsFunc(b.Servers(), func(s raft.Server) bool { return string(s.ID) == node })
}

// Votes reports whether raft's configuration has a node with a vote.
func (b *AddressBook) Votes(node string) bool {
	return slices.ContainsFunc(b.Servers(),
		func(s raft.Server) bool { return string(s.ID) == node && s.Suffrage == raft.Voter })
}
