package cluster

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
	latest func() (servers []raft.Server, index uint64) // nil, 0: raft does not run yet
	hints  map[string]string                            // who was a member when this node joined
	joined uint64                                       // index at which that was; hints count until the own log is there
	path   string                                       // of the tombs

	mu      sync.RWMutex
	vouched configured
	tombs   map[string]tomb
}

// configured is a configuration as another node knows it.
type configured struct {
	Index   uint64   `json:"index"`
	Servers []string `json:"servers"`
}

// tomb is a node that was removed, and the certificates it may have.
type tomb struct {
	Node    string   `json:"node"`
	Serials [][]byte `json:"serials,omitempty"`
	Keys    [][]byte `json:"keys,omitempty"`
	Index   uint64   `json:"index"`
}

const tombFile = "tombs"

// openAdmission reads the tombs of a data directory.
func openAdmission(dir, self string, hints map[string]string) (*admission, error) {
	a := &admission{
		self: self, hints: hints, path: filepath.Join(dir, tombFile), tombs: map[string]tomb{},
		latest: func() ([]raft.Server, uint64) { return nil, 0 },
	}
	b, err := os.ReadFile(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	var all []tomb
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("cluster: %s is damaged: remove it, the cluster knows it all: %w", a.path, err)
	}
	a.addTombs(all)
	return a, nil
}

// member reports whether a node may talk to this one about anything.
func (a *admission) member(node string) bool {
	servers, index := a.latest()
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
	return (len(servers) == 0 || index < a.joined) && a.hinted(node)
}

// hinted reports whether a node was a member when this one joined, and was not
// removed since. A log that is just being sent begins with configurations of long
// ago, in which whoever leads now may be missing. The caller holds the mutex.
func (a *admission) hinted(node string) bool {
	_, hinted := a.hints[node]
	if t, dead := a.tombs[node]; dead && t.Index > a.joined {
		return false
	}
	return hinted || node == a.self
}

// denied reports whether a certificate is one of a removed node.
func (a *admission) denied(node string, serial, key []byte) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	t, there := a.tombs[node]
	return there && (has(t.Serials, serial) || has(t.Keys, key))
}

func has(all [][]byte, one []byte) bool {
	return len(one) > 0 && slices.ContainsFunc(all, func(b []byte) bool { return string(b) == string(one) })
}

// vouch takes the word of a member for a configuration that is newer than all
// that this node knows, if it is one of its servers.
func (a *admission) vouch(c configured) bool {
	_, index := a.latest()
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.Index <= max(index, a.vouched.Index) || !slices.Contains(c.Servers, a.self) {
		return false
	}
	a.vouched = c
	return true
}

// known is the newest configuration that this node knows of.
func (a *admission) known() configured {
	servers, index := a.latest()
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.vouched.Index > index {
		return a.vouched
	}
	c := configured{Index: index}
	if len(servers) > 0 && index < a.joined { // the log is being sent still
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
func (a *admission) addTombs(all []tomb) (news bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range all {
		if old, there := a.tombs[t.Node]; !there || old.Index < t.Index {
			a.tombs[t.Node], news = t, true
		}
	}
	return news
}

// graves lists the tombs, by node.
func (a *admission) graves() []tomb {
	a.mu.RLock()
	defer a.mu.RUnlock()
	all := make([]tomb, 0, len(a.tombs))
	for _, t := range a.tombs {
		all = append(all, t)
	}
	slices.SortFunc(all, func(x, y tomb) int { return strings.Compare(x.Node, y.Node) })
	return all
}

func (a *admission) save() error {
	b, err := json.MarshalIndent(a.graves(), "", "  ")
	if err != nil {
		return err
	}
	return datadir.WriteFile(a.path, append(b, '\n'))
}

// learn reads the tombs of the state. They are written down beside it, because
// the state may be taken back to where they were not yet.
func (a *admission) learn(v spool.View, log *zap.Logger) error {
	list, err := v.Tombs()
	if err != nil {
		return err
	}
	a.remember(tombsOf(list), log)
	return nil
}

func (a *admission) remember(all []tomb, log *zap.Logger) {
	if !a.addTombs(all) {
		return
	}
	if err := a.save(); err != nil {
		log.Warn("cluster: removed nodes can't be written down", zap.Error(err))
	}
}

func tombsOf(list []*pb.Tomb) (all []tomb) {
	for _, t := range list {
		all = append(all, tomb{Node: t.Node, Serials: t.Serials, Keys: t.Keys, Index: t.Index})
	}
	return all
}
