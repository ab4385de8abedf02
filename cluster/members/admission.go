package members

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"relay/cluster/datadir"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// admission says who may talk to this node, by its name. Those are the servers
// of the newest configuration in its own log, whether it hears a leader or not:
// a removed node's words must count for nothing even where nobody leads. A
// configuration that a member told of in hello, and that is newer, vouches for its
// servers: else a node that was off while others were replaced would know none of those
// that lead now. Removed nodes are remembered in tombs, in the state and in a file of
// this node's own.
//
// Peers: TLS 1.3, our CA, one URI name relay://cluster/node. The connections of removed
// nodes are cut within a second.
type admission struct {
	self   string
	Latest func() (servers []raft.Server, index uint64) // nil, 0: raft does not run yet
	hints  map[string]string                            // who was a member when this node joined
	Joined uint64                                       // index at which that was; hints count until the own log is there
	path   string                                       // of the tombs

	mu      sync.RWMutex
	vouched Configured
	tombs   map[string]Tomb
}

// Configured is a configuration as another node knows it.
type Configured struct {
	Index   uint64   `json:"index"`
	Servers []string `json:"servers"`
}

// Tomb is a node that was removed, and the certificates it may have.
type Tomb struct {
	Node    string   `json:"node"`
	Serials [][]byte `json:"serials,omitempty"`
	Keys    [][]byte `json:"keys,omitempty"`
	Index   uint64   `json:"index"`
}

const tombFile = "tombs"

// OpenAdmission reads the tombs of a data directory.
func OpenAdmission(dir, self string, hints map[string]string) (*admission, error) {
	a := &admission{
		self: self, hints: hints, path: filepath.Join(dir, tombFile), tombs: map[string]Tomb{},
		Latest: func() ([]raft.Server, uint64) { return nil, 0 },
	}
	b, err := os.ReadFile(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	var all []Tomb
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("cluster: %s is damaged: remove it, the cluster knows it all: %w", a.path, err)
	}
	a.addTombs(all)
	return a, nil
}

// Member reports whether a node may talk to this one about anything.
func (a *admission) Member(node string) bool {
	servers, index := a.Latest()
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.vouched.Index > index {
		t, dead := a.tombs[node]
		if slices.Contains(a.vouched.Servers, node) && !(dead && t.Index > a.vouched.Index) {
			return true
		}
		if dead {
			return false
		}
	}
	if slices.ContainsFunc(servers, func(s raft.Server) bool { return string(s.ID) == node }) {
		return true
	}
	return (len(servers) == 0 || index < a.Joined) && a.hinted(node)
}

// hinted reports whether a node was a member when this one joined, and was not
// removed since. A log that is just being sent begins with configurations of long
// ago, in which whoever leads now may be missing. The caller holds the mutex.
func (a *admission) hinted(node string) bool {
	_, hinted := a.hints[node]
	if t, dead := a.tombs[node]; dead && t.Index > a.Joined {
		return false
	}
	return hinted || node == a.self
}

// Denied reports whether a certificate is one of a removed node.
func (a *admission) Denied(node string, serial, key []byte) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	t, there := a.tombs[node]
	return there && (has(t.Serials, serial) || has(t.Keys, key))
}

func has(all [][]byte, one []byte) bool {
	return len(one) > 0 && slices.ContainsFunc(all, func(b []byte) bool { return string(b) == string(one) })
}

// Vouch takes the word of a member for a configuration that is newer than all
// that this node knows, if it is one of its servers.
func (a *admission) Vouch(c Configured) bool {
	_, index := a.Latest()
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.Index <= max(index, a.vouched.Index) || !slices.Contains(c.Servers, a.self) {
		return false
	}
	a.vouched = c
	return true
}

// Known is the newest configuration that this node knows of.
func (a *admission) Known() Configured {
	servers, index := a.Latest()
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.vouched.Index > index {
		return a.vouched
	}
	c := Configured{Index: index}
	if len(servers) > 0 && index < a.Joined { // the log is being sent still
		for node := range a.hints {
			if node == a.self || a.hinted(node) {
				c.Servers = append(c.Servers, node)
			}
		}
		slices.Sort(c.Servers)
		return c
	}
	for _, s := range servers {
		c.Servers = append(c.Servers, string(s.ID))
	}
	return c
}

// addTombs adds tombs, and reports whether any is new.
func (a *admission) addTombs(all []Tomb) (news bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range all {
		if old, there := a.tombs[t.Node]; !there || old.Index < t.Index {
			a.tombs[t.Node], news = t, true
		}
	}
	return news
}

// Graves lists the tombs, by node.
func (a *admission) Graves() []Tomb {
	a.mu.RLock()
	defer a.mu.RUnlock()
	all := make([]Tomb, 0, len(a.tombs))
	for _, t := range a.tombs {
		all = append(all, t)
	}
	slices.SortFunc(all, func(x, y Tomb) int { return strings.Compare(x.Node, y.Node) })
	return all
}

func (a *admission) save() error {
	b, err := json.MarshalIndent(a.Graves(), "", "  ")
	if err != nil {
		return err
	}
	return datadir.WriteFile(a.path, append(b, '\n'))
}

// Learn reads the tombs of the state. They are written down beside it, because
// the state may be taken back to where they were not yet.
func (a *admission) Learn(v spool.View, log *zap.Logger) error {
	list, err := v.Tombs()
	if err != nil {
		return err
	}
	a.Remember(tombsOf(list), log)
	return nil
}

func (a *admission) Remember(all []Tomb, log *zap.Logger) {
	if !a.addTombs(all) {
		return
	}
	if err := a.save(); err != nil {
		log.Warn("cluster: removed nodes can't be written down", zap.Error(err))
	}
}

func tombsOf(list []*pb.Tomb) (all []Tomb) {
	for _, t := range list {
		all = append(all, Tomb{Node: t.Node, Serials: t.Serials, Keys: t.Keys, Index: t.Index})
	}
	return all
}
