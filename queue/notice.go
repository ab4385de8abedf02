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
	if late := p.lateAt(r); late < 0 || j.age(now) < late {
		return false
	}
	if r.Notify == 0 {
		return !p.DelayAskedOnly && !j.Stranger
	}
	return r.Notify&NotifyDelay != 0
}

// since is when a job's message began to wait for its recipients.
func (j *Job) since() time.Time {
	if j.Released.After(j.Created) {
		return j.Released
	}
	return j.Created
}

func (j *Job) age(now time.Time) time.Duration { return now.Sub(j.since()) }

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
	var kinds [3]told
	var until time.Time
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
				kinds[bounce.Failure].add(v, r, bounce.Failed)
			}
		case Deferred:
			if !v.Untried && m.tellDelay(u.job, r, p, now) {
				v.DelayTold = true
				kinds[bounce.Delay].add(v, r, bounce.Delayed)
				if end := u.job.expires(r, p); until.IsZero() || end.Before(until) {
					until = end
				}
			}
		case Delivered:
			if tellSuccess(u.job, v, r) {
				action := bounce.Relayed
				if v.Final {
					action = bounce.Delivered
				}
				kinds[bounce.Success].add(v, r, action)
			}
		}
	}
	for kind, about := range kinds {
		if len(about.recipients) > 0 {
			one := m.notice(u.job, bounce.Kind(kind), about.recipients, until, now)
			one.Of = about.numbers
			u.notices = append(u.notices, one)
		}
	}
}

// told are the recipients of one notice.
type told struct {
	recipients []bounce.Recipient
	numbers    []uint32
}

func (to *told) add(v *Verdict, r *Recipient, action bounce.Action) {
	b := bounce.Recipient{Address: r.Address, Original: r.Original, Addressed: r.Addressed, Action: action,
		Reply: v.Reply, Host: v.Host,
		Last: v.At, Expired: v.Outcome == Expired}
	if b.Reply == "" {
		b.Reply = r.LastReply
	}
	to.recipients, to.numbers = append(to.recipients, b.AsAddressed()), append(to.numbers, r.N)
}

func (m *Manager) notice(j *Job, kind bounce.Kind, recipients []bounce.Recipient, until, now time.Time) Notice {
	ret := j.Ret
	if j.RequireTLS {
		ret = "HDRS" // RFC 8689 §5: a message that must not go in clear does not go back whole
	}
	body, utf8 := bounce.Write(&bounce.Report{
		Kind: kind, Hostname: m.conf.Hostname, ID: j.ID.String(), To: j.Sender, EnvID: j.EnvID,
		Arrived: j.Created, Now: now, Until: until, Recipients: recipients, Template: m.template.Load(),
		Ret: ret, UTF8: j.UTF8, Binary: j.Binary, Size: j.Size, Open: j.Open,
		Limit: m.limits.Bytes * 3 / 4, // the verdicts go beside it
	})
	return Notice{About: j.ID, To: j.Sender, Body: body, UTF8: utf8}
}
