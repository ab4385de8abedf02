package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	"relay/node/outbound"
	"relay/node/replica"
)

// DefaultNotice is how long a node that goes out of service still takes new
// clients: until then every balancer has seen that it is not ready.
const DefaultNotice = 5 * time.Second

// StopWithin is how long a stop takes at most: the notice, transactions, deliveries
// and calls of the admin API under way, and what the replica does at its end.
func StopWithin(notice time.Duration) time.Duration {
	const deliveries, calls, replica = 5 * time.Second, 2 * time.Second, 15 * time.Second
	return notice + stopGrace + deliveries + calls + replica
}

const (
	maxNotice = 10 * time.Minute // whatever the clock of the state does
	// quietStop and quietDrain are how long a POP3 client may be silent before its
	// session is cut, at a stop and in a drain.
	quietStop  = 2 * time.Second
	quietDrain = 30 * time.Second
)

// drain takes this node out of service and back: by the mark that the replica
// has of it, and at a stop.
//
//	serving ── mark, stop ──► noticed ── the notice ends ──► refusing
//	   ▲ ready                  not ready, serves             new clients are refused,
//	   └───────────────── the mark is gone ◄───────────────── open sessions end
//
// # Out of service (2026-11-29)
//
// drain has three phases: serving, noticed (not ready, serves), refusing. The mark is Member.drain_ms,
// the end of the notice in the state's time, which outlives sessions; the former Session.draining
// alone ended with the process. The servers refuse (smtp.Server.Refuse, pop3.Server.Refuse) while
// their listeners stay open, so that a client without a balancer gets an answer. drained is: refusing,
// no session served, nothing owned, no leadership. A drained leader hands over whenever it leads, and
// comes last among equals in an early election. A stop goes the same way without a mark, with no
// notice where no other node serves. Rejected: /readyz that refuses at once (balancers send clients
// for seconds yet), cutting POP3 sessions (a client that loads a large message begins again),
// forbidding a drained node to vote or to lead (a cluster without a leader is worse than one that a
// drained node leads for a second).
type drain struct {
	replica replica.Replica
	node    string
	log     *zap.Logger
	refuse  func(on, stopping bool) // new clients, at all servers; it must not wait
	changed chan struct{}           // end or the phase is another

	mu       sync.Mutex
	mark     int64     // as in the replica; 0: none
	end      time.Time // of the notice; the zero time: there is none
	stopping bool
	refusing bool
}

func newDrain(r replica.Replica, node string, refuse func(on, stopping bool), log *zap.Logger) *drain {
	return &drain{replica: r, node: node, refuse: refuse, log: log, changed: make(chan struct{}, 1)}
}

var (
	errDrained  = errors.New("this node is being drained: 'relayctl node undrain' takes it back")
	errStopping = errors.New("this node is stopping")
	errRefusing = errors.New("this node is going out of service")
)

// ready returns why this node should get no new clients; nil: it may.
func (d *drain) ready() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.stopping:
		return errStopping
	case d.mark != 0:
		return errDrained
	}
	return nil
}

// serving returns errRefusing when the notice is over.
func (d *drain) serving() error {
	if d.refuses() {
		return errRefusing
	}
	return nil
}

// refuses reports whether new clients are refused. A nil drain never does.
func (d *drain) refuses() bool {
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.refusing
}

// look takes over what the replica says of this node.
func (d *drain) look() error {
	mark, err := drainMark(d.replica, d.node)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if mark == d.mark {
		return nil
	}
	d.mark = mark
	switch {
	case d.stopping: // and stays so
	case mark == 0:
		d.end = time.Time{}
		d.log.Info("this node is in service again")
	default:
		notice := DefaultNotice // a cluster of version 1 says none
		if mark > 1 {
			notice = min(max(time.UnixMilli(mark).Sub(d.replica.Now()), 0), maxNotice)
		}
		d.end = time.Now().Add(notice)
		d.log.Info("this node is being drained", zap.Duration("notice", notice))
	}
	d.wake()
	return nil
}

// begin takes over what the replica says when the node starts. A node that starts
// drained refuses new clients from the first: no balancer sends it any.
func (d *drain) begin() error {
	err := d.look()
	d.mu.Lock()
	if d.mark != 0 {
		d.end = time.Now()
	}
	d.mu.Unlock()
	d.step(time.Now())
	return err
}

// drainMark reads the end of a node's notice, in the state's time; 1 where it has
// none, and 0 where the node is not being drained.
func drainMark(r replica.Replica, node string) (mark int64, err error) {
	err = r.View(func(v spool.View) error {
		m, _, err := v.Member(node)
		if err != nil {
			return err
		}
		s, _, err := v.Session(node)
		if mark = m.GetDrainMs(); mark == 0 && s.GetDraining() {
			mark = 1
		}
		return err
	})
	return mark, err
}

// stop takes the node out of service for good: it returns when new clients are
// refused, after the notice, or what is left of one, or when ctx ends. Without
// another node that balancers could choose there is no notice.
func (d *drain) stop(ctx context.Context, notice time.Duration) {
	if !d.spared() {
		notice = 0
	}
	d.mu.Lock()
	end := time.Now().Add(notice)
	if d.mark != 0 && d.end.Before(end) {
		end = d.end
	}
	d.stopping, d.end = true, end
	d.mu.Unlock()
	d.wake()
	t := time.NewTimer(time.Until(end))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// spared reports whether another node lives that takes clients.
func (d *drain) spared() (spared bool) {
	_ = d.replica.View(func(v spool.View) error {
		sessions, err := v.Sessions()
		spared = outbound.Heir(sessions, d.node)
		return err
	})
	return spared
}

// refusal says why new clients are refused; nil: they are not.
func (d *drain) refusal() error {
	if d.refuses() {
		return errRefusing
	}
	return nil
}

func (d *drain) wake() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// run ends each notice in time, until ctx ends.
func (d *drain) run(ctx context.Context) error {
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		t.Reset(d.step(time.Now()))
		select {
		case <-ctx.Done():
			return nil
		case <-d.changed:
		case <-t.C:
		}
	}
}

// step enters the phase that the time says, and returns when to look again.
func (d *drain) step(now time.Time) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	refusing := !d.end.IsZero() && !now.Before(d.end)
	if refusing != d.refusing {
		d.refusing = refusing
		d.refuse(refusing, d.stopping)
		if refusing {
			d.log.Info("the notice is over: new clients are refused, open sessions end")
		}
	}
	if d.end.IsZero() || refusing {
		return time.Hour
	}
	return d.end.Sub(now)
}
