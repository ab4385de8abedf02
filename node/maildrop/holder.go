package maildrop

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"relay/cluster/spool"
	"relay/node/login"
	"relay/pop3"
)

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

// dismiss cuts the sessions of accounts that were removed, disabled or given
// another password since the login. It may be called at any time; changed has it
// called when the directory has changed.
func (d *Service) dismiss() error {
	d.mu.Lock()
	open := slices.Collect(maps.Values(d.open))
	d.mu.Unlock()
	return d.dismissOf(open)
}

// dismissBroken does it for sessions whose lock has just gone: with their account,
// perhaps.
func (d *Service) dismissBroken(tokens []uint64) error {
	d.mu.Lock()
	var open []*maildrop
	for _, token := range tokens {
		if m := d.open[token]; m != nil {
			open = append(open, m)
		}
	}
	d.mu.Unlock()
	return d.dismissOf(open)
}

func (d *Service) dismissOf(open []*maildrop) error {
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
				m.lose(why)
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
