package queue

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// obey does what standing rules say of a unit's recipients. Those that wait, or that belong to another destination,
// leave the unit without an attempt. If rules end some of the others, only these stay and are settled. It reports
// whether the unit is to be tried.
func (m *Manager) obey(u *unit) bool {
	p, now := m.policy.Load(), m.now()
	var tried, ended []Recipient
	for _, r := range u.job.Recipients {
		if slices.Index(u.batch.N, r.N) < 0 {
			continue
		}
		switch m.ruled(u, &r, p, now) {
		case stays:
			tried = append(tried, r)
		case ends:
			ended = append(ended, r)
		}
	}
	if len(ended) == 0 {
		u.job.Recipients = tried
		if len(tried) == 0 {
			m.done(u)
		}
		return len(tried) > 0
	}
	for i := range tried {
		m.leaves(u, tried[i].N, m.queue.Again)
	}
	u.job.Recipients = ended
	m.settleRuled(u, p, now)
	return false
}

// place is what becomes of a recipient in its unit.
type place uint8

const (
	stays place = iota
	ends        // a rule settles it
	left        // it is in the unit no more
)

func (m *Manager) ruled(u *unit, r *Recipient, p *policy, now time.Time) place {
	is := r.Ruling
	if is == nil {
		return stays
	}
	switch is.Act {
	case Refuse, Discard:
		return ends
	case Hold:
		m.leaves(u, r.N, func(slot int32, now int64) { m.queue.Hold(slot, 0, now) })
		return left
	case Suspend:
		if m.ageing() && !now.Before(u.job.expires(r, p)) || m.tellDelay(u.job, r, p, now) {
			return ends
		}
		until := m.suspendedUntil(u.job, r, p, now)
		m.leaves(u, r.N, func(slot int32, now int64) { m.queue.Hold(slot, nanos(until), now) })
		return left
	}
	domain, hop := domainOf(r.Address), is.Via
	if is.Act == Redirect {
		hop = is.Hop
	} else if hop == "" && m.conf.Route != nil {
		hop = m.conf.Route(domain)
	}
	if _, at := u.batch.Place(); at == hop {
		return stays
	}
	m.leaves(u, r.N, func(slot int32, now int64) { m.queue.Move(slot, domain, hop, now) })
	return left
}

// leaves takes a recipient out of a unit; to says where its entry goes.
func (m *Manager) leaves(u *unit, n uint32, to func(slot int32, now int64)) {
	k := slices.Index(u.batch.N, n)
	m.mu.Lock()
	defer m.unlock()
	to(u.batch.Slots[k], m.now().UnixNano())
	u.batch.N, u.batch.Slots = slices.Delete(u.batch.N, k, k+1), slices.Delete(u.batch.Slots, k, k+1)
}

// suspendedUntil is when a suspended recipient has to be looked at again: its sender is to be told, or its time is
// over. A rule that goes earlier leads to a scan.
func (m *Manager) suspendedUntil(j *Job, r *Recipient, p *policy, now time.Time) time.Time {
	next, late := j.expires(r, p), p.lateAt(r)
	if tell := j.since().Add(late); late > 0 && !r.DelayTold && tell.After(now) && tell.Before(next) {
		next = tell
	}
	if by := j.DeliverBy; by != nil && !by.Return && !r.DelayTold && by.Until.After(now) && by.Until.Before(next) {
		next = by.Until
	}
	if least := now.Add(time.Minute); next.Before(least) {
		next = least // while ages do not count
	}
	return next
}

// settleRuled ends recipients by the word of rules, and tells the senders of those that are suspended.
func (m *Manager) settleRuled(u *unit, p *policy, now time.Time) {
	var hosts []string
	for i := range u.job.Recipients {
		r := &u.job.Recipients[i]
		v := Verdict{Ref: Ref{ID: u.batch.ID, Recipient: r.N}, Attempt: r.Attempts + 1, At: now, DelayTold: r.DelayTold,
			Reply: bound(r.Ruling.Reply), Rule: r.Ruling.Rule}
		switch r.Ruling.Act {
		case Refuse:
			v.Outcome = Failed
		case Discard:
			v.Outcome = Discarded
		default:
			if v.Outcome = Expired; !m.ageing() || now.Before(u.job.expires(r, p)) {
				told := *r
				told.DelayTold = true
				next := m.suspendedUntil(u.job, &told, p, now)
				v.Outcome, v.Next = Deferred, time.UnixMilli(next.UnixMilli()+1)
			}
		}
		u.verdicts, u.at = append(u.verdicts, v), append(u.at, u.batch.Slots[slices.Index(u.batch.N, r.N)])
		hosts = append(hosts, r.Ruling.Host)
	}
	u.check = true // it says nothing of the host
	m.report(u, p, now)
	for i := range u.verdicts {
		if u.verdicts[i].Host = hosts[i]; hosts[i] == "" {
			u.verdicts[i].Host = fmt.Sprintf("rule %d", u.verdicts[i].Rule) // which reports do not name
		}
	}
	m.done(u)
}

func domainOf(address string) string {
	return strings.ToLower(address[strings.LastIndexByte(address, '@')+1:])
}
