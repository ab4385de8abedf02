package queue

import (
	"time"

	"relay/queue/bounce"
)

// Bits of Recipient.Notify.
const (
	NotifyNever   = 1 << iota // NOTIFY=NEVER
	NotifySuccess             // NOTIFY=SUCCESS
	NotifyFailure             // NOTIFY=FAILURE
	NotifyDelay               // NOTIFY=DELAY
)

// silent: nobody may be told about this message (RFC 5321 §4.5.5, §6.1).
func (j *Job) silent() bool { return j.Sender == "" || j.IsBounce }

// tellFailure: without NOTIFY a failure is reported (RFC 3461 §4.1).
func tellFailure(r *Recipient) bool { return r.Notify == 0 || r.Notify&NotifyFailure != 0 }

func (m *Manager) tellDelay(j *Job, r *Recipient, p *policy, now time.Time) bool {
	if j.silent() || r.DelayTold || !m.ageing() {
		return false
	}
	if by := j.DeliverBy; by != nil && !by.Return && !now.Before(by.Until) {
		return r.Notify == 0 || r.Notify&NotifyDelay != 0 // RFC 2852 §4.1.4
	}
	since := j.Created
	if j.Released.After(since) {
		since = j.Released
	}
	if p.DelayNotice < 0 || now.Sub(since) < p.DelayNotice {
		return false
	}
	if r.Notify == 0 {
		return !p.DelayAskedOnly
	}
	return r.Notify&NotifyDelay != 0
}

// tellSuccess: only where it was asked for, and nobody after us will do it;
// and for each relaying that is to be traced (RFC 2852 §4.1.5).
func tellSuccess(j *Job, v *Verdict, r *Recipient) bool {
	if by := j.DeliverBy; by != nil && by.Trace && r.Notify&NotifyNever == 0 {
		return true
	}
	return r.Notify&NotifySuccess != 0 && !v.Passed
}

// report writes the notices that go with a unit's verdicts: at most one a kind.
func (m *Manager) report(u *unit, p *policy, now time.Time) {
	if u.job.silent() {
		return
	}
	var kinds [3][]bounce.Recipient
	next := 0
	for i := range u.verdicts {
		v := &u.verdicts[i]
		for u.job.Recipients[next].N != v.Recipient {
			next++ // verdicts are in the order of the job
		}
		r := &u.job.Recipients[next]
		switch v.Outcome {
		case Failed, Expired:
			if tellFailure(r) {
				add(&kinds[bounce.Failure], v, r, bounce.Failed)
			}
		case Deferred:
			if !v.Untried && m.tellDelay(u.job, r, p, now) {
				v.DelayTold = true
				add(&kinds[bounce.Delay], v, r, bounce.Delayed)
			}
		case Delivered:
			if tellSuccess(u.job, v, r) {
				action := bounce.Relayed
				if v.Final {
					action = bounce.Delivered
				}
				add(&kinds[bounce.Success], v, r, action)
			}
		}
	}
	for kind, recipients := range kinds {
		if len(recipients) > 0 {
			u.notices = append(u.notices, m.notice(u.job, bounce.Kind(kind), recipients, p, now))
		}
	}
}

func add(to *[]bounce.Recipient, v *Verdict, r *Recipient, action bounce.Action) {
	b := bounce.Recipient{Address: r.Address, Original: r.Original, Addressed: r.Addressed, Action: action,
		Reply: v.Reply, Host: v.Host,
		Last: v.At, Expired: v.Outcome == Expired}
	if b.Reply == "" {
		b.Reply = r.LastReply
	}
	*to = append(*to, b.AsAddressed())
}

func (m *Manager) notice(j *Job, kind bounce.Kind, recipients []bounce.Recipient, p *policy, now time.Time) Notice {
	ret := j.Ret
	if j.RequireTLS {
		ret = "HDRS" // RFC 8689 §5: a message that must not go in clear does not go back whole
	}
	body, utf8 := bounce.Write(&bounce.Report{
		Kind: kind, Hostname: m.conf.Hostname, ID: j.ID.String(), To: j.Sender, EnvID: j.EnvID,
		Arrived: j.Created, Now: now, Until: j.expires(p), Recipients: recipients,
		Ret: ret, UTF8: j.UTF8, Binary: j.Binary, Size: j.Size, Open: j.Open,
		Limit: m.limits.Bytes * 3 / 4, // the verdicts go beside it
	})
	return Notice{About: j.ID, To: j.Sender, Body: body, UTF8: utf8}
}
