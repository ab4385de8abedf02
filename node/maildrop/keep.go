package maildrop

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/login"
	"relay/node/replica"
	"relay/pop3"
)

func (d *Service) wakeKeeper() {
	select {
	case d.stir <- struct{}{}:
	default:
	}
}

// orphanAgain is when a lock that could not be given back is tried again.
const orphanAgain = time.Second

// Keep gives orphaned locks back, keeps the terms up to date, and ends sessions whose
// account may not be used any more, until ctx ends.
func (d *Service) Keep(ctx context.Context) error {
	for {
		now := time.Now()
		tick := time.After(now.Truncate(orphanAgain).Add(orphanAgain).Sub(now)) // as all that looks once a second
		if err := d.terms.refresh(d.replica); err != nil {
			d.log.Warn("what CAPA says before login is out of date", zap.Error(err))
		}
		if d.directory.Swap(false) {
			if err := d.dismiss(); err != nil {
				d.directory.Store(true) // again at the next tick
				d.log.Warn("cannot read whether the accounts of open sessions are there", zap.Error(err))
			}
		}
		if err := d.freeOrphans(ctx); err != nil && ctx.Err() == nil {
			d.log.Info("a lock that no session holds is not given back yet", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.stir:
		case <-tick:
		}
	}
}

// freeOrphans gives back what it knows of, and returns the last error. After a snapshot it searches the replica for
// more first.
func (d *Service) freeOrphans(ctx context.Context) (err error) {
	if d.locks.searches() {
		epoch := d.replica.Epoch()
		err = d.replica.View(func(v spool.View) error {
			all, err := v.Locks()
			d.locks.found(all, epoch)
			return err
		})
		if err != nil {
			d.locks.searchAgain() // at the next tick
		}
	}
	for _, l := range d.locks.orphans() {
		if one := d.free(ctx, l); one != nil {
			err = one
			continue
		}
		d.locks.freed(l)
	}
	return err
}

// free gives one lock back, unless it is gone already.
func (d *Service) free(ctx context.Context, l *lock) error {
	held := false
	err := d.replica.View(func(v spool.View) error {
		now, _, err := v.Lock(l.mailbox)
		held = slices.ContainsFunc(spool.Holders(now), func(h *pb.Lock) bool { return h.Token == l.token })
		return err
	})
	if err != nil || !held {
		return err
	}
	return d.unlock(ctx, l)
}

// unlock gives up the lock and nothing else, which costs every node less than a
// Remove does. It also succeeds if the lock is gone already.
func (d *Service) unlock(ctx context.Context, l *lock) error {
	_, err := replica.Propose(ctx, d.replica, spool.KindUnlock,
		&pb.Unlock{Mailbox: l.mailbox, Epoch: l.epoch, Token: l.token})
	return err
}

// dismiss cuts the sessions of accounts that were removed, disabled or given
// another password since the login: those of the tokens, or all where there are none.
// It may be called at any time; Changed has it called when the directory has changed.
func (d *Service) dismiss(tokens ...uint64) error {
	open := d.locks.sessions(tokens...)
	if len(open) == 0 {
		return nil
	}
	return d.replica.View(func(v spool.View) error {
		for _, m := range open {
			why, err := m.dismissed(v)
			if err != nil {
				return err
			}
			if why != "" {
				d.locks.loseOne(m.lock, why)
			}
		}
		return nil
	})
}

// dismissed says why a session's account may not be used any more; empty: it may.
func (m *maildrop) dismissed(v spool.View) (string, error) {
	now, there, err := v.Account(m.account.Address)
	switch {
	case err != nil:
		return "", err
	case !there || now.Box != m.account.Box:
		return pop3.LostRemoved, nil
	case now.Changed <= m.account.Changed: // less where the login itself has changed it
		return "", nil
	case now.Disabled:
		return pop3.LostDisabled, nil
	case now.Password != m.account.Password && login.IsArgon(m.account.Password):
		// A hash of another kind may have got a better form at a login elsewhere.
		return pop3.LostPassword, nil
	}
	return "", nil
}
