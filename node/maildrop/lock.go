package maildrop

import (
	"sync"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// lockState is how far one lock of this node has come. DESIGN.md has the table of what leads where.
type lockState uint8

const (
	lockAsked    lockState = iota // a TakeLock is under way
	lockHeld                      // a session has it
	lockEnded                     // its session is over, but this node has yet to apply the TakeLock
	lockOrphaned                  // no session has it: it is to be given back
	lockGone                      // it concerns nobody any more, or is not known yet
)

// lock is one attempt of this node to lock a mailbox, and the lock that comes of it. All fields but the first three
// are guarded by locks.mu; those three are set before the session begins, and then never change.
type lock struct {
	mailbox string
	epoch   uint64 // of the node's session when it was asked for
	token   uint64 // once it is known: by the answer, or because this node has applied the TakeLock

	state   lockState
	name    string           // of the attempt
	applied bool             // this node has applied the TakeLock
	doubts  bool             // while asked: the lock may have ended, although the answer is still to come
	session *maildrop        // while held
	reason  string           // why the session lost it; empty: it has not
	onLost  func(why string) // nil: nobody has asked, or was told
}

// locks are the locks of this node, from the attempt to take one until nothing is to be done about it. It proposes and
// reads nothing, and its methods do not block; they may be called concurrently.
//
// A lock is an orphan where no session has it, or ever had it. It comes about where the answer to a TakeLock, or an
// Unlock, got lost on the way, or where a frame that had been given up reached a leader late. The node lives on and
// renews its session, so nobody but itself would ever free the mailbox.
type locks struct {
	node string
	wake func() // there are locks to give back; it does not block

	mu     sync.Mutex
	asked  map[string]*lock // by name
	known  map[uint64]*lock // by token: held, ended and orphaned
	count  [lockGone]int
	search bool // the replica may hold orphans that are not known
}

func newLocks(node string, wake func()) *locks {
	return &locks{node: node, wake: wake, asked: map[string]*lock{}, known: map[uint64]*lock{}}
}

// maxEnded bounds what is remembered of sessions that were faster than this node
// applies. To forget one costs a look for a lock that is not there.
const maxEnded = 10_000

// move is the one place where a lock changes its state.
func (ls *locks) move(l *lock, to lockState) {
	if to == lockEnded && ls.count[lockEnded] >= maxEnded {
		ls.forgetEnded()
	}
	if l.state != lockGone {
		ls.count[l.state]--
	}
	l.state = to
	delete(ls.asked, l.name)
	if to == lockGone {
		delete(ls.known, l.token)
	} else {
		ls.count[to]++
		if had := ls.known[l.token]; had != nil && had != l { // a search has found the lock that is l's
			ls.count[had.state]--
			had.state = lockGone
		}
		ls.known[l.token] = l
	}
	if to != lockHeld {
		l.session, l.onLost = nil, nil
	}
	if to == lockOrphaned {
		ls.wake()
	}
}

func (ls *locks) forgetEnded() {
	for _, l := range ls.known {
		if l.state == lockEnded {
			ls.move(l, lockGone)
		}
	}
}

// ask notes that an attempt to lock a mailbox is under way. Its name is unique.
func (ls *locks) ask(name, mailbox string, epoch uint64) *lock {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := &lock{name: name, mailbox: mailbox, epoch: epoch}
	ls.asked[name] = l
	ls.count[lockAsked]++
	return l
}

// fail ends an attempt without a session. A lock that it may have taken before is
// given back now, one that it takes later when that is seen. One that came with a
// snapshot is searched for: no search has counted it while the attempt was under way.
func (ls *locks) fail(l *lock) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l.applied {
		ls.move(l, lockOrphaned)
		return
	}
	ls.move(l, lockGone)
	if l.doubts {
		ls.search = true
		ls.wake()
	}
}

// grant makes the attempt a session's lock, and reports whether it may have ended
// meanwhile. If it ends later the session is told.
func (ls *locks) grant(l *lock, token uint64, m *maildrop) (doubts bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l.token, l.session = token, m
	ls.move(l, lockHeld)
	return l.doubts
}

// end notes that a lock's session is over, and reports whether it had not ended before. The lock is no orphan, though
// this node may not have seen it taken yet.
func (ls *locks) end(l *lock) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	switch {
	case l.state != lockHeld:
		return false
	case l.applied:
		ls.move(l, lockGone)
	default:
		ls.move(l, lockEnded)
	}
	return true
}

// orphan has the lock of a session that ended given back.
func (ls *locks) orphan(l *lock) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.move(l, lockOrphaned)
}

// freed notes that an orphan has been given back.
func (ls *locks) freed(l *lock) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l.state == lockOrphaned {
		ls.move(l, lockGone)
	}
}

// taken looks at locks that this node's replica shows since just now. epoch is that of the node's session.
func (ls *locks) taken(list []spool.Taken, epoch uint64) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, t := range list {
		if t.Node != ls.node || t.Epoch != epoch {
			continue
		}
		if l := ls.asked[t.Session]; l != nil {
			l.token, l.applied = t.Token, true
		} else if l := ls.known[t.Token]; l == nil {
			ls.move(&lock{mailbox: t.Mailbox, epoch: t.Epoch, token: t.Token, state: lockGone}, lockOrphaned)
		} else if l.applied = true; l.state == lockEnded {
			ls.move(l, lockGone)
		}
	}
}

// restored follows a snapshot, which tells of no lock how it came about: the
// whole replica is to be searched.
func (ls *locks) restored() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.search = true
	ls.forgetEnded()
	for _, l := range ls.known {
		l.applied = true
	}
	for _, l := range ls.asked {
		l.doubts = true
	}
	ls.wake()
}

// found adds what a search of the replica shows: orphans are those locks of this node's session that nobody here knows.
func (ls *locks) found(all map[string]*pb.Lock, epoch uint64) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for mailbox, one := range all {
		for _, h := range spool.Holders(one) {
			if h.Node == ls.node && h.Epoch == epoch && ls.asked[h.Session] == nil && ls.known[h.Token] == nil {
				ls.move(&lock{mailbox: mailbox, epoch: epoch, token: h.Token, state: lockGone}, lockOrphaned)
			}
		}
	}
}

// searches reports, once, that the replica is to be searched.
func (ls *locks) searches() (search bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	search, ls.search = ls.search, false
	return search
}

// searchAgain has it searched at the next time.
func (ls *locks) searchAgain() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.search = true
}

// orphans lists the locks to give back.
func (ls *locks) orphans() []*lock {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.count[lockOrphaned] == 0 {
		return nil
	}
	list := make([]*lock, 0, ls.count[lockOrphaned])
	for _, l := range ls.known {
		if l.state == lockOrphaned {
			list = append(list, l)
		}
	}
	return list
}

// broken tells the sessions whose locks have ended; an attempt whose answer is still to come has doubts.
func (ls *locks) broken(tokens []uint64, why string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, token := range tokens {
		if l := ls.known[token]; l != nil {
			ls.lose(l, why)
			continue
		}
		for _, l := range ls.asked {
			l.doubts = l.doubts || l.token == token
		}
	}
}

// loseAll tells all sessions but those of an epoch; 0: all.
func (ls *locks) loseAll(why string, but uint64) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, l := range ls.known {
		if but == 0 || l.epoch != but {
			ls.lose(l, why)
		}
	}
}

// loseOne tells one session.
func (ls *locks) loseOne(l *lock, why string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.lose(l, why)
}

// lose tells a session that its lock is lost, the first time. The lock stays held until the session ends.
func (ls *locks) lose(l *lock, why string) {
	if l.state != lockHeld || l.reason != "" {
		return
	}
	if l.reason = why; l.onLost != nil {
		go l.onLost(why) // the apply goroutine waits for no session
	}
}

// onLost has fn called on a goroutine of its own when the lock is lost, or at once where it was. A later call replaces
// fn.
func (ls *locks) onLost(l *lock, fn func(why string)) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l.onLost = fn; l.reason != "" {
		go fn(l.reason)
	}
}

// sessions lists the open sessions: those of the tokens, or all where there are none.
func (ls *locks) sessions(tokens ...uint64) (open []*maildrop) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, token := range tokens {
		if l := ls.known[token]; l != nil && l.session != nil {
			open = append(open, l.session)
		}
	}
	if len(tokens) > 0 {
		return open
	}
	for _, l := range ls.known {
		if l.session != nil {
			open = append(open, l.session)
		}
	}
	return open
}
