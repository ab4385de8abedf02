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

	"relay/queue/readyq"
	"relay/queue/replyclass"
)

// unit is one job from the moment a worker takes it until its verdicts are
// committed.
type unit struct {
	batch readyq.Batch
	check bool // it says nothing of the host: not tried
	early bool // somebody is to be told of a delay, but not yet
	lease context.Context
	limit Limited

	job      *Job
	verdicts []Verdict
	at       []int32 // the entry of each verdict
	notices  []Notice
	size     int
}

func (m *Manager) worker() {
	var near readyq.Affinity
	for {
		u := m.take(&near)
		if u == nil {
			return
		}
		m.attempt(u)
	}
}

// take waits for a job; nil: the manager stops.
func (m *Manager) take(near *readyq.Affinity) *unit {
	m.mu.Lock()
	defer m.unlock()
	for !m.closed {
		if m.queue.HasWork() && m.mayStart() {
			u := &unit{lease: m.right.lease}
			if m.queue.Take(&u.batch, near, m.now().UnixNano()) {
				u.check = u.batch.Down
				u.reserve()
				m.totals.Jobs++
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
	if !m.right.held || m.results.unsettled >= m.limits.Unsettled {
		return false
	}
	if m.live() != nil {
		m.stopActing()
		return false
	}
	return true
}

// attempt tries a unit and hands its verdicts to the settlers.
func (m *Manager) attempt(u *unit) {
	job, err := m.conf.Spool.Load(u.lease, u.batch.ID, u.batch.N)
	if err != nil || len(job.Recipients) == 0 {
		m.unloaded(u, err)
		return
	}
	u.job = job
	job.Domain, job.Route = u.batch.Place()
	job.Live = m.live
	job.Limits = u.limit
	if job.Ruled && !m.obey(u) {
		return
	}
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
		m.log.Warn("queue: a message could not be read, trying later", zap.Stringer("id", u.batch.ID), zap.Error(err),
			zap.Duration("in", reload))
	}
	m.mu.Lock()
	defer m.unlock()
	now := m.now().UnixNano()
	for _, slot := range u.batch.Slots {
		if !keep {
			m.refused(slot)
		}
		m.queue.Finish(slot, keep, now+int64(wait), m.queue.Attempts(slot), now)
	}
	m.release(u, readyq.Nothing, "", now)
}

// deliver calls the agent. An agent that panics must not take the node with it:
// the message would go on to kill the node that adopts it.
func (m *Manager) deliver(u *unit) (verdicts []Verdict) {
	defer func() {
		if p := recover(); p != nil {
			m.log.Error("queue: the agent panicked", zap.Stringer("id", u.batch.ID), zap.String("panic", fmt.Sprint(p)),
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
		k := slices.Index(u.batch.N, r.N)
		if k < 0 {
			continue // not asked for
		}
		v := pickVerdict(verdicts, i, r.N)
		v.Ref, v.Attempt = Ref{ID: u.batch.ID, Recipient: r.N}, r.Attempts+1
		v.Reply, v.Host, v.TLS = bound(v.Reply), bound(v.Host), bound(v.TLS)
		v.DelayTold = r.DelayTold
		v.At = m.ofAgent(v.At, now)
		if v.Outcome == Deferred && !v.Untried {
			m.again(&v, job, r, p, now, rnd)
		}
		u.verdicts, u.at = append(u.verdicts, v), append(u.at, u.batch.Slots[k])
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

// expires is when a recipient of a job is given up.
func (j *Job) expires(r *Recipient, p *policy) time.Time {
	switch {
	case !r.Expires.IsZero():
		return r.Expires
	case j.Expires.IsZero():
		return j.Created.Add(p.Lifetime)
	}
	return j.Expires
}

// again decides when a deferred recipient is due next, or that it has expired.
func (m *Manager) again(v *Verdict, job *Job, r *Recipient, p *policy, now time.Time, rnd float64) {
	end, schedule, longest := job.expires(r, p), p.schedule, p.Max
	if p.Rules != nil {
		own := m.ownPolicy(v, r, p)
		schedule, longest = own.Schedule(), own.Max
	}
	wait, giveUp := schedule(int(v.Attempt), now.Sub(job.Created), rnd)
	if !job.Expires.IsZero() {
		giveUp = false // its own end counts alone
	}
	if giveUp || !now.Before(end) {
		if v.Outcome = Expired; m.ageing() {
			return
		}
		v.Outcome = Deferred
		wait, _ = schedule(int(v.Attempt), 0, rnd)
	}
	if wait <= 0 {
		wait = longest
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

// ownPolicy is what a site's own rules make of the policy for a recipient, by what its last reply means.
func (m *Manager) ownPolicy(v *Verdict, r *Recipient, p *policy) RetryPolicy {
	class := replyclass.None
	if p.Rules.Classes() {
		class = m.ClassOf(v.Reply)
	}
	return p.of(r.Address, class)
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
		k := slices.Index(u.batch.N, r.N)
		if k < 0 {
			continue
		}
		reply := "5.4.7 it could not be delivered in the time that its sender set"
		if r.LastReply != "" {
			reply += "; last: " + r.LastReply
		}
		v := Verdict{
			Ref: Ref{ID: u.batch.ID, Recipient: r.N}, Attempt: r.Attempts + 1, At: now, DelayTold: r.DelayTold, Outcome: Expired,
			Reply: bound(reply),
		}
		if !ageing {
			v.Reply = bound(unsure)
			m.again(&v, u.job, r, p, now, m.conf.Rand())
		}
		u.verdicts, u.at = append(u.verdicts, v), append(u.at, u.batch.Slots[k])
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
	last, end := u.batch.BackOff()
	m.mu.Unlock()
	until := time.Unix(0, end)
	for i := range u.job.Recipients {
		r := &u.job.Recipients[i]
		k := slices.Index(u.batch.N, r.N)
		if k < 0 {
			continue
		}
		v := Verdict{Ref: Ref{ID: u.batch.ID, Recipient: r.N}, Attempt: r.Attempts + 1, At: now, DelayTold: r.DelayTold,
			Reply: bound("4.4.1 not tried: the destination does not answer: " + last)}
		switch {
		case ageing && !now.Before(u.job.expires(r, p)):
			v.Outcome = Expired
		case m.tellDelay(u.job, r, p, now):
			v.Outcome, v.Next = Deferred, time.UnixMilli(until.UnixMilli()+1)
		default:
			v.Outcome, v.Untried = Deferred, true
			u.early = u.early || p.Rules.Ages() && !r.DelayTold && u.job.age(now) < p.lateAt(r)
		}
		u.verdicts, u.at = append(u.verdicts, v), append(u.at, u.batch.Slots[k])
	}
	m.report(u, p, now)
	m.done(u)
}

// done frees a unit's place at its destination and hands its verdicts to the
// settlers. Entries without a verdict that counts go back.
func (m *Manager) done(u *unit) {
	w, reply := heard(u.verdicts)
	if slow := m.policy.Load().Slow; len(slow) > 0 && !u.check {
		w, reply = m.slower(u.verdicts, slow, w, reply)
	}
	m.mu.Lock()
	defer m.unlock()
	now := m.now().UnixNano()
	m.putBack(u, now)
	if u.check {
		w = readyq.Nothing
	}
	m.release(u, w, reply, now)
	if len(u.verdicts) == 0 {
		return
	}
	u.measure()
	m.results.pending = append(m.results.pending, u)
	m.results.unsettled += len(u.verdicts)
	m.results.wake.Signal()
}

// putBack returns entries that were not tried to their lists, and forgets those
// that the spool did not load.
func (m *Manager) putBack(u *unit, now int64) {
	if len(u.verdicts) < len(u.batch.Slots) {
		for _, slot := range u.batch.Slots {
			if !slices.Contains(u.at, slot) {
				m.refused(slot)
				m.queue.Finish(slot, false, 0, 0, now)
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
		if u.check && !u.early {
			m.queue.Told(u.at[i])
		}
		// At the end the next owner tries it; after a lost lease, we or it.
		m.queue.Finish(u.at[i], true, now, m.queue.Attempts(u.at[i]), now)
	}
	u.verdicts, u.at = u.verdicts[:kept], u.at[:kept]
}

// heard is what the verdicts say of the host. One that answered anything about
// a recipient is alive.
func heard(verdicts []Verdict) (readyq.Word, string) {
	w, reply := readyq.Nothing, ""
	for i := range verdicts {
		v := &verdicts[i]
		switch {
		case v.Untried:
		case !v.NextHop || v.Outcome == Delivered:
			return readyq.Good, ""
		default:
			w, reply = readyq.Bad, v.Reply
		}
	}
	return w, reply
}

// slower has a destination get less at a time where it says so itself, though it took other recipients.
func (m *Manager) slower(verdicts []Verdict, slow []replyclass.Class, w readyq.Word, reply string) (readyq.Word,
	string) {
	for i := range verdicts {
		v := &verdicts[i]
		if v.Outcome == Deferred && !v.Untried && slices.Contains(slow, m.ClassOf(v.Reply)) {
			return readyq.Bad, v.Reply
		}
	}
	return w, reply
}

// release gives a unit's place at its destination back. It needs m.mu.
func (m *Manager) release(u *unit, w readyq.Word, reply string, now int64) {
	m.endLimited(u, now)
	if b := m.queue.Release(&u.batch, w, reply, now); b != nil {
		m.log.Info("queue: destination is left alone", zap.String("destination", b.Label),
			zap.Duration("for", b.For), zap.String("reply", b.Reply), zap.Int32("ready", b.Ready))
	}
}

// refused prepares to forget an active entry because the spool would not load
// it or take its verdict. If a scan has reported the entry meanwhile, and it
// was passed over because it was active, it may be ours by now, as after this
// node has lost its right to act and got it again: only another scan can tell.
// It needs m.mu.
func (m *Manager) refused(slot int32) {
	if m.queue.Scanned(slot) {
		m.Reset()
	}
}
