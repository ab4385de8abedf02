package pop3

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"time"
)

// session is what a connection knows while it is logged in, asleep or not. The
// marks of DELE and the deletions of DELI are two sets: RSET takes back the
// first, nothing the second.
type session struct {
	drop     Maildrop
	msgs     List
	user     string // as typed
	owner    string // the same user by one name
	marked   bits   // by DELE
	gone     bits   // by DELI
	fetched  bits   // by RETR, where EXPIRE is 0
	nMarked  int
	left     int // neither marked nor gone
	leftSize int64
	lastRead int // LAST: the highest number accessed
	late     []lateMessage
	index    index
	live     Live // nil: UIDs beyond the list are not served
	readOnly bool
	keeps    Retention
	delay    time.Duration
	asleep   bool // counted as a sleeper
}

// lateMessage arrived after the list was frozen and was asked for by UID.
type lateMessage struct {
	i      int
	size   int64
	uid    string
	marked bool
	gone   bool
}

// message is a message that a command has named: one in the list, or a late
// one, whose number for the client is 0.
type message struct {
	i    int // for the maildrop
	num  int // for the client
	size int64
	late *lateMessage
}

// enterMaildrop makes the connection's session a new view of a maildrop.
func (c *conn) enterMaildrop(user string, drop Maildrop) {
	info := drop.Info()
	s := &session{
		drop: drop, msgs: drop.List(), user: user, owner: cmp.Or(info.Owner, user), readOnly: info.ReadOnly,
		keeps: c.srv.cfg.Retention, delay: info.LoginDelay,
	}
	s.index.list = s.msgs
	s.count()
	if info.Retention != nil {
		s.keeps = *info.Retention
	}
	if l, ok := drop.(Live); ok && c.srv.on&LateUID != 0 {
		s.live = l
	}
	c.session, c.state = s, transaction
	c.bad, c.fails, c.idle = 0, 0, 0
	c.srv.stats.LoggedIn.Add(1)
	c.watch(drop)
}

// count sets left and leftSize by the sets.
func (s *session) count() {
	n := s.msgs.Len()
	s.left, s.leftSize = 0, 0
	for i := range n {
		if !s.marked.has(i) && !s.gone.has(i) {
			s.left++
			s.leftSize += s.msgs.Size(i)
		}
	}
}

// watch cuts the connection when the maildrop is lost.
func (c *conn) watch(drop Maildrop) {
	c.mu.Lock()
	c.watches++
	n := c.watches
	c.watching, c.locked = true, true
	c.mu.Unlock()
	drop.OnLost(func(why string) { c.cutLost(n, why) })
}

// cutLost cuts the connection unless the watch has ended meanwhile.
func (c *conn) cutLost(watch uint64, words string) {
	why, ok := losses[words]
	if !ok {
		why = reason{text: tTemporary, words: words}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watching && c.watches == watch && c.dead == nil {
		c.srv.stats.Lost.Add(1)
		c.cutLocked(why)
	}
}

// unwatch ends the watch. A release of the lock must not pass for its loss.
func (c *conn) unwatch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watching = false
}

// unlocked notes that the lock is given up.
func (c *conn) unlocked() {
	c.mu.Lock()
	c.locked = false
	ends := c.grace > 0
	c.mu.Unlock()
	c.srv.stats.LoggedIn.Add(-1)
	if ends && !c.closing {
		c.cutEnding()
	}
}

// leaveMaildrop ends the session, whatever state it is in, and deletes nothing.
func (c *conn) leaveMaildrop() {
	s := c.session
	if s == nil {
		return
	}
	c.unwatch()
	if err := s.drop.Close(); err != nil {
		c.log("closing a maildrop failed", "error", err)
	}
	if c.state == transaction {
		c.unlocked()
	}
	c.wakeUp()
	c.log("logout")
	c.session, c.state = nil, authorization
}

func (c *conn) wakeUp() {
	if c.session.asleep {
		c.session.asleep = false
		c.srv.removeSleeper(c.session.owner, c.host)
	}
}

// resolve finds the message that a command names. It has answered where ok is
// false. [UID] means that no message has that unique id; a message deleted in
// this session, or a number, gets no code.
func (c *conn) resolve(r reference) (m message, ok bool) {
	s := c.session
	switch r.kind {
	case refNumber:
		if r.n < 1 || r.n > s.msgs.Len() {
			c.err("", tNoSuch)
			return m, false
		}
		m = s.at(r.n - 1)
	case refUID:
		if m, ok = c.byUID(r.uid); !ok {
			return m, false
		}
	case refBadUID:
		c.err("UID", tNoSuchUID)
		return m, false
	default:
		c.err("", tSyntax)
		return m, false
	}
	if s.deleted(m) {
		c.err("", tDeletedBefore)
		return m, false
	}
	return m, true
}

func (c *conn) ref(arg []byte) (message, bool) {
	return c.resolve(parseReference(arg, c.srv.on&UIDParam != 0))
}

func (s *session) at(i int) message {
	return message{i: i, num: i + 1, size: s.msgs.Size(i)}
}

func (s *session) deleted(m message) bool {
	if m.late != nil {
		return m.late.marked || m.late.gone
	}
	return s.marked.has(m.i) || s.gone.has(m.i)
}

func (c *conn) byUID(uid []byte) (message, bool) {
	s := c.session
	if i := s.index.find(uid); i >= 0 {
		return s.at(i), true
	}
	for i := range s.late {
		if l := &s.late[i]; l.uid == string(uid) {
			return message{i: l.i, size: l.size, late: l}, true
		}
	}
	if s.live == nil {
		c.err("UID", tNoSuchUID)
		return message{}, false
	}
	return c.byLateUID(string(uid))
}

func (c *conn) byLateUID(uid string) (message, bool) {
	s := c.session
	i, size, err := s.live.Late(c.ctx, uid)
	switch {
	case errors.Is(err, ErrNoMessage):
		c.err("UID", tNoSuchUID)
		return message{}, false
	case err != nil:
		c.log("looking for late mail failed", "error", err)
		c.refuse(err, tTemporary)
		return message{}, false
	}
	s.late = append(s.late, lateMessage{i: i, size: size, uid: uid})
	l := &s.late[len(s.late)-1]
	return message{i: i, size: size, late: l}, true
}

func (c *conn) stat(_ []byte) {
	line := append(c.line(), "+OK "...)
	line = strconv.AppendInt(line, int64(c.left), 10)
	line = append(line, ' ')
	c.say(strconv.AppendInt(line, c.leftSize, 10))
}

// longest line of LIST and UIDL: two numbers, or a number and a unique id
const listLine = 128

// list and uidl write their lines straight into the output.
func (c *conn) list(arg []byte) {
	if len(arg) > 0 {
		if m, ok := c.ref(arg); ok {
			line := strconv.AppendInt(append(c.line(), "+OK "...), int64(m.num), 10)
			c.say(strconv.AppendInt(append(line, ' '), m.size, 10))
		}
		return
	}
	c.partial = true
	c.ok(tMessages, int64(c.left), c.leftSize)
	c.each(func(line []byte, i int) []byte { return strconv.AppendInt(line, c.msgs.Size(i), 10) })
}

func (c *conn) uidl(arg []byte) {
	if len(arg) > 0 {
		if m, ok := c.ref(arg); ok {
			line := strconv.AppendInt(append(c.line(), "+OK "...), int64(m.num), 10)
			c.say(c.appendUIDOf(append(line, ' '), m))
		}
		return
	}
	c.partial = true
	c.ok(tUIDs)
	c.each(func(line []byte, i int) []byte { return c.msgs.AppendUID(line, i) })
}

func (c *conn) appendUIDOf(line []byte, m message) []byte {
	if m.late != nil {
		return append(line, m.late.uid...)
	}
	return c.msgs.AppendUID(line, m.i)
}

// each writes a line for every message that is left, and the end of the reply.
func (c *conn) each(add func(line []byte, i int) []byte) {
	s := c.session
	for i := range s.msgs.Len() {
		if s.marked.has(i) || s.gone.has(i) {
			continue
		}
		if _, err := c.free(listLine); err != nil {
			return
		}
		line := append(strconv.AppendInt(c.out, int64(i+1), 10), ' ')
		c.say(add(line, i))
	}
	c.dot()
}

func (c *conn) retr(arg []byte) {
	m, ok := c.ref(arg)
	if !ok {
		return
	}
	s := c.session
	if !c.send(m, nil) {
		return
	}
	s.read(m)
	if s.keeps.Announce && !s.keeps.Never && s.keeps.Days == 0 && m.late == nil && !s.readOnly {
		s.fetched.set(m.i, s.msgs.Len())
	}
	c.srv.stats.Retrieved.Add(1)
	c.srv.stats.Octets.Add(uint64(c.stuff.count))
}

func (c *conn) top(arg []byte) {
	ref, lines, ok := parseTop(arg, c.srv.on&UIDParam != 0)
	if !ok {
		c.err("", tSyntax)
		return
	}
	if m, ok := c.resolve(ref); ok {
		c.send(m, &topper{left: lines})
	}
}

// send answers RETR and TOP. If a message breaks off in the middle nothing
// can be said any more but by closing the connection without the final dot.
func (c *conn) send(m message, cut *topper) bool {
	body, err := c.drop.Open(c.ctx, m.i)
	if err != nil {
		if !errors.Is(err, ErrNoMessage) {
			c.log("opening a message failed", "message", m.num, "error", err)
		}
		c.refuse(err, tTemporary)
		return false
	}
	defer body.Close()
	c.partial = true
	if cut == nil {
		c.ok(tOctets, m.size)
	} else {
		c.ok(tTop)
	}
	c.stuff.reset(c, cut)
	if err := c.stuff.copyFrom(c, body); err != nil {
		c.broken(m, err)
		return false
	}
	if c.stuff.finish() != nil {
		return false
	}
	c.partial = false
	if cut == nil && c.stuff.count != m.size {
		c.log("a message has not the size that was told", "message", m.num, "size", m.size, "sent", c.stuff.count)
	}
	return true
}

func (c *conn) broken(m message, err error) {
	c.closing = true
	if _, ok := err.(errShort); ok {
		c.log("reading a message failed", "message", m.num, "error", err)
		_ = c.flush()
	}
	if c.outErr == nil {
		c.outErr = err
	}
}

func (s *session) read(m message) {
	if m.num > s.lastRead {
		s.lastRead = m.num
	}
}

func (c *conn) dele(arg []byte) {
	m, ok := c.deletable(arg)
	if !ok {
		return
	}
	s := c.session
	if m.late != nil {
		m.late.marked = true
	} else {
		s.marked.set(m.i, s.msgs.Len())
		s.left--
		s.leftSize -= m.size
	}
	s.nMarked++
	s.read(m)
	c.ok(tDeleted, int64(m.num))
}

func (c *conn) deletable(arg []byte) (m message, ok bool) {
	if c.readOnly {
		c.err("READ-ONLY", tReadOnly)
		return m, false
	}
	return c.ref(arg)
}

// deli deletes one message for good: +OK means that it is done. The other
// messages keep their numbers.
func (c *conn) deli(arg []byte) {
	m, ok := c.deletable(arg)
	if !ok {
		return
	}
	s := c.session
	if err := c.commit([]int{m.i}, false); err != nil {
		c.uncommitted(err)
		return
	}
	if m.late != nil {
		m.late.gone = true
	} else {
		s.gone.set(m.i, s.msgs.Len())
		s.left--
		s.leftSize -= m.size
	}
	s.read(m)
	c.ok(tGone, int64(m.num))
}

// rset takes back the marks, and LAST with them.
func (c *conn) rset(_ []byte) {
	s := c.session
	s.marked, s.nMarked, s.lastRead = nil, 0, 0
	for i := range s.late {
		s.late[i].marked = false
	}
	s.count()
	c.ok(tReset, int64(s.left), s.leftSize)
}

func (c *conn) last(_ []byte) {
	c.say(strconv.AppendInt(append(c.line(), "+OK "...), int64(c.lastRead), 10))
}

func (c *conn) noop(_ []byte) { c.ok(tNoop) }

// deletions returns the numbers that a commit has to delete, ascending: what is
// marked, and what was fetched where the server keeps nothing.
func (s *session) deletions() []int {
	if s.nMarked == 0 && s.fetched == nil {
		return nil
	}
	list := make([]int, 0, s.nMarked)
	for i := range s.msgs.Len() {
		if (s.marked.has(i) || s.fetched.has(i)) && !s.gone.has(i) {
			list = append(list, i)
		}
	}
	return append(list, s.lateDeletions()...)
}

func (s *session) lateDeletions() []int {
	var list []int
	for _, l := range s.late {
		if l.marked && !l.gone {
			list = append(list, l.i)
		}
	}
	slices.Sort(list)
	return list
}

// commit has the maildrop delete messages. The client that goes away meanwhile,
// or a server that stops, does not interrupt it; only time does.
func (c *conn) commit(list []int, release bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), c.srv.cfg.CommitWithin)
	defer cancel()
	err := c.drop.Commit(ctx, list, release)
	if err != nil {
		c.srv.stats.CommitErrors.Add(1)
		c.log("deletions not committed", "messages", len(list), "error", err)
		c.refused(Refusal{Stage: "commit", Reason: ReasonUncommitted, Messages: len(list), Cause: err})
		return err
	}
	c.srv.stats.Deleted.Add(uint64(len(list)))
	if len(list) > 0 {
		c.log("deleted", "messages", len(list))
	}
	return nil
}

// uncommitted answers a commit that failed. If it is not known what became of
// it the session has no ground to stand on any more, neither its marks nor its
// lock, and ends.
func (c *conn) uncommitted(err error) {
	if errors.Is(err, ErrUncertain) {
		c.closing = true
		c.err("SYS/TEMP", tUncertain)
		return
	}
	c.refuse(err, tUnsaved)
}

// update commits the session's deletions and gives up the lock, in one step. It
// has answered where ok is false; the session then goes on unless it is ending.
func (c *conn) update() (deleted int, ok bool) {
	s := c.session
	list := s.deletions()
	c.unwatch()
	if err := c.commit(list, true); err != nil {
		c.uncommitted(err)
		if !c.closing {
			c.watch(s.drop)
		}
		return 0, false
	}
	return len(list), true
}

// quit answers after the commit, never before (RFC 1939 §6). The lock is given up and
// the connection closed, whatever comes of the commit.
func (c *conn) quit(_ []byte) {
	c.closing = true
	if c.state != transaction {
		c.ok(tBye)
		return
	}
	if n, ok := c.update(); !ok {
		return
	} else if n > 0 {
		c.ok(tByeDeleted, int64(n))
	} else {
		c.ok(tBye)
	}
}

// slee commits and releases, but keeps the connection and the user.
func (c *conn) slee(_ []byte) {
	s := c.session
	if !c.srv.addSleeper(s.owner, c.host, c.exempt()) {
		c.err("", tSleepers)
		return
	}
	s.asleep = true
	n, ok := c.update()
	if !ok {
		c.wakeUp()
		return
	}
	c.state = sleeping
	s.marked, s.gone, s.fetched, s.late, s.live = nil, nil, nil, nil, nil
	c.unlocked()
	c.ok(tSlept, int64(n))
}

// wake takes the lock again. ACTIVITY compares the fresh list with that of the
// session which SLEE ended.
func (c *conn) wake(_ []byte) {
	old := c.session
	ctx, cancel := c.loginTime()
	drop, err := old.drop.Wake(ctx)
	cancel()
	if err != nil {
		c.log("wake failed", "error", err)
		c.refuse(err, tTemporary)
		return
	}
	c.wakeUp()
	c.enterMaildrop(old.user, drop)
	if arrived(old.msgs, c.msgs) {
		c.okCode("ACTIVITY/NEW", tAwakeNew, int64(c.left), c.leftSize)
	} else {
		c.okCode("ACTIVITY/NONE", tAwakeNone, int64(c.left), c.leftSize)
	}
}

// qaut is QUIT that stays: back to AUTHORIZATION, for whoever comes next.
func (c *conn) qaut(_ []byte) {
	n, ok := c.update()
	if !ok {
		return
	}
	c.ok(tLoggedOut, int64(n))
	c.leaveMaildrop()
}
