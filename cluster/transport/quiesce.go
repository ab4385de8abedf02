package transport

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"relay/cluster/datadir"
	raftlog "relay/cluster/disk/log"
	"relay/cluster/tuning"
)

// quiescence keeps an empty AppendEntries back while it would tell its follower
// nothing. Raft sends one each CommitTimeout, by which followers learn what is committed:
// of three idle nodes that was two thirds of the processor time. A follower that has
// acknowledged the whole log, and that all of it is committed, has nothing to learn
// before the next entry is stored here; heartbeats, which have a goroutine of their own,
// go on.
//
// Nobody waits to hear that a renewal is committed, but each told each follower so, with a
// call of its own, a second before the next one does. So a follower whose newest entries
// are all petty hears of their commit with the next entry, or when somebody there reads
// (want).
//
// A call that is kept back goes out when an entry is stored, and takes that along; when a
// call to the same follower fails (it may have forgotten); and after longest in any case. It is never
// answered here: raft takes an answer for a sign that the follower lives and that this
// node leads. When this node does not lead any more it fails.
type quiescence struct {
	done    <-chan struct{}        // closed when the transport is
	longest time.Duration          // for which a call is kept back
	last    func() (uint64, error) // index of the newest entry in this node's log
	entry   func(index uint64, to *raft.Log) error
	leads   func(term uint64) bool // whether this node leads in that term
	commit  func() uint64          // raft's commit index
	petty   func(*raft.Log) bool   // whether nobody waits to hear that an entry is committed

	waiting atomic.Int32
	mu      sync.Mutex
	wanted  uint64                  // index for which somebody waits at a follower
	urgent  int                     // callers of hurry
	told    map[string]datadir.Mark // the commit index that a follower acknowledged, and the leader's term
	wake    chan struct{}           // closed when those who wait must look again
}

func newQuiescence(done <-chan struct{}) *quiescence {
	return &quiescence{
		done: done, last: func() (uint64, error) { return 0, nil }, leads: func(uint64) bool { return true },
		entry:  func(uint64, *raft.Log) error { return raft.ErrLogNotFound },
		commit: func() uint64 { return 0 }, petty: func(*raft.Log) bool { return false },
		told: map[string]datadir.Mark{}, wake: make(chan struct{}),
	}
}

// look wakes all calls that are kept back: the log has a new entry, or this node's
// leadership has ended.
func (q *quiescence) look() {
	if q.waiting.Load() > 0 {
		q.mu.Lock()
		q.wakeAll()
		q.mu.Unlock()
	}
}

func (q *quiescence) wakeAll() {
	close(q.wake)
	q.wake = make(chan struct{})
}

// want has followers told at once that an index is committed: somebody waits there.
func (q *quiescence) want(index uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if index > q.wanted {
		q.wanted = index
		q.wakeAll()
	}
}

// hurry has nothing kept back until done is called: raft waits for a follower's goroutine
// before it moves the leadership there, and takes no entry meanwhile that would end a silence.
func (q *quiescence) hurry() (done func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.urgent++
	q.wakeAll()
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.urgent--
	}
}

// acknowledged notes what a follower knows after it took a call.
func (q *quiescence) acknowledged(node string, req *raft.AppendEntriesRequest) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.told[node] = datadir.Mark{Term: req.Term, Index: req.LeaderCommitIndex}
}

// forget notes that it is not known what a follower knows.
func (q *quiescence) forget(node string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.told[node]; ok {
		delete(q.told, node)
		q.wakeAll()
	}
}

// keep returns when a call that is no heartbeat shall go out, at once where the follower
// has something to learn. It returns tuning.ErrPastTerm where the call has lost its sense.
func (q *quiescence) keep(node string, req *raft.AppendEntriesRequest) error {
	if len(req.Entries) > 0 || q.longest <= 0 {
		return nil
	}
	q.waiting.Add(1)
	defer q.waiting.Add(-1)
	wake := q.idle(node, req)
	if wake == nil {
		return nil
	}
	timer := time.NewTimer(q.longest)
	defer timer.Stop()
	for wake != nil {
		select {
		case <-wake:
			wake = q.idle(node, req)
		case <-timer.C:
			wake = nil
		case <-q.done:
			return tuning.ErrPastTerm
		}
	}
	if !q.leads(req.Term) {
		return tuning.ErrPastTerm
	}
	q.fill(req)
	// Raft made the call a second ago, perhaps.
	req.LeaderCommitIndex = max(req.LeaderCommitIndex, min(q.commit(), req.PrevLogEntry+uint64(len(req.Entries))))
	return nil
}

// fill puts into a call that was kept back what was stored meanwhile: else the first entry
// after a silence would wait for the answer to a call that tells nothing. Raft reads from
// the call itself what it has sent. Only entries of the call's own term go along: of that
// term this node is the one author, so that they follow each other in every log.
func (q *quiescence) fill(req *raft.AppendEntriesRequest) {
	last, err := q.last()
	if err != nil {
		return
	}
	for i := req.PrevLogEntry + 1; i <= min(last, req.PrevLogEntry+tuning.MaxGroup); i++ {
		e := new(raft.Log)
		if q.entry(i, e) != nil || e.Term != req.Term {
			return
		}
		req.Entries = append(req.Entries, e)
	}
}

// idle returns the channel on which to wait; nil: the follower has something to learn.
func (q *quiescence) idle(node string, req *raft.AppendEntriesRequest) <-chan struct{} {
	q.mu.Lock()
	told, wanted, wake, urgent := q.told[node], q.wanted, q.wake, q.urgent > 0
	q.mu.Unlock()
	if urgent {
		return nil
	}
	end := req.PrevLogEntry
	if last, err := q.last(); err != nil || last != end || told.Term != req.Term || !q.leads(req.Term) {
		return nil
	}
	if told.Index == end && req.LeaderCommitIndex == end {
		return wake
	}
	if told.Index < min(wanted, end) || !q.allPetty(told.Index+1, end) {
		return nil
	}
	return wake
}

// pettyMost is how many entries in a row are looked at: as many as renewals may come at once.
const pettyMost = 64

// allPetty reports whether nobody waits to hear of these entries, of which there is one.
func (q *quiescence) allPetty(from, to uint64) bool {
	if from > to || to-from >= pettyMost {
		return false
	}
	for i := to; i >= from; i-- { // the newest are most likely to be others
		if e := new(raft.Log); q.entry(i, e) != nil || !q.petty(e) {
			return false
		}
	}
	return true
}

// tellingLog is raft's log, and tells of each entry that it has stored.
type tellingLog struct {
	*raftlog.Log
	look func()
}

// StoreLog implements raft.LogStore.
func (l tellingLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore.
func (l tellingLog) StoreLogs(all []*raft.Log) error {
	err := l.Log.StoreLogs(all)
	l.look()
	return err
}
