package tuning

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Reloader changes raft's configuration at run time. Raft takes all values that
// can be reloaded at once, so whoever changes one writes the others again: this
// type owns every call of ReloadConfig. Raft refuses an ElectionTimeout below the
// HeartbeatTimeout, so the two change together, and neither may be below the
// LeaderLeaseTimeout, which can't be reloaded. It may be used by any goroutine.
type Reloader struct {
	mu   sync.Mutex
	raft reloadable
}

// reloadable is what the reloader needs of raft.
type reloadable interface {
	ReloadableConfig() raft.ReloadableConfig
	ReloadConfig(raft.ReloadableConfig) error
}

// NewReloader makes the reloader of a raft.
func NewReloader(r reloadable) *Reloader { return &Reloader{raft: r} }

// Trailing sets how many entries stay behind a snapshot.
func (r *Reloader) Trailing(n uint64) error {
	return r.change(func(c *raft.ReloadableConfig) { c.TrailingLogs = n })
}

// Silence sets after how long without a leader this node stands for election.
func (r *Reloader) Silence(d time.Duration) error {
	return r.change(func(c *raft.ReloadableConfig) { c.HeartbeatTimeout, c.ElectionTimeout = d, d })
}

func (r *Reloader) change(set func(*raft.ReloadableConfig)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.raft.ReloadableConfig()
	want := now
	if set(&want); want == now {
		return nil
	}
	return r.raft.ReloadConfig(want)
}
