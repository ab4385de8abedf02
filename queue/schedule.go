package queue

import (
	"math"
	"time"

	"relay/queue/replyclass"
	"relay/queue/retry"
)

// Schedule says when to try again. attempts is how many have ended, from 1;
// age is the message's; rnd is in [0,1). It is pure.
type Schedule func(attempts int, age time.Duration, rnd float64) (wait time.Duration, giveUp bool)

// RetryPolicy says how long and how often mail is tried. A zero field stands
// for the default.
type RetryPolicy struct {
	First    time.Duration // wait after the first attempt; 5 minutes, as Postfix has it
	Max      time.Duration // longest wait; 4 hours
	Factor   float64       // each wait is so much longer than the one before; 1.8
	Jitter   float64       // each wait varies by this part of it, up and down; 0.1
	Lifetime time.Duration // a message older than this is given up; 5 days
	// DelayNotice is the age at which a sender is told, once, that a recipient
	// is late; 4 hours. Negative: never.
	DelayNotice time.Duration
	// DelayAskedOnly tells only those who asked for it (NOTIFY=DELAY).
	DelayAskedOnly bool
	// Rules are a site's own, by domain and by class of the last reply; nil: there are none.
	Rules *retry.Table
	// Slow are classes of replies that make a destination get less at a time, as if its host had failed; nil: none.
	Slow []replyclass.Class
}

// of is the policy for a recipient whose last reply was of a class. Its zero fields are filled.
func (p RetryPolicy) of(address string, class replyclass.Class) RetryPolicy {
	if p.Rules == nil {
		return p
	}
	v := p.Rules.Of(domainOf(address), class)
	if v.First > 0 {
		p.First, p.Max = v.First, max(p.Max, v.First)
	}
	if v.Max > 0 {
		p.Max, p.First = v.Max, min(p.First, v.Max)
	}
	if v.Factor > 0 {
		p.Factor = v.Factor
	}
	if v.Lifetime > 0 {
		p.Lifetime = v.Lifetime
	}
	if v.Notice != 0 {
		p.DelayNotice = v.Notice
	}
	return p
}

// lateAt says at which age a recipient's sender is told; negative: never.
func (p *policy) lateAt(r *Recipient) time.Duration {
	if !p.Rules.Ages() {
		return p.DelayNotice
	}
	return p.of(r.Address, replyclass.None).DelayNotice
}

// ages is what an entry of a destination must reach for being late. The recipients of a hop are of many domains: there
// the least counts, and each job decides by its own.
func (p *policy) ages(domain string) (lifetime, notice time.Duration) {
	if domain != "" {
		own := p.of(domain, replyclass.None)
		return own.Lifetime, own.DelayNotice
	}
	lifetime, notice = p.Lifetime, p.DelayNotice
	least := p.Rules.Least()
	if least.Lifetime > 0 {
		lifetime = min(lifetime, least.Lifetime)
	}
	if least.Notice > 0 && (notice < 0 || least.Notice < notice) {
		notice = least.Notice
	}
	return lifetime, notice
}

func (p RetryPolicy) withDefaults() RetryPolicy {
	or(&p.First, 5*time.Minute)
	or(&p.Max, 4*time.Hour)
	or(&p.Lifetime, 5*24*time.Hour)
	or(&p.DelayNotice, 4*time.Hour)
	if p.Factor < 1 {
		p.Factor = 1.8
	}
	if p.Jitter <= 0 || p.Jitter >= 1 {
		p.Jitter = 0.1
	}
	return p
}

// Longest is the longest wait after so many attempts; 0 before the first.
func (p RetryPolicy) Longest(attempts int) time.Duration {
	if attempts < 1 {
		return 0
	}
	wait, _ := p.Schedule()(attempts, 0, 1)
	if own := p.Rules.Longest(); own > 0 {
		wait = max(wait, time.Duration(float64(own)*(1+p.withDefaults().Jitter)))
	}
	return wait
}

// or sets *v to def where it is zero, or negative where that makes no sense.
func or[T int | int64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// Schedule returns the policy as a function.
func (p RetryPolicy) Schedule() Schedule {
	p = p.withDefaults()
	return func(attempts int, age time.Duration, rnd float64) (time.Duration, bool) {
		if age >= p.Lifetime {
			return 0, true
		}
		wait := float64(p.First) * math.Pow(p.Factor, float64(max(attempts, 1)-1))
		wait = min(wait, float64(p.Max)) * (1 + p.Jitter*(2*rnd-1))
		return time.Duration(wait), false
	}
}
