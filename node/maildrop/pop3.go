// Package maildrop is the POP3 side of a node: it opens mailboxes under the lock that holds in
// the whole cluster, lists them as they were then, and gives locks back that no session holds.
package maildrop

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
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
	directory   atomic.Bool // it has changed: some sessions may have to end

	takes atomic.Uint64 // numbers attempts to lock, so that none is taken for another
	terms terms
	lists lists
	stir  chan struct{} // there are locks to give back

	mu      sync.Mutex
	open    map[uint64]*maildrop    // by token
	taking  map[string]*attempt     // under way, by name
	orphans map[uint64]orphanedLock // by token: locks to give back
	search  bool                    // look through the replica for more of them
	ended   map[uint64]struct{}     // tokens of sessions that ended before this node has applied their lock

	contested map[string]time.Time // mailboxes, and when a login was last refused by their lock
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
		open: map[uint64]*maildrop{}, taking: map[string]*attempt{}, orphans: map[uint64]orphanedLock{},
		ended: map[uint64]struct{}{}, contested: map[string]time.Time{},
	}
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

// SameAccount implements pop3.AccountMatcher.
func (d *Service) SameAccount(_ context.Context, one, other string) bool {
	return login.SameAccount(d.replica, one, other)
}

// take locks the mailbox for one session and freezes its list. If the lock's
// holder is on a node that does not answer it waits for that node's session to
// end.
func (d *Service) take(ctx context.Context, a *pb.Account, p *pop3.Peer, wake bool) (*maildrop, error) {
	until := time.Now().Add(holderPatience)
	for {
		m, err := d.tryTake(ctx, a, p, wake)
		if err == nil || !d.outlive(ctx, a.Address, err, until) {
			return m, err
		}
	}
}

func (d *Service) tryTake(ctx context.Context, a *pb.Account, p *pop3.Peer, wake bool) (*maildrop, error) {
	if err := d.mayAct(); err != nil {
		return nil, err
	}
	if d.refusing != nil {
		if err := d.refusing(); err != nil {
			return nil, fmt.Errorf("%w: %w", pop3.ErrLeaving, err)
		}
	}
	epoch := d.replica.Epoch()
	if err := d.inUse(ctx, a); err != nil {
		return nil, err
	}
	name := p.Session + "/" + strconv.FormatUint(d.takes.Add(1), 36)
	d.begin(name)
	res, err := replica.Propose(ctx, d.replica, spool.KindLock, &pb.TakeLock{
		Mailbox: a.Address, Node: d.node, Epoch: epoch, Wake: wake, Remote: p.Remote.String(), Session: name,
	})
	if err != nil || res.Code != pb.Code_OK && res.Code != pb.Code_DUPLICATE {
		d.abandon(name)
		if res.GetCode() == pb.Code_BUSY {
			d.contest(a.Address)
		}
		return nil, notTaken(res, err)
	}
	m := &maildrop{drops: d, account: a, peer: *p, epoch: epoch, token: res.Token, lost: make(chan struct{})}
	doubts := d.register(name, m)
	if d.replica.Epoch() != epoch { // the watch may have looked before
		err = errNoSession
	} else {
		err = m.freeze(ctx, res, doubts)
	}
	if err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

// contestedFor is how long a mailbox counts as contested after a refusal.
const contestedFor = 2 * time.Second

// contest notes that a login was refused by a lock.
func (d *Service) contest(mailbox string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.contested) >= 10_000 {
		clear(d.contested)
	}
	d.contested[mailbox] = time.Now()
}

// inUse refuses a login where somebody else holds the mailbox, without a command,
// if a command was refused shortly before: clients that fight for a mailbox write
// nothing to anybody's disk, and all others pay nothing for them. The replica's answer
// may be old, so the replica is asked once more when it is up to date: a client never
// meets the lock of its own last session.
func (d *Service) inUse(ctx context.Context, a *pb.Account) error {
	d.mu.Lock()
	since, ok := d.contested[a.Address]
	d.mu.Unlock()
	if !ok || a.Shared || time.Since(since) > contestedFor {
		return nil
	}
	if held, err := d.holder(a.Address); err != nil || held == nil {
		return err
	}
	if err := d.replica.Consistent(ctx); err != nil {
		return nil // the command itself will tell
	}
	held, err := d.holder(a.Address)
	if err != nil || held == nil {
		return err
	}
	return &pop3.InUseError{Since: time.UnixMilli(held.SinceMs), Node: held.Node}
}

func (d *Service) holder(mailbox string) (*pb.Lock, error) {
	var held *pb.Lock
	err := d.replica.View(func(v spool.View) error {
		l, ok, err := v.Lock(mailbox)
		if ok {
			held = l
		}
		return err
	})
	return held, err
}

// notTaken says in the words of package pop3 why there is no lock.
func notTaken(res *pb.Result, err error) error {
	switch {
	case err != nil:
		return err
	case res.Code == pb.Code_BUSY:
		return &pop3.InUseError{Since: time.UnixMilli(res.Lock.GetSinceMs()), Node: res.Lock.GetNode()}
	case res.Code == pb.Code_MISSING:
		return pop3.ErrAuth
	case res.Code == pb.Code_TOO_SOON:
		return pop3.ErrLoginDelay
	}
	return fmt.Errorf("lock refused: %s %s", res.Code, res.Text)
}

// Changed cuts sessions whose lock has ended, and looks for locks that no session
// here knows of. It runs on the apply goroutine and does not block.
func (d *Service) Changed(c spool.Changes) {
	if len(c.Taken) > 0 {
		d.taken(c.Taken) // first: a lock that was taken may be broken by now
	}
	if len(c.Broken) > 0 && c.Directory {
		if err := d.dismissBroken(c.Broken); err != nil {
			d.log.Warn("cannot read whether the accounts of open sessions are there", zap.Error(err))
		}
	}
	if len(c.Broken)+len(c.Voided) > 0 {
		d.cut(c.Broken, pop3.LostToOperator)
		d.cut(c.Voided, pop3.LostSession)
	}
	if c.Restored {
		d.cutAll(pop3.LostState, func(*maildrop) bool { return true })
		d.restored()
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

func (d *Service) cut(tokens []uint64, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, token := range tokens {
		if m := d.open[token]; m != nil {
			m.lose(why)
			continue
		}
		for _, one := range d.taking {
			one.doubts = one.doubts || one.token == token
		}
	}
}

func (d *Service) cutAll(why string, which func(*maildrop) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.open {
		if which(m) {
			m.lose(why)
		}
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
			d.cutAll(pop3.LostMajority, func(m *maildrop) bool { return m.epoch != now })
		}
		// The next session brings a new channel.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}
