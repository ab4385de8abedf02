package cluster

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"relay/cluster/spool"
)

// book knows where the members are and who is one. Addresses come from the
// member records, which each node renews when it starts; raft's own
// configuration and what Join was told serve until there is a record.
type book struct {
	self  string
	quiet time.Duration // no word from a leader for so long: our membership may be old
	raft  atomic.Pointer[raft.Raft]

	mu      sync.RWMutex
	records map[string]string
	hints   map[string]string
}

func newBook(self string, quiet time.Duration, hints map[string]string) *book {
	return &book{self: self, quiet: quiet, hints: hints, records: map[string]string{}}
}

// learn reads the member records again.
func (b *book) learn(v spool.View) error {
	members, err := v.Members()
	if err != nil {
		return err
	}
	records := make(map[string]string, len(members))
	for _, m := range members {
		records[m.Id] = m.Address
	}
	b.mu.Lock()
	b.records = records
	b.mu.Unlock()
	return nil
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

// address returns where a node listens.
func (b *book) address(node string) (string, error) {
	b.mu.RLock()
	addr := b.records[node]
	hint := b.hints[node]
	b.mu.RUnlock()
	if addr != "" {
		return addr, nil
	}
	for _, s := range b.servers() {
		if string(s.ID) == node {
			return string(s.Address), nil
		}
	}
	if hint != "" {
		return hint, nil
	}
	return "", fmt.Errorf("cluster: no address is known for node %s", node)
}

// ServerAddr tells raft where a node is. It implements
// raft.ServerAddressProvider.
func (b *book) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	addr, err := b.address(string(id))
	if err != nil {
		return "", err
	}
	return raft.ServerAddress(string(id) + addressMark + addr), nil
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
