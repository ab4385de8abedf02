package maildrop

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica/replicatest"
	"relay/pop3"
)

// follower is a node that applies when it is told to, and when somebody waits
// for it.
type follower struct {
	*lossy
	*replicatest.Behind
}

func newFollower(t *testing.T) *follower {
	l := newLossy(t)
	require.NoError(t, l.mustLogin().Close()) // the first one improves the password
	f := &follower{l, replicatest.NewBehind(l.Fake, func() { l.drops.Changed(l.Machine.Changes()) })}
	f.wire(f, 3)
	f.later = true
	for range 3 {
		f.deliver("a: b\r\n\r\n")
	}
	f.CatchUp()
	return f
}

// elsewhere is a session on another node that deletes messages.
func (f *follower) elsewhere(uids ...uint64) {
	epoch := f.Must(spool.KindRegister, &pb.Register{
		Nonce: fmt.Sprint(f.Index), Member: &pb.Member{Id: "n2", MaxCommand: spool.MaxVersion},
	}).Epoch
	held := f.Must(spool.KindLock, &pb.TakeLock{Mailbox: "alice@example.test", Node: "n2", Epoch: epoch, Session: "s"})
	f.Must(spool.KindRemove, &pb.Remove{
		Mailbox: "alice@example.test", Epoch: epoch, Token: held.Token, Ranges: spool.AppendRanges(nil, uids), Unlock: true,
	})
}

func uidsOf(m pop3.Maildrop) (uids []string) {
	for i := range m.List().Len() {
		uids = append(uids, pop3.UID(m.List(), i)[len(m.(*maildrop).prefix):])
	}
	return uids
}

// TestLoginOnAFollower: a node that is behind waits where the mailbox has changed
// since, and only there.
func TestLoginOnAFollower(t *testing.T) {
	f := newFollower(t)
	commands := func() int { return len(f.Frames) }
	m := f.mustLogin()
	require.Zero(t, f.Waits)
	require.Equal(t, []string{"1", "2", "3"}, uidsOf(m))
	before := commands()
	require.NoError(t, m.Commit(t.Context(), nil, true))
	f.CatchUp()
	f.keep()
	require.Equal(t, before+1, commands(), "no stray is made of a session that was over before its lock was seen")
	require.Zero(t, f.drops.locks.count[lockEnded])

	for n, change := range []struct {
		name string
		do   func()
		want []string
	}{
		{"a message came", func() { f.deliver("a: c\r\n\r\n") }, []string{"1", "2", "3", "4"}},
		{"another session deleted", func() { f.elsewhere(2, 4) }, []string{"1", "3"}},
		{"one came, one went", func() { f.deliver("a: d\r\n\r\n"); f.elsewhere(1) }, []string{"3", "5"}},
		{"another account of that name", func() {
			f.Must(spool.KindDropAccount, &pb.DropAccount{Address: "alice@example.test"})
			f.Must(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: "alice@example.test"}, Create: true})
			f.deliver("a: e\r\n\r\n")
		}, []string{"1"}},
	} {
		change.do()
		m := f.mustLogin()
		require.Equal(t, n+1, f.Waits, change.name)
		require.Equal(t, change.want, uidsOf(m), change.name)
		require.NoError(t, m.Close())
		f.CatchUp()
	}
	require.Empty(t, f.drops.locks.orphans())
}

// TestLockBrokenBeforeItIsSeen: a session does not outlive its lock, although its
// node has not seen either yet.
func TestLockBrokenBeforeItIsSeen(t *testing.T) {
	f := newFollower(t)
	m := f.mustLogin()
	lost := lostOf(m)
	f.Must(spool.KindBreakLock, &pb.BreakLock{Mailbox: "alice@example.test"})
	require.Empty(t, m.(*maildrop).lock.reason, "nothing is known of it here")
	require.ErrorIs(t, m.Commit(t.Context(), []int{0}, true), pop3.ErrUncertain)
	f.CatchUp()
	<-lost
	require.NoError(t, m.Close())

	// It is broken, and that is seen, while the answer is still on its way.
	for name, see := range map[string]func(){
		"at once":       func() { f.CatchUp() },
		"in a snapshot": func() { f.Machine.Changes(); f.CatchUp(); f.drops.Changed(spool.Changes{Restored: true}) },
	} {
		f.drops.replica = &answering{f, func() {
			f.Must(spool.KindBreakLock, &pb.BreakLock{Mailbox: "alice@example.test"})
			see()
		}}
		_, err := f.login()
		require.ErrorIs(t, err, errLockGone, name)
		f.keep()
		require.Empty(t, f.drops.locks.sessions())
		require.False(t, f.held())
	}

	// In two steps: the lock first, its end later.
	f.drops.replica = &answering{f, func() {
		f.CatchUp()
		f.Must(spool.KindBreakLock, &pb.BreakLock{Mailbox: "alice@example.test"})
		f.CatchUp()
	}}
	_, err := f.login()
	require.ErrorIs(t, err, errLockGone)
}

// answering does something before a TakeLock is answered.
type answering struct {
	*follower
	before func()
}

func (a *answering) Propose(ctx context.Context, frame spool.Frame) (*pb.Result, error) {
	res, err := a.follower.Propose(ctx, frame)
	if spool.Kind(frame[1]) == spool.KindLock {
		a.before()
	}
	return res, err
}

// TestUnlockLostBeforeTheLockIsSeen: such a lock is given back once it is seen.
func TestUnlockLostBeforeTheLockIsSeen(t *testing.T) {
	f := newFollower(t)
	m := f.mustLogin()
	f.drop[spool.KindUnlock] = true
	require.Error(t, m.Close())
	f.drop[spool.KindUnlock] = false
	f.keep() // sees no lock yet
	f.CatchUp()
	require.True(t, f.held())
	f.keep()
	f.CatchUp()
	require.False(t, f.held())
	f.keep()
	require.Empty(t, f.drops.locks.orphans())
}

// TestManySessionsBeforeTheirLocksAreSeen: the memory of them is bounded and goes when
// they are seen.
func TestManySessionsBeforeTheirLocksAreSeen(t *testing.T) {
	f := newFollower(t)
	for n := range 3 {
		m := f.mustLogin()
		require.NoError(t, m.Commit(t.Context(), nil, true))
		require.NoError(t, m.Close())
		require.Equal(t, n+1, f.drops.locks.count[lockEnded], fmt.Sprint(n))
	}
	f.CatchUp()
	require.Zero(t, f.drops.locks.count[lockEnded])
	m := f.mustLogin()
	f.drops.Changed(spool.Changes{Restored: true})
	<-lostOf(m)
	require.NoError(t, m.Close())
	require.Zero(t, f.drops.locks.count[lockEnded], "a snapshot may contain the lock")
}

// TestListIsReadOnce: a login to a mailbox in which nothing has changed reads it
// not again.
func TestListIsReadOnce(t *testing.T) {
	f := newFollower(t)
	for range 3 {
		m := f.mustLogin()
		require.Equal(t, []string{"1", "2", "3"}, uidsOf(m))
		require.NoError(t, m.Commit(t.Context(), nil, true))
		f.CatchUp()
	}
	require.Equal(t, 1, f.Reads)
	m := f.mustLogin()
	require.NoError(t, m.Commit(t.Context(), []int{1}, true))
	f.CatchUp()
	require.Equal(t, []string{"1", "3"}, uidsOf(f.mustLogin()))
	require.Equal(t, 2, f.Reads)
	require.Zero(t, f.Waits)
	require.Equal(t, 3, m.List().Len(), "the list of a session does not change")
}

func TestListsAreBounded(t *testing.T) {
	var l lists
	box := func(n int) *pb.Mailbox { return &pb.Mailbox{Box: 1, NextUid: uint64(n) + 1, Messages: uint64(n)} }
	sum := func() (n int) {
		for _, one := range l.by {
			n += one.cost()
		}
		return n
	}
	for n := range 100 {
		l.keep(fmt.Sprint(n), box(10_000), listed{list: make([]slot, 10_000)})
		require.LessOrEqual(t, l.cost, listsCost)
		require.Equal(t, l.cost, sum())
	}
	list, ok := l.find("99", box(10_000))
	require.True(t, ok)
	require.Len(t, list.list, 10_000)
	_, ok = l.find("99", box(9_999))
	require.False(t, ok)
	_, ok = l.find("99", nil)
	require.False(t, ok, "an older leader tells nothing")
	l.keep("99", box(listsCost), listed{list: make([]slot, listsCost)})
	_, ok = l.find("99", box(listsCost))
	require.False(t, ok, "too large")
	require.NotEmpty(t, l.by)
	l.keep("one", box(1), listed{list: make([]slot, 1)})
	require.Equal(t, l.cost, sum())
}

// TestQuitWithoutDeletions: it costs an Unlock, and that the lock is gone already
// is no fault.
func TestQuitWithoutDeletions(t *testing.T) {
	w := newLossy(t)
	w.deliver("a: b\r\n\r\n")
	m := w.mustLogin()
	require.NoError(t, m.Commit(t.Context(), nil, true))
	require.Equal(t, spool.KindUnlock, w.Frames[len(w.Frames)-1].Kind())
	require.False(t, w.held())

	m = w.mustLogin()
	w.Must(spool.KindBreakLock, &pb.BreakLock{Mailbox: "alice@example.test"})
	require.NoError(t, m.Commit(t.Context(), nil, true))

	m = w.mustLogin()
	w.lose[spool.KindUnlock] = true
	require.ErrorIs(t, m.Commit(t.Context(), nil, true), pop3.ErrUncertain)
	w.lose[spool.KindUnlock] = false
	require.NoError(t, m.Close())
	require.Equal(t, 1, w.mustLogin().List().Len())
}
