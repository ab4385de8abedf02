// Package maildrop is the POP3 side of a node: it opens mailboxes under the lock that holds in
// the whole cluster, lists them as they were then, and gives locks back that no session holds.
package maildrop

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/config"
	"relay/node/folder"
	"relay/node/login"
	"relay/node/replica"
	"relay/pop3"
	"relay/smtp/sasl"
)

// Service is the POP3 side of a node: it opens mailboxes under the
// cluster-wide lock. It meets pop3.Backend and pop3.SCRAM.
type Service struct {
	replica     replica.Fenced
	sessionLost func() <-chan struct{}
	node        string
	logins      *login.Service
	throttle    *login.Throttle
	log         *zap.Logger
	folders     map[string]*folder.Folder // by account; set before the first login
	took        func(begin time.Time)     // observes a login; nil: nobody counts
	refusing    func() error              // why this node takes no new sessions; nil: it does, or always
	holders     holders
	contests    contests
	directory   atomic.Bool // it has changed: some sessions may have to end

	takes atomic.Uint64 // numbers attempts to lock, so that none is taken for another
	locks *locks
	terms terms
	lists lists
	stir  chan struct{} // there is something to do for Keep
}

// Config is what maildrops ask for. Functions are called concurrently.
type Config struct {
	Replica     replica.Fenced
	SessionLost func() <-chan struct{} // closed when the node's session has ended
	Node        string                 // this node's id
	Logins      *login.Service
	Throttle    *login.Throttle
	Log         *zap.Logger
	Folders     []config.Folder
	Answers     func(ctx context.Context, node string) bool // whether a node answers; nil: nobody is asked
	Refusing    func() error                                // why no new sessions are taken; nil, or returns nil: they are
	Took        func(begin time.Time)                       // observes a login that succeeded; nil: nobody counts
}

// New makes the POP3 side of a node.
func New(c Config) *Service {
	d := &Service{
		replica: c.Replica, sessionLost: c.SessionLost, node: c.Node, logins: c.Logins, throttle: c.Throttle, log: c.Log,
		folders: folders(c.Folders), refusing: c.Refusing, took: c.Took, stir: make(chan struct{}, 1),
	}
	d.locks = newLocks(c.Node, d.wakeKeeper)
	d.holders.ask = c.Answers
	return d
}

var errNoSession = errors.New("this node has no right to act: it has lost contact with the majority")

// mayAct returns nil while this node has a session. Without one nothing is said
// about credentials: a node that has just started may not have heard of the
// account yet, and "wrong password" is never the answer to a fault of ours.
func (d *Service) mayAct() error {
	if d.replica.Epoch() == 0 || !time.Now().Before(d.replica.Until()) {
		return errNoSession
	}
	return nil
}

// Login implements pop3.Backend.
func (d *Service) Login(ctx context.Context, p *pop3.Peer, user, secret string) (drop pop3.Maildrop, err error) {
	begin := time.Now()
	defer func() {
		if err == nil && d.took != nil {
			d.took(begin)
		}
	}()
	if err := d.mayAct(); err != nil {
		return nil, err
	}
	if err := d.throttle.Begin(ctx, p.Session, p.Remote.Addr(), user); err != nil {
		return nil, err
	}
	defer d.throttle.Dropped(p.Session)
	account, v, err := d.logins.Password(ctx, login.Attempt{From: p.Remote.Addr(), Mechanism: "pop3 " + p.Mechanism,
		User:   user,
		Secret: secret})
	switch {
	case err != nil:
		return nil, err
	case v == login.Wrong:
		d.throttle.Failed(p.Session)
		return nil, pop3.ErrAuth
	case v == login.WrongAgain:
		return nil, pop3.ErrAuth
	}
	d.throttle.Succeeded(p.Session)
	account = d.logins.UpgradeHash(ctx, d.replica, d.node, account, secret, d.log)
	return d.enter(ctx, account, p, false)
}

// Verifier implements pop3.SCRAM.
func (d *Service) Verifier(ctx context.Context, p *pop3.Peer, user string) (*sasl.Keys, error) {
	if err := d.mayAct(); err != nil {
		return nil, err
	}
	if err := d.throttle.Begin(ctx, p.Session, p.Remote.Addr(), user); err != nil {
		return nil, err
	}
	return login.ScramKeysOf(d.replica, user)
}

// Proven implements pop3.SCRAM.
func (d *Service) Proven(ctx context.Context, p *pop3.Peer, user string) (drop pop3.Maildrop, err error) {
	begin := time.Now()
	defer func() {
		if err == nil && d.took != nil {
			d.took(begin)
		}
	}()
	if err := d.mayAct(); err != nil {
		return nil, err
	}
	account, err := d.logins.Account(ctx, user, func(a *pb.Account) bool { return !a.Disabled })
	if err != nil {
		return nil, err
	}
	if account == nil {
		return nil, pop3.ErrAuth
	}
	d.throttle.Succeeded(p.Session)
	return d.enter(ctx, account, p, false)
}

// Disproven implements pop3.SCRAM.
func (d *Service) Disproven(ctx context.Context, p *pop3.Peer, user string, told *sasl.Keys) error {
	if err := d.logins.Disproven(ctx, user, told); err != nil {
		d.throttle.Dropped(p.Session)
		return err
	}
	d.throttle.Failed(p.Session)
	return pop3.ErrAuth
}

// SameAccount implements pop3.Backend.
func (d *Service) SameAccount(_ context.Context, one, other string) bool {
	return login.SameAccount(d.replica, one, other)
}

// Changed cuts sessions whose lock has ended, and looks for locks that no session
// here knows of. It runs on the apply goroutine and does not block.
func (d *Service) Changed(c spool.Changes) {
	if len(c.Taken) > 0 {
		d.locks.taken(c.Taken, d.replica.Epoch()) // first: a lock that was taken may be broken by now
	}
	if len(c.Broken) > 0 && c.Directory {
		if err := d.dismiss(c.Broken...); err != nil {
			d.log.Warn("cannot read whether the accounts of open sessions are there", zap.Error(err))
		}
	}
	if len(c.Broken)+len(c.Voided) > 0 {
		d.locks.broken(c.Broken, pop3.LostToOperator)
		d.locks.broken(c.Voided, pop3.LostSession)
	}
	if c.Restored {
		d.locks.loseAll(pop3.LostState, 0)
		d.locks.restored()
	}
	if len(c.Voided) > 0 || c.Restored {
		d.holders.wake()
	}
	if c.Directory || c.Restored {
		d.terms.stale.Store(true)
		d.directory.Store(true)
		d.wakeKeeper()
	}
}

// Watch cuts all sessions whenever the node's session ends, until ctx does.
func (d *Service) Watch(ctx context.Context) error {
	for {
		lost := d.sessionLost()
		select {
		case <-ctx.Done():
			return nil
		case <-lost:
			now := d.replica.Epoch() // the next session may be there already
			d.locks.loseAll(pop3.LostMajority, now)
		}
		// The next session brings a new channel.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}
