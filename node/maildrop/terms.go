package maildrop

import (
	"sync/atomic"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica"
	"relay/pop3"
)

// terms are what CAPA says before login of policies that differ from user to
// user: the longest login delay and the shortest retention (RFC 2449 §6.5, §6.7).
type terms struct {
	stale atomic.Bool // accounts have changed since
	now   atomic.Pointer[termsNow]
	read  time.Time // by refresh only
}

type termsNow struct {
	delay time.Duration
	keeps pop3.Retention
}

// termsFor bounds how often all accounts are read.
const termsFor = 10 * time.Second

// refresh reads all accounts again where one may have changed. One goroutine
// calls it.
func (t *terms) refresh(r replica.Replica) error {
	if t.now.Load() != nil && (!t.stale.Load() || time.Since(t.read) < termsFor) {
		return nil
	}
	t.stale.Store(false)
	var delay, shortest int64
	err := r.View(func(v spool.View) error {
		return v.EachAccount(func(a *pb.Account) bool {
			delay = max(delay, a.LoginDelayMs)
			if days := retentionDays(a); days > 0 && (shortest == 0 || days < shortest) {
				shortest = days
			}
			return true
		})
	})
	if err != nil {
		t.stale.Store(true)
		return err
	}
	t.read = time.Now()
	t.now.Store(&termsNow{
		delay: time.Duration(delay) * time.Millisecond,
		keeps: pop3.Retention{Announce: shortest > 0, Days: int(shortest), PerUser: true},
	})
	return nil
}

// Policies implements pop3.ServerConfig.Policies.
func (d *Service) Policies() (pop3.Retention, time.Duration) {
	t := d.terms.now.Load()
	if t == nil {
		return pop3.Retention{}, 0
	}
	return t.keeps, t.delay
}

// retentionDays is an account's retention as EXPIRE can tell it; 0: for ever, or
// less than a day, which can not be told: 0 days has a meaning of its own.
func retentionDays(a *pb.Account) int64 {
	return min(a.RetentionMs/(24*time.Hour).Milliseconds(), 1<<20)
}
