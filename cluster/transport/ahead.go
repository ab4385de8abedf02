package transport

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"relay/cluster/datadir"
	"relay/cluster/tuning"
)

// ahead sends a leader's new entries to its followers while the leader itself still writes
// them: raft tells its replication of them only when they are synced here, so that a
// commit took two syncs, one after the other. When raft comes with the same entries it gets
// the answer to the call that is under way.
//
// Raft allows that (Ongaro, 10.2.1): a leader need not be in the majority that has an
// entry. Raft itself still counts this node from its own sync on, and a follower from when
// raft's own call returns. The entries are of a term in which this node leads, and it is
// their one author: if it dies before its sync, it never leads in that term again.
//
// It is done only for commands, and for a follower whose log, as it has acknowledged in
// this term, ends just before them, and to whom no other call is under way: there is never
// more than one (hashicorp/raft#612). An answer that raft fetches late is none: raft would
// count it as a sign of life of that moment.
type ahead struct {
	send   func(raft.ServerID, raft.ServerAddress, *raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error
	leads  func(term uint64) bool
	commit func() uint64 // raft's commit index; nil: nothing is sent ahead

	mu    sync.Mutex
	lanes map[raft.ServerID]*lane
}

// lane is what is known of one follower.
type lane struct {
	busy int                        // calls of raft under way, heartbeats aside
	to   raft.ServerAddress         // of the last call that it took
	last *raft.AppendEntriesRequest // that call without entries; nil: it has not taken the last one
	end  datadir.Mark               // where its log ended then, or further on
	call *aheadCall                 // raft has not fetched it
}

// aheadCall is a call that was sent ahead.
type aheadCall struct {
	req  *raft.AppendEntriesRequest
	resp raft.AppendEntriesResponse
	err  error
	came time.Time     // when it was answered
	done chan struct{} // closed then
}

// aheadFresh is how old an answer may be that raft gets.
const aheadFresh = 100 * time.Millisecond

func newAhead() *ahead { return &ahead{lanes: map[raft.ServerID]*lane{}} }

// ours reports whether new entries are commands of one term in which this node leads.
func (a *ahead) ours(all []*raft.Log) bool {
	if len(all) == 0 || len(all) > tuning.MaxGroup || a.commit == nil {
		return false
	}
	for _, e := range all {
		if e.Type != raft.LogCommand || e.Term != all[0].Term {
			return false
		}
	}
	return a.leads(all[0].Term)
}

// offer sends entries ahead that are ours. It does not wait.
func (a *ahead) offer(all []*raft.Log) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := datadir.Mark{Term: all[0].Term, Index: all[0].Index - 1}
	for id, l := range a.lanes {
		if l.busy > 0 || l.call != nil || l.last == nil || l.end != before || l.last.Term != all[0].Term {
			continue
		}
		req := *l.last
		req.PrevLogEntry, req.PrevLogTerm, req.Entries = before.Index, before.Term, all
		req.LeaderCommitIndex = min(a.commit(), before.Index)
		c := &aheadCall{req: &req, done: make(chan struct{})}
		l.call = c
		go func() {
			c.err = a.send(id, l.to, c.req, &c.resp)
			c.came = time.Now()
			close(c.done)
		}()
	}
}

// call carries out a call of raft's that is no heartbeat; keep keeps it back.
func (a *ahead) call(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest,
	resp *raft.AppendEntriesResponse, keep func(node string, req *raft.AppendEntriesRequest) error) (err error) {
	l, c := a.enter(id)
	defer func() { a.leave(l, to, req, err == nil && resp.Success) }()
	if c == nil {
		if err := keep(string(id), req); err != nil {
			return err
		}
	}
	return a.fetchOrSend(c, id, to, req, resp)
}

func (a *ahead) enter(id raft.ServerID) (*lane, *aheadCall) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.lanes[id]
	if l == nil {
		l = &lane{}
		a.lanes[id] = l
	}
	c := l.call
	l.busy++
	l.call = nil
	return l, c
}

// fetchOrSend waits for the call that was sent ahead, and sends raft's own where the answer
// is not one to that. Raft reads from its own call what it has sent, so the entries go
// there.
func (a *ahead) fetchOrSend(c *aheadCall, id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest,
	resp *raft.AppendEntriesResponse) error {
	if c != nil && c.req.Term == req.Term {
		<-c.done // raft's network bounds it
		same := c.req.PrevLogEntry == req.PrevLogEntry && c.req.PrevLogTerm == req.PrevLogTerm
		if same && time.Since(c.came) < aheadFresh {
			if req.Entries, *resp = c.req.Entries, c.resp; len(req.Entries) > 0 {
				req.LeaderCommitIndex = c.req.LeaderCommitIndex
			}
			return c.err
		}
	}
	return a.send(id, to, req, resp)
}

// leave notes where a follower's log ends after a call.
func (a *ahead) leave(l *lane, to raft.ServerAddress, req *raft.AppendEntriesRequest, took bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l.busy--; !took {
		l.last = nil
		return
	}
	last := *req
	l.end = datadir.Mark{Term: req.PrevLogTerm, Index: req.PrevLogEntry}
	if n := len(req.Entries); n > 0 {
		l.end = datadir.Mark{Term: req.Entries[n-1].Term, Index: req.Entries[n-1].Index}
	}
	last.Entries = nil
	l.to, l.last = to, &last
}
