package maildrop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica"
	"relay/pop3"
)

// slot is one message in a frozen list: 16 octets.
type slot struct {
	uid  uint64
	size uint64
}

// maildrop is one mailbox under the lock of one POP3 session. It meets
// pop3.Maildrop and Live.
//
// # Maildrops and logins
//
// A POP3 session is two commits: TakeLock at login, Remove with unlock at QUIT, or an Unlock where
// nothing is deleted. Logins within two seconds of one that a lock refused cost none:
// the replica is asked, and asked again once it is surely up to date. Each attempt to lock has a name
// of its own, so that no session takes another's lock for a repetition of its own command.
//
// A follower learns with the next group, or the next heartbeat, that its lock is committed; the answer
// to TakeLock comes sooner, and tells what the mailbox holds under the lock (box, next uid, number of
// messages: the same three mean the same messages, as uids only ascend). A login waits for the lock to
// be applied here only where this replica shows another mailbox than that, so what was accepted or
// deleted before the lock was taken is always seen. The maildrop is registered under its token before
// its list is read from one state of the store: a state that has seen the lock taken must still have
// it, and one that has not yet will tell of its end by changed, so a lock that is broken is noticed by
// one or the other, whenever that happens. A session can be over before its lock is seen here; it is
// remembered (lockEnded) until then, or the lock would be taken for an orphan. The lists that were read last
// are kept by what was in the mailbox (lists, 4 MiB at most): a login to a mailbox in which nothing
// has changed since reads no store. A lock that is ended while the answer to its TakeLock is on its
// way leaves doubts, and with those the store is read. Rejected: the index of the mailbox's last
// change, which would be one more field to write with every message.
//
// A lock can be left without a session: the answer to a TakeLock got lost, an Unlock could not be
// said, or a frame that was given up reached a leader late. The node lives on and renews its session,
// so the lock would never end. So every lock that is taken in this node's name is compared with the
// attempts and sessions it knows (locks.taken, on the apply goroutine), and Keep gives back what belongs to
// none; after a snapshot it searches all. A Remove whose outcome is unknown ends its session
// (ErrUncertain), whose Unlock then fences a late copy of it.
//
// A [[folder]] of the configuration is shown in place of an account's mailbox (package folder): the
// lock, the password and all policies are the account's, the list and the octets are the folder's, and
// nothing can be deleted. Mail for the account stays in its mailbox, out of sight.
//
// The words of CAPA before login (LOGIN-DELAY n USER, EXPIRE n USER) are the strictest of all
// accounts. It is read again by Keep when the directory has changed, at most every ten seconds.
//
// Failed logins are counted per network in the replica. A node adds what it has not told yet to what
// it reads there, and tells it in one Tally about once a second; a Tally that surely failed is told
// again, one that perhaps was applied is not. Rejected: a command for each failure, which would let a
// guesser write to every disk.
//
// SCRAM keys are made whenever a password is seen in the clear: when it is set, or at a login that
// proves it; there a bcrypt hash becomes argon2id as well, by a PutAccount that compares
// (expect_changed). They are those of the prepared password (SASLprep); older ones heal at such a
// login. SCRAM is announced while every account that can log in has keys (scramUse), or where a
// listener names it. Users that are not there get keys made of the cluster's secret, the same on all
// nodes (of the CA's key while the cluster is of version 1).
type maildrop struct {
	drops   *Service
	account *pb.Account
	peer    pop3.Peer
	lock    *lock
	box     uint64
	list    []slot   // shared with other sessions of the mailbox: never written
	kept    *kept    // of the list, as shared; nil: none
	late    []uint64 // uids that came after the list and were asked for
	prefix  string   // of UIDs: the box, so that a UID is never given twice
	removes uint64   // numbers the Removes under this lock
}

// errLockGone says that the lock ended before its session began.
var errLockGone = errors.New("the lock was taken away again")

// freeze makes the list as it was when the lock was taken, or as it is later.
// taken is the answer to TakeLock, which tells the contents of the mailbox then:
// where they are those of a list that was read before it serves again, and a node
// that is behind, but not in this mailbox, need not wait for its own lock. With
// doubts the lock may have ended before the session was registered; where it ends
// later the session is cut by changed.
func (m *maildrop) freeze(ctx context.Context, taken *pb.Result, doubts bool) error {
	if !doubts {
		if one, ok := m.drops.lists.find(m.account.Address, taken.Mailbox); ok {
			m.show(taken.Mailbox, one)
			return nil
		}
	}
	for {
		behind := false
		err := m.drops.replica.Frozen(func(v spool.View, index uint64) (err error) {
			behind, err = m.read(v, index, taken)
			return err
		})
		if err != nil || !behind {
			return err
		}
		if err := m.drops.replica.WaitApplied(ctx, taken.Index); err != nil {
			return err
		}
	}
}

// read makes the list from one state of the store, or reports that it is one in
// which the mailbox has other contents than under the lock.
func (m *maildrop) read(v spool.View, index uint64, taken *pb.Result) (behind bool, err error) {
	if index >= m.lock.token {
		if err := m.stillHeld(v); err != nil {
			return false, err
		}
	}
	box, ok, err := v.Mailbox(m.account.Address)
	if err != nil {
		return false, err
	}
	if index < taken.Index && !spool.SameContents(taken.Mailbox, box) {
		return true, nil
	}
	if !ok {
		return false, fmt.Errorf("mailbox %s is gone", m.account.Address)
	}
	one := listed{list: make([]slot, 0, box.Messages)}
	err = v.Entries(box.Box, 0, func(uid uint64, e *pb.Entry) bool {
		one.list = append(one.list, slot{uid, e.Size})
		if e.Uidl != "" {
			one.kept = one.kept.with(uid, e.Uidl)
		}
		return true
	})
	if err == nil {
		m.show(box, one)
		m.drops.lists.keep(m.account.Address, box, one)
	}
	return false, err
}

func (m *maildrop) show(box *pb.Mailbox, one listed) {
	m.box, m.prefix, m.list, m.kept = box.Box, spool.UidlPrefix(box.Box), one.list, one.kept
}

// stillHeld reports errLockGone where a state that has seen the lock taken does
// not know it any more.
func (m *maildrop) stillHeld(v spool.View) error {
	lock, _, err := v.Lock(m.account.Address)
	if err == nil && !slices.ContainsFunc(spool.Holders(lock), func(h *pb.Lock) bool { return h.Token == m.lock.token }) {
		err = errLockGone
	}
	return err
}

// List implements pop3.Maildrop.
func (m *maildrop) List() pop3.List { return frozenList{m} }

// frozenList shows a maildrop's slots. UIDs are made on demand.
type frozenList struct{ m *maildrop }

func (l frozenList) Len() int         { return len(l.m.list) }
func (l frozenList) Size(i int) int64 { return int64(l.m.list[i].size) }
func (l frozenList) AppendUID(b []byte, i int) []byte {
	uid := l.m.list[i].uid
	if text := l.m.kept.text(uid); text != "" {
		return append(b, text...)
	}
	return strconv.AppendUint(append(b, l.m.prefix...), uid, 36)
}

// Find is the search that the order of UIDs allows; without it a session would
// build a table.
func (l frozenList) Find(text string) (int, bool) {
	uid, ok := l.m.uid(text)
	if !ok {
		return 0, false
	}
	return slices.BinarySearchFunc(l.m.list, uid, func(s slot, uid uint64) int {
		switch {
		case s.uid < uid:
			return -1
		case s.uid > uid:
			return 1
		}
		return 0
	})
}

// uid reads a UID of this mailbox in the one form in which it is shown.
func (m *maildrop) uid(text string) (uint64, bool) {
	if uid, ok := m.kept.uid(text); ok {
		return uid, true
	}
	uid, ok := m.made(text)
	return uid, ok && m.kept.text(uid) == ""
}

// made reads a UID that was made of box and uid.
func (m *maildrop) made(text string) (uint64, bool) {
	digits, ok := strings.CutPrefix(text, m.prefix)
	if !ok {
		return 0, false
	}
	uid, err := strconv.ParseUint(digits, 36, 64)
	var buf [13]byte
	return uid, err == nil && string(strconv.AppendUint(buf[:0], uid, 36)) == digits
}

// number is the uid of message i of the list, or of a late one behind it.
func (m *maildrop) number(i int) uint64 {
	if i < len(m.list) {
		return m.list[i].uid
	}
	return m.late[i-len(m.list)]
}

// Late implements pop3.Live.
func (m *maildrop) Late(_ context.Context, text string) (int, int64, error) {
	uid, ok := m.uid(text)
	var entry *pb.Entry
	err := m.drops.replica.View(func(v spool.View) (err error) {
		if !ok {
			if uid, ok, err = v.Uidl(m.box, text); err != nil || !ok {
				return err
			}
		}
		entry, ok, err = v.Entry(m.box, uid)
		ok = ok && (entry.Uidl == "" || entry.Uidl == text)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	if !ok {
		return 0, 0, pop3.ErrNoMessage
	}
	at := slices.Index(m.late, uid)
	if at < 0 {
		at, m.late = len(m.late), append(m.late, uid)
	}
	return len(m.list) + at, int64(entry.Size), nil
}

// Open implements pop3.Maildrop. Of a shared mailbox a message may go while it is
// looked for, piece by piece.
func (m *maildrop) Open(_ context.Context, i int) (io.ReadCloser, error) {
	uid := m.number(i)
	body, err := m.open(uid)
	if err != nil && !errors.Is(err, pop3.ErrNoMessage) && !m.has(uid) {
		return nil, fmt.Errorf("message %d of %s went: %w", uid, m.account.Address, pop3.ErrNoMessage)
	}
	return body, err
}

// has reports whether a message is in the mailbox now, as far as that can be told.
func (m *maildrop) has(uid uint64) bool {
	there := true
	err := m.drops.replica.View(func(v spool.View) (err error) {
		_, there, err = v.Entry(m.box, uid)
		return err
	})
	return there || err != nil
}

func (m *maildrop) open(uid uint64) (io.ReadCloser, error) {
	var id spool.ID
	var header []byte
	var chunks uint32
	var missing bool
	err := m.drops.replica.View(func(v spool.View) error {
		entry := v.OwnEntry
		if m.account.Shared {
			entry = v.Entry
		}
		e, ok, err := entry(m.box, uid)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("message %d of %s: %w", uid, m.account.Address, pop3.ErrNoMessage)
		}
		copy(id[:], e.Id)
		header = e.Header
		refs, ok, err := v.Refs(id)
		if err == nil && !ok {
			err = fmt.Errorf("message %s has no body", id)
		}
		chunks = refs.GetChunks()
		missing = e.Size > refs.GetBytes()+uint64(len(header))
		return err
	})
	if err != nil {
		return nil, err
	}
	body, err := m.drops.replica.OpenBody(id, chunks, header)
	if err == nil && missing {
		body = endedBody{io.MultiReader(body, strings.NewReader("\r\n")), body}
	}
	return body, err
}

// endedBody is a body whose last line was without its end, and has one now.
type endedBody struct {
	io.Reader
	io.Closer
}

// Commit implements pop3.Maildrop: one command removes all, or none. If a single
// message was wanted, and another session of a shared mailbox has taken it, it is
// ErrNoMessage: of all who delete a message at once one is told so.
func (m *maildrop) Commit(ctx context.Context, deleted []int, release bool) error {
	var err error
	if len(deleted) == 0 && release {
		err = m.drops.unlock(ctx, m.lock)
	} else {
		err = m.remove(ctx, deleted, release)
	}
	if err != nil {
		if errors.Is(err, cluster.ErrUnknown) {
			err = fmt.Errorf("%w: %w", pop3.ErrUncertain, err)
		}
		return err
	}
	if release {
		m.drops.locks.end(m.lock)
	}
	return nil
}

// remove takes messages out of the mailbox, and with release gives up the lock.
func (m *maildrop) remove(ctx context.Context, deleted []int, release bool) error {
	uids := make([]uint64, len(deleted))
	for n, i := range deleted {
		uids[n] = m.number(i)
	}
	slices.Sort(uids) // late messages may have been asked for in any order
	m.removes++
	remove := &pb.Remove{
		Mailbox: m.account.Address, Epoch: m.lock.epoch, Token: m.lock.token, Unlock: release, Node: m.drops.node,
		Seq: m.removes,
	}
	if remove.Ranges = spool.AppendRanges(nil, uids); len(remove.Ranges) > spool.MaxInline {
		return fmt.Errorf("%d deletions do not fit one step, delete fewer in a session: %w", len(uids), pop3.ErrPermanent)
	}
	ids := m.removing(uids)
	res, err := replica.Propose(ctx, m.drops.replica, spool.KindRemove, remove)
	if err != nil {
		return err
	}
	switch res.Code {
	case pb.Code_OK, pb.Code_DUPLICATE:
	case pb.Code_STALE:
		// The lock is gone. That may also be the answer to a repetition, whose
		// first attempt was done before.
		return fmt.Errorf("%w: %s", pop3.ErrUncertain, res.Text)
	default:
		return fmt.Errorf("remove refused: %s %s", res.Code, res.Text)
	}
	if !release && len(uids) == 1 && len(res.Missing) > 0 {
		return pop3.ErrNoMessage
	}
	m.logRemoved(ids, len(uids))
	return nil
}

// Close implements pop3.Maildrop. The lock goes through the log like any
// other change; where that fails it is tried until it is gone.
func (m *maildrop) Close() error {
	if !m.drops.locks.end(m.lock) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := m.drops.unlock(ctx, m.lock)
	if err != nil {
		m.drops.locks.orphan(m.lock)
	}
	return err
}

// OnLost implements pop3.Maildrop.
func (m *maildrop) OnLost(fn func(why string)) { m.drops.locks.onLost(m.lock, fn) }

// Wake implements pop3.Maildrop.
func (m *maildrop) Wake(ctx context.Context) (pop3.Maildrop, error) {
	if err := m.drops.mayAct(); err != nil {
		return nil, err
	}
	account, err := m.drops.logins.Account(ctx, m.account.Address, func(a *pb.Account) bool {
		return !a.Disabled && a.Password == m.account.Password
	})
	if err != nil {
		return nil, err
	}
	if account == nil {
		return nil, pop3.ErrAuth
	}
	return m.drops.enter(ctx, account, &m.peer, true)
}

// Info implements pop3.Maildrop.
func (m *maildrop) Info() pop3.Info {
	days := retentionDays(m.account)
	return pop3.Info{
		Owner: m.account.Address, Retention: &pop3.Retention{Announce: days > 0, Days: int(days)},
		LoginDelay: time.Duration(m.account.LoginDelayMs) * time.Millisecond,
	}
}
