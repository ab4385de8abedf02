package node

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/pop3"
)

// maildrops is the POP3 side of a node: it opens mailboxes under the
// cluster-wide lock. It meets pop3.Backend and pop3.SCRAM.
type maildrops struct {
	replica     fenced
	sessionLost func() <-chan struct{}
	node        string
	passwords   *passwords
	throttle    *throttle
	log         *zap.Logger

	takes atomic.Uint64 // numbers attempts to lock, so that none is taken for another

	mu   sync.Mutex
	open map[uint64]*maildrop // by token
}

func newMaildrops(r fenced, lost func() <-chan struct{}, node string, p *passwords, t *throttle, log *zap.Logger) *maildrops {
	return &maildrops{replica: r, sessionLost: lost, node: node, passwords: p, throttle: t, log: log, open: map[uint64]*maildrop{}}
}

var errNoSession = errors.New("this node has no right to act: it has lost contact with the majority")

// Login implements pop3.Backend.
func (d *maildrops) Login(ctx context.Context, p *pop3.Peer, user, secret string) (pop3.Maildrop, error) {
	if err := d.throttle.wait(ctx, p.Remote.Addr()); err != nil {
		return nil, err
	}
	account, err := lookupAccount(d.replica, user)
	if err != nil {
		return nil, err
	}
	ok, err := d.passwords.verify(ctx, account, secret)
	if err != nil {
		return nil, err
	}
	if !ok || account.Disabled {
		d.throttle.failed(p.Remote.Addr())
		return nil, pop3.ErrAuth
	}
	d.throttle.succeeded(p.Remote.Addr())
	account = d.passwords.improve(ctx, d.replica, d.node, account, secret, d.log)
	return d.take(ctx, account, p, false)
}

// Verifier implements pop3.SCRAM.
func (d *maildrops) Verifier(ctx context.Context, p *pop3.Peer, user string) (pop3.Verifier, error) {
	if err := d.throttle.wait(ctx, p.Remote.Addr()); err != nil {
		return pop3.Verifier{}, err
	}
	keys, err := scramKeysOf(d.replica, user)
	if err != nil {
		return pop3.Verifier{}, err
	}
	return pop3Keys(keys), nil
}

// Proven implements pop3.SCRAM.
func (d *maildrops) Proven(ctx context.Context, p *pop3.Peer, user string) (pop3.Maildrop, error) {
	account, err := lookupAccount(d.replica, user)
	if err != nil {
		return nil, err
	}
	if account == nil || account.Disabled {
		return nil, pop3.ErrAuth
	}
	d.throttle.succeeded(p.Remote.Addr())
	return d.take(ctx, account, p, false)
}

// Disproven implements pop3.SCRAM.
func (d *maildrops) Disproven(_ context.Context, p *pop3.Peer, _ string) {
	d.throttle.failed(p.Remote.Addr())
}

// lookupAccount finds an account by its whole address or, in the default
// domain, by its local part; nil where there is none.
func lookupAccount(r replica, user string) (*pb.Account, error) {
	var account *pb.Account
	err := r.View(func(v spool.View) error {
		address, err := qualify(v, strings.ToLower(user))
		if err != nil {
			return ignoreNoDomain(err)
		}
		a, ok, err := v.Account(address)
		if ok {
			account = a
		}
		return err
	})
	return account, err
}

func ignoreNoDomain(err error) error {
	if errors.Is(err, errNoDomain) {
		return nil
	}
	return err
}

// take locks the mailbox for one session and freezes its list.
func (d *maildrops) take(ctx context.Context, a *pb.Account, p *pop3.Peer, wake bool) (*maildrop, error) {
	epoch := d.replica.Epoch()
	if epoch == 0 || !time.Now().Before(d.replica.Until()) {
		return nil, errNoSession
	}
	res, err := propose(ctx, d.replica, spool.KindLock, &pb.TakeLock{
		Mailbox: a.Address, Node: d.node, Epoch: epoch, Wake: wake, Remote: p.Remote.String(),
		Session: p.Session + "/" + strconv.FormatUint(d.takes.Add(1), 36),
	})
	if err != nil {
		return nil, err
	}
	switch res.Code {
	case pb.Code_OK, pb.Code_DUPLICATE:
	case pb.Code_BUSY:
		return nil, &pop3.InUseError{Since: time.UnixMilli(res.Lock.GetSinceMs()), Node: res.Lock.GetNode()}
	case pb.Code_MISSING:
		return nil, pop3.ErrAuth
	case pb.Code_TOO_SOON:
		return nil, pop3.ErrLoginDelay
	default:
		return nil, fmt.Errorf("lock refused: %s %s", res.Code, res.Text)
	}
	m := &maildrop{drops: d, account: a, peer: *p, epoch: epoch, token: res.Token, lost: make(chan struct{})}
	d.register(m)
	if err := m.freeze(ctx, res.Index); err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

func (d *maildrops) register(m *maildrop) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open[m.token] = m
}

func (d *maildrops) forget(m *maildrop) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, m.token)
}

// changed cuts sessions whose lock has ended. It runs on the apply goroutine
// and does not block.
func (d *maildrops) changed(c spool.Changes) {
	if len(c.Broken)+len(c.Voided) > 0 {
		d.cut(c.Broken, "the lock was broken by the operator")
		d.cut(c.Voided, "the session of this node has ended, and its locks with it")
	}
	if c.Restored {
		d.cutAll("this node's state was replaced by a newer one")
	}
}

func (d *maildrops) cut(tokens []uint64, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, token := range tokens {
		if m := d.open[token]; m != nil {
			m.lose(why)
		}
	}
}

func (d *maildrops) cutAll(why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.open {
		m.lose(why)
	}
}

// watch cuts all sessions whenever the node's session ends, until ctx does.
func (d *maildrops) watch(ctx context.Context) error {
	for {
		lost := d.sessionLost()
		select {
		case <-ctx.Done():
			return nil
		case <-lost:
			d.cutAll("this node has lost contact with the majority")
		}
		// The next session brings a new channel.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}
