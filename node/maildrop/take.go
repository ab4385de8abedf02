package maildrop

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica"
	"relay/pop3"
)

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
	l := d.locks.ask(name, a.Address, epoch)
	res, err := replica.Propose(ctx, d.replica, spool.KindLock, &pb.TakeLock{
		Mailbox: a.Address, Node: d.node, Epoch: epoch, Wake: wake, Remote: p.Remote.String(), Session: name,
	})
	if err != nil || res.Code != pb.Code_OK && res.Code != pb.Code_DUPLICATE {
		d.locks.fail(l)
		if res.GetCode() == pb.Code_BUSY {
			d.contests.note(a.Address)
		}
		return nil, notTaken(res, err)
	}
	m := &maildrop{drops: d, account: a, peer: *p, lock: l}
	doubts := d.locks.grant(l, res.Token, m)
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

// contests are the mailboxes in which a login was refused by a lock, and when. The zero value has none.
type contests struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (c *contests) note(mailbox string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == nil || len(c.at) >= 10_000 {
		c.at = map[string]time.Time{}
	}
	c.at[mailbox] = time.Now()
}

// fresh reports whether a login was refused a moment ago.
func (c *contests) fresh(mailbox string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.at[mailbox]
	return ok && time.Since(at) <= contestedFor
}

// inUse refuses a login where somebody else holds the mailbox, without a command,
// if a command was refused shortly before: clients that fight for a mailbox write
// nothing to anybody's disk, and all others pay nothing for them. The replica's answer
// may be old, so the replica is asked once more when it is up to date: a client never
// meets the lock of its own last session.
func (d *Service) inUse(ctx context.Context, a *pb.Account) error {
	if a.Shared || !d.contests.fresh(a.Address) {
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

// Bounds of the wait for a lock whose holder's node does not answer.
const (
	holderPatience = 6 * time.Second // by then its session has ended: package cluster, lease and margin
	holderLook     = time.Second     // the node may answer again, and its session lives on
	answerFresh    = 100 * time.Millisecond
)

// holders knows whether the nodes that hold locks answer.
type holders struct {
	ask func(ctx context.Context, node string) bool // nil: all do

	mu    sync.Mutex
	heard map[string]time.Time // when a question was asked that was answered
	void  chan struct{}        // closed when locks end with a node's session; nil: nobody waits
}

// answers reports whether a node answers. Many logins that meet its locks make no
// more than ten questions a second.
func (h *holders) answers(ctx context.Context, node string) bool {
	if h.ask == nil {
		return true
	}
	began := time.Now()
	h.mu.Lock()
	fresh := began.Sub(h.heard[node]) < answerFresh
	h.mu.Unlock()
	if fresh || !h.ask(ctx, node) {
		return fresh
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.heard == nil {
		h.heard = map[string]time.Time{}
	}
	h.heard[node] = began
	return true
}

// voided returns a channel that is closed when locks end with a node's session.
func (h *holders) voided() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.void == nil {
		h.void = make(chan struct{})
	}
	return h.void
}

// wake tells those who wait that locks have ended.
func (h *holders) wake() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.void != nil {
		close(h.void)
		h.void = nil
	}
}

// outlive waits while a mailbox is held by a session on a node that does not
// answer: mail programs take [IN-USE] for a wrong password and ask their user. It
// reports whether that session is over, so that the lock may be free; not where
// the node answers, or the time is up.
func (d *Service) outlive(ctx context.Context, mailbox string, err error, until time.Time) bool {
	busy, ok := errors.AsType[*pop3.InUseError](err)
	if !ok || busy.Node == "" || busy.Node == d.node {
		return false
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	look := time.NewTicker(holderLook)
	defer look.Stop()
	for !d.holders.answers(ctx, busy.Node) {
		void := d.holders.voided()
		if held, err := d.holder(mailbox); err != nil || held == nil || held.Node != busy.Node {
			return err == nil
		}
		select {
		case <-ctx.Done():
			return false
		case <-void:
		case <-look.C:
		}
	}
	return false
}
