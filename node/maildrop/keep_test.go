package maildrop

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/pop3"
)

// lossy is a replica whose answers can get lost.
type lossy struct {
	*dropWorld
	lose map[spool.Kind]bool // applied, but nobody hears of it
	drop map[spool.Kind]bool // not applied
}

func newLossy(t *testing.T) *lossy {
	w := newDropWorld(t)
	l := &lossy{w, map[spool.Kind]bool{}, map[spool.Kind]bool{}}
	w.drops.replica = l
	return l
}

func (l *lossy) Propose(ctx context.Context, f spool.Frame) (*pb.Result, error) {
	kind := spool.Kind(f[1])
	if l.drop[kind] {
		return nil, fmt.Errorf("%w: no leader", cluster.ErrUnavailable)
	}
	res, err := l.Fake.Propose(ctx, f)
	if l.lose[kind] {
		return nil, fmt.Errorf("%w: the answer got lost", cluster.ErrUnknown)
	}
	return res, err
}

func (l *lossy) held() bool {
	var held bool
	require.NoError(l.t,
		l.View(func(v spool.View) (err error) { _, held, err = v.Lock("alice@example.test"); return err }))
	return held
}

func (l *lossy) keep() { require.NoError(l.t, l.drops.freeOrphans(context.Background())) }

// TestStrayLocks: a lock that no session holds is given back, however it came
// about; one that a session holds is not.
func TestStrayLocks(t *testing.T) {
	l := newLossy(t)
	l.lose[spool.KindLock] = true
	_, err := l.login()
	require.ErrorIs(t, err, cluster.ErrUnknown)
	require.True(t, l.held(), "it was taken all the same")
	l.keep()
	require.False(t, l.held())

	// The frame that was given up reaches a leader late.
	l.lose[spool.KindLock] = false
	l.Must(spool.KindLock, &pb.TakeLock{Mailbox: "alice@example.test", Node: "n1", Epoch: l.Session, Session: "s/late"})
	require.True(t, l.held())
	l.keep()
	require.False(t, l.held())

	// An Unlock that could not be said.
	m := l.mustLogin()
	l.keep()
	require.True(t, l.held(), "a session's own lock is no stray")
	l.drop[spool.KindUnlock] = true
	require.Error(t, m.Close())
	require.Error(t, l.drops.freeOrphans(t.Context()))
	require.True(t, l.held())
	l.drop[spool.KindUnlock] = false
	l.keep()
	require.False(t, l.held())
	require.Empty(t, l.drops.locks.orphans())

	// After a snapshot everything is looked at.
	l.Must(spool.KindLock, &pb.TakeLock{Mailbox: "alice@example.test", Node: "n1", Epoch: l.Session, Session: "s/old"})
	for _, one := range l.drops.locks.orphans() {
		l.drops.locks.freed(one)
	}
	l.drops.Changed(spool.Changes{Restored: true})
	l.keep()
	require.False(t, l.held())
}

// TestUncertainCommit: the outcome is seen at the next login, and the session can be
// closed.
func TestUncertainCommit(t *testing.T) {
	l := newLossy(t)
	l.deliver("a: 1\r\n\r\n")
	l.deliver("a: 2\r\n\r\n")
	m := l.mustLogin()
	l.lose[spool.KindRemove] = true
	require.ErrorIs(t, m.Commit(t.Context(), []int{0}, false), pop3.ErrUncertain)
	require.NoError(t, m.Close())
	m = l.mustLogin()
	require.Equal(t, 1, m.List().Len())
	require.ErrorIs(t, m.Commit(t.Context(), []int{0}, true), pop3.ErrUncertain)
	require.NoError(t, m.Close())
	l.keep()
	require.Zero(t, l.mustLogin().List().Len())
}

// TestLoginOfALostSession: a lock that was taken for a session of the node which
// has ended meanwhile serves nobody.
func TestLoginOfALostSession(t *testing.T) {
	l := newLossy(t)
	old := l.Session
	l.drops.replica = &switching{l, func() { l.Session = old + 1 }}
	_, err := l.login()
	require.ErrorIs(t, err, errNoSession)
	require.Empty(t, l.drops.locks.sessions())
}

// switching loses the node's session once a lock is taken.
type switching struct {
	*lossy
	after func()
}

func (s *switching) Propose(ctx context.Context, f spool.Frame) (*pb.Result, error) {
	res, err := s.lossy.Propose(ctx, f)
	if spool.Kind(f[1]) == spool.KindLock {
		s.after()
	}
	return res, err
}

func TestTerms(t *testing.T) {
	w := newDropWorld(t)
	require.NoError(t, w.drops.terms.refresh(w))
	keeps, delay := w.drops.Policies()
	require.False(t, keeps.Announce)
	require.Zero(t, delay)
	w.Change(func(a *pb.Account) { a.RetentionMs, a.LoginDelayMs = (72 * time.Hour).Milliseconds(), 60_000 })
	w.Must(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{
		Address: "bob@example.test", RetentionMs: (30 * time.Hour).Milliseconds(), LoginDelayMs: 90_000,
	}, Create: true})
	require.True(t, w.drops.terms.stale.Load())
	require.NoError(t, w.drops.terms.refresh(w))
	_, delay = w.drops.Policies()
	require.Zero(t, delay, "not every time")
	w.drops.terms.read = time.Time{}
	require.NoError(t, w.drops.terms.refresh(w))
	keeps, delay = w.drops.Policies()
	require.Equal(t, pop3.Retention{Announce: true, Days: 1, PerUser: true}, keeps)
	require.Equal(t, 90*time.Second, delay)
}

// TestExtensionsOfConfigurations: extensions that may be switched off are known by
// name.
