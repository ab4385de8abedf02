package transport

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// retry spares a node that comes back raft's wait. After each failed call in a row
// raft's replication waits twice as long, up to ten seconds, and nothing ends that
// wait: a node that was off for a minute would get no entry for that long, and could
// not register. Heartbeats are sent all the time. So the third failure in a row, and
// each later one, is told to raft only when a heartbeat was answered: a whole outage
// costs it a few milliseconds of its patience.
type retry struct {
	done   <-chan struct{}                     // closed when the transport is
	serves func(node string, term uint64) bool // whether this node leads in that term, and has to serve the other

	mu    sync.Mutex
	nodes map[string]*outage
}

// outage is what a node has not answered.
type outage struct {
	failures int
	over     chan struct{} // closed when it answers
}

const (
	freeFailures = 2                      // of calls in a row, that raft is told at once
	retryLook    = 250 * time.Millisecond // how often a waiting call looks whether it is still wanted
)

func newRetry(done <-chan struct{}) *retry {
	return &retry{done: done, nodes: map[string]*outage{}, serves: func(string, uint64) bool { return false }}
}

// served notes that a node has taken what it was sent. A node that was removed and has
// joined anew has two replications for a moment: what the former one's last call was
// answered ends the wait of the new one, too.
func (r *retry) served(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.nodes[node]; o != nil && o.over != nil {
		close(o.over)
	}
	delete(r.nodes, node)
}

// heard notes that a node has answered a heartbeat.
func (r *retry) heard(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.nodes[node]; o != nil && o.over != nil {
		close(o.over)
		o.over = nil
	}
}

// failed notes that a call of a leader's term failed, and returns when it is time to
// tell raft.
func (r *retry) failed(node string, term uint64) {
	over := r.fail(node)
	if over == nil {
		return
	}
	look := time.NewTicker(retryLook)
	defer look.Stop()
	for r.serves(node, term) {
		select {
		case <-over:
			return
		case <-r.done:
			return
		case <-look.C:
		}
	}
}

// fail counts a failure; nil: the call need not wait.
func (r *retry) fail(node string) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.nodes[node]
	if o == nil {
		o = &outage{}
		r.nodes[node] = o
	}
	if o.failures++; o.failures <= freeFailures {
		return nil
	}
	if o.over == nil {
		o.over = make(chan struct{})
	}
	return o.over
}

// isHeartbeat tells raft's signs of life, which a goroutine of their own sends, from
// the calls that carry entries.
func isHeartbeat(req *raft.AppendEntriesRequest) bool {
	return req.PrevLogEntry == 0 && req.LeaderCommitIndex == 0 && len(req.Entries) == 0
}
