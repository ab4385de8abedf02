package queue

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// unit is one job from the moment a worker takes it until its verdicts are
// committed.
type unit struct {
	id       ID
	ns       []uint32 // recipients, and
	slots    []int32  // their entries
	n        int32    // destination
	d        *dest
	began    int64
	unproven bool
	over     bool // from the overdue list
	check    bool // and the destination is down: look only, do not try
	lease    context.Context

	job      *Job
	verdicts []Verdict
	at       []int32 // the entry of each verdict
	notices  []Notice
	size     int
}

// hold remembers a worker's last destination: it stays there for a moment, so
// that the agent finds its connection open.
type hold struct {
	d     *dest
	n     int32
	since time.Time
}

const stay = time.Second

func (m *Manager) worker() {
	var h hold
	for {
		u := m.take(&h)
		if u == nil {
			return
		}
		m.attempt(u)
	}
}

// take waits for a job; nil: the manager stops.
func (m *Manager) take(h *hold) *unit {
	m.mu.Lock()
	defer m.unlock()
	for !m.closed {
		if m.inRings > 0 && m.mayStart() {
			if u := m.next(h); u != nil {
				return u
			}
		}
		m.idle++
		m.work.Wait()
		m.idle--
	}
	return nil
}

// mayStart is the fence: no attempt starts without the right to act, and none
// while verdicts pile up.
func (m *Manager) mayStart() bool {
	if !m.may || m.unsettled >= m.limits.Unsettled {
		return false
	}
	if m.live() != nil {
		m.stopActing()
		return false
	}
	return true
}

func (m *Manager) next(h *hold) *unit {
	t := m.now()
	now := t.UnixNano()
	n, held := none, t.Sub(h.since)
	fresh := 0 <= held && held < stay // the clock may step back
	if h.d != nil && fresh && m.dests.all[h.n] == h.d && h.d.ring >= 0 && m.normal(h.d, now) {
		n = h.n
	} else if n = m.pick(); n == none {
		return nil
	}
	for m.normal(m.dests.all[n], now) && m.wide(m.dests.all[n]) != nil {
		m.replace(n, now) // which takes it out of its ring
		if n = m.pick(); n == none {
			return nil
		}
	}
	d := m.dests.all[n]
	if h.d != d || !fresh {
		*h = hold{d: d, n: n, since: t}
	}
	u := m.cut(n, now)
	m.replace(n, now)
	return u
}

// cut makes a unit of the first entries of a destination's list that belong to
// one message.
func (m *Manager) cut(n int32, now int64) *unit {
	d := m.dests.all[n]
	l := m.from(d, now)
	if d.ctl == nil {
		d.ctl = &control{window: float64(m.limits.Initial)}
	}
	over := l == &d.lists[classOverdue]
	u := &unit{n: n, d: d, id: m.table.at(l.head).id, lease: m.lease, over: over, check: over && d.down(now),
		unproven: !d.ctl.proven, began: now}
	for l.head != none && len(u.ns) < m.limits.Recipients {
		slot := l.head
		e := m.table.at(slot)
		if e.id != u.id {
			break
		}
		m.delist(slot)
		m.set(e, active)
		u.ns, u.slots = append(u.ns, e.n), append(u.slots, slot)
	}
	d.ctl.active++
	if u.unproven {
		m.unproven++
		s := m.spreads[u.id]
		if s == nil {
			s = &spread{}
			m.spreads[u.id] = s
		}
		s.jobs++
	}
	if over {
		d.ctl.overdue = true
	}
	m.totals.Jobs++
	return u
}

// attempt tries a unit and hands its verdicts to the settlers.
func (m *Manager) attempt(u *unit) {
	job, err := m.conf.Spool.Load(u.lease, u.id, u.ns)
	if err != nil || len(job.Recipients) == 0 {
		m.unloaded(u, err)
		return
	}
	u.job = job
	job.Domain, job.Route = u.d.place()
	job.Live = m.live
	switch {
	case job.DeliverBy.late(m.now()):
		m.giveUp(u)
		return
	case u.check:
		m.settleExpired(u)
		return
	}
	verdicts := m.deliver(u)
	m.judge(u, verdicts)
	m.done(u)
}

const reload = 30 * time.Second

// unloaded ends a unit that could not be loaded.
func (m *Manager) unloaded(u *unit, err error) {
	keep := err != nil && !errors.Is(err, ErrGone)
	wait := reload
	if keep && u.lease.Err() != nil {
		wait = 0
	} else if keep {
		m.log.Warn("queue: a message could not be read, trying later", zap.Stringer("id", u.id), zap.Error(err),
			zap.Duration("in", reload))
	}
	m.mu.Lock()
	defer m.unlock()
	now := m.now().UnixNano()
	for _, slot := range u.slots {
		if !keep {
			m.refused(slot)
		}
		m.finish(slot, keep, now+int64(wait), m.table.at(slot).attempts, now)
	}
	m.release(u, nothing, "", now)
}

// deliver calls the agent. An agent that panics must not take the node with it:
// the message would go on to kill the node that adopts it.
func (m *Manager) deliver(u *unit) (verdicts []Verdict) {
	defer func() {
		if p := recover(); p != nil {
			m.log.Error("queue: the agent panicked", zap.Stringer("id", u.id), zap.String("panic", fmt.Sprint(p)),
				zap.ByteString("stack", debug.Stack()))
			verdicts = nil
		}
	}()
	return m.conf.Agent.Deliver(u.lease, u.job)
}

// judge gives every recipient of the job exactly one verdict and decides what
// becomes of those that are deferred.
func (m *Manager) judge(u *unit, verdicts []Verdict) {
	job, p, now := u.job, m.policy.Load(), m.now()
	rnd := m.conf.Rand() // one for all, so that they stay together
	u.verdicts = make([]Verdict, 0, len(job.Recipients))
	u.at = make([]int32, 0, len(job.Recipients))
	for i := range job.Recipients {
		r := &job.Recipients[i]
		k := slices.Index(u.ns, r.N)
		if k < 0 {
			continue // not asked for
		}
		v := pickVerdict(verdicts, i, r.N)
		v.Ref, v.Attempt = Ref{ID: u.id, Recipient: r.N}, r.Attempts+1
		v.Reply, v.Host, v.TLS = bound(v.Reply), bound(v.Host), bound(v.TLS)
		v.DelayTold = r.DelayTold
		v.At = m.ofAgent(v.At, now)
		if v.Outcome == Deferred && !v.Untried {
			m.again(&v, job, p, now, rnd)
		}
		u.verdicts, u.at = append(u.verdicts, v), append(u.at, u.slots[k])
	}
	m.report(u, p, now)
}

// ofAgent is an instant of the agent's, which goes by the machine's clock, on the
// manager's.
func (m *Manager) ofAgent(at, now time.Time) time.Time {
	if at.IsZero() {
		return now
	}
	return now.Add(-max(time.Since(at), 0))
}

// pickVerdict finds the verdict for recipient n, which is most likely the i-th.
// None: our own fault, so it is deferred.
func pickVerdict(verdicts []Verdict, i int, n uint32) Verdict {
	if i >= len(verdicts) || verdicts[i].Recipient != n {
		i = slices.IndexFunc(verdicts, func(v Verdict) bool { return v.Recipient == n })
	}
	if i < 0 || verdicts[i].Outcome < Delivered || verdicts[i].Outcome > Expired {
		return Verdict{Outcome: Deferred, Reply: "4.3.0 the delivery agent failed"}
	}
	return verdicts[i]
}

// maxReply bounds a reply, so that a Settle stays small.
const maxReply = 512

func bound(s string) string {
	if len(s) > maxReply {
		s = strings.ToValidUTF8(s[:maxReply], "")
	}
	return s
}

// expires is when a job is given up.
func (j *Job) expires(p *policy) time.Time {
	if j.Expires.IsZero() {
		return j.Created.Add(p.Lifetime)
	}
	return j.Expires
}

// again decides when a deferred recipient is due next, or that it has expired.
func (m *Manager) again(v *Verdict, job *Job, p *policy, now time.Time, rnd float64) {
	end := job.expires(p)
	wait, giveUp := p.schedule(int(v.Attempt), now.Sub(job.Created), rnd)
	if !job.Expires.IsZero() {
		giveUp = false // its own end counts alone
	}
	if giveUp || !now.Before(end) {
		if v.Outcome = Expired; m.ageing() {
			return
		}
		v.Outcome = Deferred
		wait, _ = p.schedule(int(v.Attempt), 0, rnd)
	}
	if wait <= 0 {
		wait = p.Max
	}
	next := now.Add(wait)
	if next.After(end) && now.Before(end) {
		next = end // one last try
	}
	if by := job.DeliverBy; by != nil && !by.Return && now.Before(by.Until) && next.After(by.Until) {
		next = by.Until // to tell the sender in time
	}
	v.Next = time.UnixMilli(next.UnixMilli() + 1) // the spool counts milliseconds
}

// unsure is the reply of a recipient that is not tried because its time may be
// over, and not given up because that is not certain.
const unsure = "4.3.2 not tried: the clocks of the cluster do not agree, or were set just now"

// giveUp ends a unit whose message must not be delivered after its time
// (RFC 2852 §4.1.4), without an attempt.
func (m *Manager) giveUp(u *unit) {
	p, now, ageing := m.policy.Load(), m.now(), m.ageing()
	for i := range u.job.Recipients {
		r := &u.job.Recipients[i]
		k := slices.Index(u.ns, r.N)
		if k < 0 {
			continue
		}
		reply := "5.4.7 it could not be delivered in the time that its sender set"
		if r.LastReply != "" {
			reply += "; last: " + r.LastReply
		}
		v := Verdict{
			Ref: Ref{ID: u.id, Recipient: r.N}, Attempt: r.Attempts + 1, At: now, DelayTold: r.DelayTold, Outcome: Expired,
			Reply: bound(reply),
		}
		if !ageing {
			v.Reply = bound(unsure)
			m.again(&v, u.job, p, now, m.conf.Rand())
		}
		u.verdicts, u.at = append(u.verdicts, v), append(u.at, u.slots[k])
	}
	u.check = true // it says nothing of the host
	m.report(u, p, now)
	m.done(u)
}

// settleExpired settles what must not wait in silence while its destination is down,
// without an attempt: recipients past their time expire, senders of late ones
// are told.
func (m *Manager) settleExpired(u *unit) {
	p, now, ageing := m.policy.Load(), m.now(), m.ageing()
	m.mu.Lock()
	last, until := u.d.ctl.reply, time.Unix(0, u.d.ctl.until)
	m.mu.Unlock()
	end := u.job.expires(p)
	for i := range u.job.Recipients {
		r := &u.job.Recipients[i]
		k := slices.Index(u.ns, r.N)
		if k < 0 {
			continue
		}
		v := Verdict{Ref: Ref{ID: u.id, Recipient: r.N}, Attempt: r.Attempts + 1, At: now, DelayTold: r.DelayTold,
			Reply: bound("4.4.1 not tried: the destination does not answer: " + last)}
		switch {
		case ageing && !now.Before(end):
			v.Outcome = Expired
		case m.tellDelay(u.job, r, p, now):
			v.Outcome, v.Next = Deferred, time.UnixMilli(until.UnixMilli()+1)
		default:
			v.Outcome, v.Untried = Deferred, true
		}
		u.verdicts, u.at = append(u.verdicts, v), append(u.at, u.slots[k])
	}
	m.report(u, p, now)
	m.done(u)
}

// done frees a unit's place at its destination and hands its verdicts to the
// settlers. Entries without a verdict that counts go back.
func (m *Manager) done(u *unit) {
	w, reply := heard(u.verdicts)
	m.mu.Lock()
	defer m.unlock()
	now := m.now().UnixNano()
	m.putBack(u, now)
	if u.check {
		w = nothing
	}
	m.release(u, w, reply, now)
	if len(u.verdicts) == 0 {
		return
	}
	u.measure()
	m.pending = append(m.pending, u)
	m.unsettled += len(u.verdicts)
	m.settles.Signal()
}

// putBack returns entries that were not tried to their lists, and forgets those
// that the spool did not load.
func (m *Manager) putBack(u *unit, now int64) {
	if len(u.verdicts) < len(u.slots) {
		for _, slot := range u.slots {
			if !slices.Contains(u.at, slot) {
				m.refused(slot)
				m.finish(slot, false, 0, 0, now)
			}
		}
	}
	kept := 0
	for i, v := range u.verdicts {
		if !v.Untried {
			u.verdicts[kept], u.at[kept] = v, u.at[i]
			kept++
			continue
		}
		e := m.table.at(u.at[i])
		if u.check {
			e.flags |= flagTold
		}
		// At the end the next owner tries it; after a lost lease, we or it.
		m.finish(u.at[i], true, now, e.attempts, now)
	}
	u.verdicts, u.at = u.verdicts[:kept], u.at[:kept]
}

// heard is what the verdicts say of the host. One that answered anything about
// a recipient is alive.
func heard(verdicts []Verdict) (word, string) {
	w, reply := nothing, ""
	for i := range verdicts {
		v := &verdicts[i]
		switch {
		case v.Untried:
		case !v.NextHop || v.Outcome == Delivered:
			return good, ""
		default:
			w, reply = bad, v.Reply
		}
	}
	return w, reply
}

// release gives a unit's place at its destination back. It needs m.mu.
func (m *Manager) release(u *unit, w word, reply string, now int64) {
	c := u.d.ctl
	c.active--
	if u.over {
		c.overdue = false
	}
	m.learn(u.n, w, reply, now)
	if now-u.began > int64(slowJob) {
		c.proven = false // it answers, but holds workers like one that does not
	}
	if u.unproven {
		m.unproven--
		m.unblock(u.id, now)
	}
	m.replace(u.n, now)
	m.retire(u.n)
}

// refused prepares to forget an active entry because the spool would not load
// it or take its verdict. If a scan has reported the entry meanwhile, and it
// was passed over because it was active, it may be ours by now, as after this
// node has lost its right to act and got it again: only another scan can tell.
// It needs m.mu.
func (m *Manager) refused(slot int32) {
	if m.table.at(slot).flags&flagScanned != 0 {
		m.Reset()
	}
}

// finish ends the active state of an entry: back to waiting until due, or, with
// keep false, away. What Add and Drop said meanwhile has precedence where it is
// newer, which the number of attempts tells. It needs m.mu.
func (m *Manager) finish(slot int32, keep bool, at int64, attempts uint32, now int64) {
	e := m.table.at(slot)
	touched, park, dropped := e.flags&flagTouched != 0, e.flags&flagParked != 0, e.flags&flagDropped != 0
	e.flags &^= flagTouched | flagParked | flagDropped | flagScanned
	newer := touched && e.attempts >= attempts
	switch {
	case dropped, !keep && !newer:
		m.forget(slot)
		return
	case !newer:
		e.due, e.attempts = at, attempts
	}
	m.set(e, waiting) // in no list; settleIn says where
	m.settleIn(slot, now, park, false)
}
