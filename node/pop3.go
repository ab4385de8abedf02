package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/pop3"
)

// maildrops is the POP3 side of a node: it opens mailboxes under the
// cluster-wide lock. It meets pop3.Backend.
type maildrops struct {
	replica     fenced
	sessionLost func() <-chan struct{}
	node        string
	passwords   *passwords
	throttle    *throttle
	log         *zap.Logger

	mu   sync.Mutex
	open map[string]map[*maildrop]struct{} // by mailbox
}

func newMaildrops(r fenced, lost func() <-chan struct{}, node string, p *passwords, t *throttle, log *zap.Logger) *maildrops {
	return &maildrops{replica: r, sessionLost: lost, node: node, passwords: p, throttle: t, log: log, open: map[string]map[*maildrop]struct{}{}}
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
	return d.take(ctx, account, p)
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
func (d *maildrops) take(ctx context.Context, a *pb.Account, p *pop3.Peer) (*maildrop, error) {
	epoch := d.replica.Epoch()
	if epoch == 0 || !time.Now().Before(d.replica.Until()) {
		return nil, errNoSession
	}
	res, err := propose(ctx, d.replica, spool.KindLock, &pb.TakeLock{
		Mailbox: a.Address, Node: d.node, Epoch: epoch, Session: p.Session, Remote: p.Remote.String(),
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
	set := d.open[m.account.Address]
	if set == nil {
		set = map[*maildrop]struct{}{}
		d.open[m.account.Address] = set
	}
	set[m] = struct{}{}
}

func (d *maildrops) forget(m *maildrop) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open[m.account.Address], m)
	if len(d.open[m.account.Address]) == 0 {
		delete(d.open, m.account.Address)
	}
}

// changed cuts sessions whose lock was broken. It runs on the apply goroutine
// and does not block.
func (d *maildrops) changed(c spool.Changes) {
	for _, mailbox := range c.Locks {
		d.cut(mailbox, "the lock was broken by the operator")
	}
	for _, mailbox := range c.Voided {
		d.cut(mailbox, "the session of a node has ended, and its locks with it")
	}
	if c.Restored {
		d.cutAll("this node's state was replaced by a newer one")
	}
}

func (d *maildrops) cut(mailbox, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for m := range d.open[mailbox] {
		m.lose(why)
	}
}

func (d *maildrops) cutAll(why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, set := range d.open {
		for m := range set {
			m.lose(why)
		}
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

// slot is one message in a frozen list: 16 octets.
type slot struct {
	uid  uint64
	size uint64
}

// maildrop is one mailbox under the lock of one POP3 session.
type maildrop struct {
	drops   *maildrops
	account *pb.Account
	peer    pop3.Peer
	epoch   uint64
	token   uint64
	box     uint64
	list    []slot
	prefix  string // of UIDs: the box, so that a UID is never given twice

	once     sync.Once
	lost     chan struct{}
	reason   string
	mu       sync.Mutex
	released bool
}

// freeze waits until this node has applied the lock and reads the list.
func (m *maildrop) freeze(ctx context.Context, index uint64) error {
	if err := m.drops.replica.WaitApplied(ctx, index); err != nil {
		return err
	}
	return m.drops.replica.View(func(v spool.View) error {
		box, ok, err := v.Mailbox(m.account.Address)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("mailbox %s is gone", m.account.Address)
		}
		m.box, m.prefix = box.Box, strconv.FormatUint(box.Box, 36)+"."
		m.list = make([]slot, 0, box.Messages)
		return v.Entries(box.Box, 0, func(uid uint64, e *pb.Entry) bool {
			m.list = append(m.list, slot{uid, e.Size})
			return true
		})
	})
}

// List implements pop3.Maildrop.
func (m *maildrop) List() pop3.List { return frozenList{m} }

// frozenList shows a maildrop's slots. UIDs are made on demand.
type frozenList struct{ m *maildrop }

func (l frozenList) Len() int         { return len(l.m.list) }
func (l frozenList) Size(i int) int64 { return int64(l.m.list[i].size) }
func (l frozenList) UID(i int) string {
	return l.m.prefix + strconv.FormatUint(l.m.list[i].uid, 36)
}
func (l frozenList) AppendUID(b []byte, i int) []byte {
	return strconv.AppendUint(append(b, l.m.prefix...), l.m.list[i].uid, 36)
}

// Open implements pop3.Maildrop.
func (m *maildrop) Open(_ context.Context, i int) (io.ReadCloser, error) {
	return m.open(m.list[i].uid)
}

func (m *maildrop) open(uid uint64) (io.ReadCloser, error) {
	var id spool.ID
	var header []byte
	var chunks uint32
	err := m.drops.replica.View(func(v spool.View) error {
		e, ok, err := v.Entry(m.box, uid)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("message %d of %s is gone", uid, m.account.Address)
		}
		copy(id[:], e.Id)
		header = e.Header
		refs, ok, err := v.Refs(id)
		if err == nil && !ok {
			err = fmt.Errorf("message %s has no body", id)
		}
		chunks = refs.GetChunks()
		return err
	})
	if err != nil {
		return nil, err
	}
	return m.drops.replica.OpenBody(id, chunks, header)
}

// Commit implements pop3.Maildrop: one command removes all, or none.
func (m *maildrop) Commit(ctx context.Context, deleted []int, release bool) error {
	uids := make([]uint64, len(deleted))
	for n, i := range deleted {
		uids[n] = m.list[i].uid
	}
	return m.commit(ctx, uids, release)
}

// maxRemove keeps one Remove inside a frame; a longer list goes in several
// commands under the same lock, the last of which gives it up.
const maxRemove = 60000

func (m *maildrop) commit(ctx context.Context, uids []uint64, release bool) error {
	if len(uids) > maxRemove {
		return fmt.Errorf("%d deletions are more than one session may commit (%d)", len(uids), maxRemove)
	}
	res, err := propose(ctx, m.drops.replica, spool.KindRemove, &pb.Remove{
		Mailbox: m.account.Address, Epoch: m.epoch, Token: m.token, Uids: uids, Unlock: release, Node: m.drops.node,
	})
	if err != nil {
		return err
	}
	if res.Code != pb.Code_OK && res.Code != pb.Code_DUPLICATE {
		return fmt.Errorf("remove refused: %s %s", res.Code, res.Text)
	}
	if release {
		m.mu.Lock()
		m.released = true
		m.mu.Unlock()
		m.drops.forget(m)
	}
	return nil
}

// Close implements pop3.Maildrop. The lock goes through the log like any
// other change; where that fails it ends with the node's session.
func (m *maildrop) Close() error {
	m.mu.Lock()
	done := m.released
	m.released = true
	m.mu.Unlock()
	m.drops.forget(m)
	if done {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := propose(ctx, m.drops.replica, spool.KindUnlock, &pb.Unlock{Mailbox: m.account.Address, Epoch: m.epoch, Token: m.token})
	return err
}

func (m *maildrop) lose(why string) {
	m.once.Do(func() {
		m.reason = why
		close(m.lost)
	})
}

// Lost implements pop3.Maildrop.
func (m *maildrop) Lost() <-chan struct{} { return m.lost }

// LostReason implements pop3.Maildrop; valid once Lost is closed.
func (m *maildrop) LostReason() string { return m.reason }

// Wake implements pop3.Maildrop.
func (m *maildrop) Wake(ctx context.Context) (pop3.Maildrop, error) {
	account, err := lookupAccount(m.drops.replica, m.account.Address)
	if err != nil {
		return nil, err
	}
	if account == nil || account.Disabled || account.Password != m.account.Password {
		return nil, pop3.ErrAuth
	}
	return m.drops.take(ctx, account, &m.peer)
}
