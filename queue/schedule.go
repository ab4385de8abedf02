package queue

import (
	"math"
	"time"
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
