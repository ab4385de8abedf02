package maildrop

import (
	"context"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica"
)

// orphanedLock is a lock of this node that no session holds any more, or ever held. It
// comes about where the answer to a TakeLock, or an Unlock, got lost on the way,
// or where a frame that had been given up reached a leader late. The node lives
// on and renews its session, so nobody but itself would ever free the mailbox.
type orphanedLock struct {
	mailbox string
	epoch   uint64
	token   uint64
}

// attempt is a TakeLock under way.
type attempt struct {
	token  uint64 // of the lock, once this node has applied it; else 0
	doubts bool   // the lock may have ended since, although the answer is still to come
}

// begin notes that an attempt to lock is under way.
func (d *Service) begin(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.taking[name] = &attempt{}
}

// abandon ends an attempt without a session. A lock that it may have taken before is
// given back now, one that it takes later when that is seen.
func (d *Service) abandon(name string) {
	d.mu.Lock()
	seen := d.taking[name].token != 0
	delete(d.taking, name)
	d.search = d.search || seen
	d.mu.Unlock()
	if seen {
		d.wakeKeeper()
	}
}

// register makes the attempt a session, and reports whether its lock may have
// ended meanwhile. If it ends later the session will be cut.
func (d *Service) register(name string, m *maildrop) (doubts bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	one := d.taking[name]
	m.applied = one.token != 0
	delete(d.taking, name)
	d.open[m.token] = m
	return one.doubts
}

// maxEnded bounds what is remembered of sessions that were faster than this node
// applies. To forget one costs a look for a lock that is not there.
const maxEnded = 10_000

// forget takes a session that ended off the table. Its lock is no orphan, though
// this node may not have seen it taken yet.
func (d *Service) forget(m *maildrop) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[m.token] == nil {
		return
	}
	delete(d.open, m.token)
	if m.applied {
		return
	}
	if len(d.ended) >= maxEnded {
		clear(d.ended)
	}
	d.ended[m.token] = struct{}{}
}

// giveBack has the lock of a session that ended freed in time.
func (d *Service) giveBack(m *maildrop) {
	d.mu.Lock()
	delete(d.ended, m.token) // or nobody would look at a lock that is yet to be seen
	d.orphans[m.token] = orphanedLock{m.account.Address, m.epoch, m.token}
	d.mu.Unlock()
	d.wakeKeeper()
}

// taken looks at locks that were taken just now.
func (d *Service) taken(locks []spool.Taken) {
	epoch, found := d.replica.Epoch(), false
	d.mu.Lock()
	for _, l := range locks {
		if l.Node != d.node || l.Epoch != epoch {
			continue
		}
		if one := d.taking[l.Session]; one != nil {
			one.token = l.Token
		} else if m := d.open[l.Token]; m != nil {
			m.applied = true
		} else if _, ok := d.ended[l.Token]; ok {
			delete(d.ended, l.Token)
		} else {
			d.orphans[l.Token] = orphanedLock{l.Mailbox, l.Epoch, l.Token}
			found = true
		}
	}
	d.mu.Unlock()
	if found {
		d.wakeKeeper()
	}
}

// restored follows a snapshot, which tells of no lock how it came about: the
// whole replica is searched.
func (d *Service) restored() {
	d.mu.Lock()
	d.search = true
	clear(d.ended)
	for _, m := range d.open {
		m.applied = true
	}
	for _, one := range d.taking {
		one.doubts = true
	}
	d.mu.Unlock()
	d.wakeKeeper()
}

func (d *Service) wakeKeeper() {
	select {
	case d.stir <- struct{}{}:
	default:
	}
}

// strayAgain is when a lock that could not be given back is tried again.
const strayAgain = time.Second

// Keep gives orphaned locks back, keeps the terms up to date, and ends sessions whose
// account may not be used any more, until ctx ends.
func (d *Service) Keep(ctx context.Context) error {
	tick := time.NewTicker(strayAgain)
	defer tick.Stop()
	for {
		if err := d.terms.refresh(d.replica); err != nil {
			d.log.Warn("what CAPA says before login is out of date", zap.Error(err))
		}
		if d.directory.Swap(false) {
			if err := d.dismiss(); err != nil {
				d.directory.Store(true) // again at the next tick
				d.log.Warn("cannot read whether the accounts of open sessions are there", zap.Error(err))
			}
		}
		if err := d.freeStrays(ctx); err != nil && ctx.Err() == nil {
			d.log.Info("a lock that no session holds is not given back yet", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.stir:
		case <-tick.C:
		}
	}
}

// freeStrays gives back what it knows of, and returns the last error.
func (d *Service) freeStrays(ctx context.Context) error {
	list, err := d.listStrays()
	for _, s := range list {
		if one := d.free(ctx, s); one != nil {
			err = one
			continue
		}
		d.mu.Lock()
		delete(d.orphans, s.token)
		d.mu.Unlock()
	}
	return err
}

// listStrays copies the table, and fills it from the replica first where it may
// lack something.
func (d *Service) listStrays() ([]orphanedLock, error) {
	d.mu.Lock()
	search := d.search
	d.search = false
	d.mu.Unlock()
	var err error
	if search {
		if err = d.searchStrays(); err != nil {
			d.mu.Lock()
			d.search = true // again at the next tick
			d.mu.Unlock()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]orphanedLock, 0, len(d.orphans))
	for _, s := range d.orphans {
		list = append(list, s)
	}
	return list, err
}

func (d *Service) searchStrays() error {
	epoch := d.replica.Epoch()
	return d.replica.View(func(v spool.View) error {
		locks, err := v.Locks()
		if err != nil {
			return err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		for mailbox, l := range locks {
			for _, h := range spool.Holders(l) {
				_, taking := d.taking[h.Session]
				if h.Node == d.node && h.Epoch == epoch && !taking && d.open[h.Token] == nil {
					d.orphans[h.Token] = orphanedLock{mailbox, epoch, h.Token}
				}
			}
		}
		return nil
	})
}

// free gives one lock back, unless it is gone already.
func (d *Service) free(ctx context.Context, s orphanedLock) error {
	held := false
	err := d.replica.View(func(v spool.View) error {
		l, _, err := v.Lock(s.mailbox)
		for _, h := range spool.Holders(l) {
			held = held || h.Token == s.token
		}
		return err
	})
	if err != nil || !held {
		return err
	}
	_, err = replica.Propose(ctx, d.replica, spool.KindUnlock, &pb.Unlock{Mailbox: s.mailbox, Epoch: s.epoch,
		Token: s.token})
	return err
}
