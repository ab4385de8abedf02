package maildrop

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/login"
	"relay/node/replica"
	"relay/node/replica/replicatest"
	"relay/pop3"
	"relay/pop3/pop3test"
)

// dropWorld is a node's POP3 side on a replica of its own.
type dropWorld struct {
	*replicatest.Fake
	t        testing.TB
	drops    *Service
	throttle *login.Throttle
	ids      byte
	later    bool // changes are told later
}

// cheapHash is login.HashPassword for tests, in which hashing is no subject.
func cheapHash(secret string) (string, error) { return login.Argon{Time: 1, Memory: 8}.Hash(secret) }

func newDropWorld(t testing.TB) *dropWorld {
	w := &dropWorld{Fake: replicatest.New(t), t: t}
	w.wire(w, 3)
	w.Applied = func() { // as a node's store does
		if !w.later {
			w.drops.Changed(w.Machine.Changes())
		}
	}
	w.Register()
	w.AddAlice(w.secret("secret"))
	return w
}

func (w *dropWorld) secret(text string) string {
	w.t.Helper()
	hash, err := cheapHash(text)
	require.NoError(w.t, err)
	return hash
}

// wire makes the maildrops anew, on a replica. So many wrong passwords are free.
func (w *dropWorld) wire(r replica.Fenced, free int) {
	logins, err := login.NewService(r, replica.NewConfirmer(r, zap.NewNop()), cheapHash)
	require.NoError(w.t, err)
	w.throttle = login.NewThrottle(free, r, "n1", nil, login.NewFamiliar(), zap.NewNop())
	w.drops = New(Config{
		Replica: r, SessionLost: func() <-chan struct{} { return nil }, Node: "n1", Logins: logins,
		Throttle: w.throttle, Log: zap.NewNop(),
	})
}

// failures is how many logins of a network count against it.
func (w *dropWorld) failures(from netip.AddrPort) int {
	w.t.Helper()
	n, err := w.throttle.Count(login.Network(from.Addr()).String())
	require.NoError(w.t, err)
	return n
}

// deliver puts a message into alice's mailbox.
func (w *dropWorld) deliver(body string) {
	w.t.Helper()
	w.ids++
	id := spool.ID{1, 2, w.ids}
	f, err := spool.Encode(spool.KindAccept, &pb.Accept{
		Message: &pb.Message{Id: id[:]}, Inline: true, Drops: []*pb.Drop{
			{Mailbox: "alice@example.test", Header: []byte("Delivered-To: a\r\n")},
		},
	}, []byte(body))
	require.NoError(w.t, err)
	_, err = w.Propose(context.Background(), f)
	require.NoError(w.t, err)
}

func (w *dropWorld) login() (pop3.Maildrop, error) {
	return w.drops.Login(context.Background(), &pop3.Peer{Session: "s"}, "alice", "secret")
}

func (w *dropWorld) mustLogin() pop3.Maildrop {
	w.t.Helper()
	m, err := w.login()
	require.NoError(w.t, err)
	return m
}

func TestMaildropsConform(t *testing.T) {
	pop3test.Conform(t, func(t *testing.T) pop3test.Fixture {
		w := newDropWorld(t)
		return pop3test.Fixture{
			Backend: w.drops, User: "alice", Secret: "secret", Deliver: func(_ *testing.T, body string) { w.deliver(body) },
		}
	})
}

func TestLateMessages(t *testing.T) {
	w := newDropWorld(t)
	w.deliver("a: 1\r\n\r\n")
	m := w.mustLogin().(*maildrop)
	w.deliver("a: 2\r\n\r\n")
	w.deliver("a: 3\r\n\r\n")
	uid := func(n int) string { return fmt.Sprintf("%s%d", m.prefix, n) }
	i3, size, err := m.Late(t.Context(), uid(3))
	require.NoError(t, err)
	i2, _, err := m.Late(t.Context(), uid(2))
	require.NoError(t, err)
	again, _, err := m.Late(t.Context(), uid(3))
	require.NoError(t, err)
	require.Equal(t, i3, again)
	require.NotEqual(t, i2, i3)
	require.Equal(t, 1, m.List().Len())
	r, err := m.Open(t.Context(), i3)
	require.NoError(t, err)
	text, _ := io.ReadAll(r)
	require.Contains(t, string(text), "a: 3")
	require.EqualValues(t, len(text), size)
	for _, bad := range []string{"", m.prefix, m.prefix + "0", m.prefix + "02", m.prefix + "+2", "x.2", m.prefix + "99"} {
		_, _, err := m.Late(t.Context(), bad)
		require.ErrorIs(t, err, pop3.ErrNoMessage, bad)
	}
	require.NoError(t, m.Commit(t.Context(), []int{0, i3, i2}, true))
	require.Zero(t, w.mustLogin().List().Len())
}

func TestMaildropFind(t *testing.T) {
	w := newDropWorld(t)
	for range 40 {
		w.deliver("a: b\r\n\r\n")
	}
	l := w.mustLogin().List().(frozenList)
	for i := range l.Len() {
		got, ok := l.Find(pop3.UID(l, i))
		require.True(t, ok)
		require.Equal(t, i, got)
	}
	for _, bad := range []string{"", l.m.prefix + "Z", l.m.prefix + "zz", "1.1.1"} {
		_, ok := l.Find(bad)
		require.False(t, ok, bad)
	}
}

// TestKeptUniqueIDs: a message shows the unique id that it brought, in every list and
// to every session, and no other one finds it.
func TestKeptUniqueIDs(t *testing.T) {
	w := newDropWorld(t)
	w.Must(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	w.Must(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	kept := func(n byte, uidl string) {
		id := spool.ID{9, 15: n}
		w.Must(spool.KindImport, &pb.Import{Messages: []*pb.Old{{Key: id[:], Accept: &pb.Accept{
			Message: &pb.Message{Id: id[:], Size: 6}, Inline: true,
			Drops: []*pb.Drop{{Mailbox: "alice@example.test", Recipient: "alice@example.test", Uidl: uidl}},
		}}}}, []byte("a: 2\r\n"))
	}
	w.deliver("a: 1\r\n\r\n")
	kept(1, "~old!")
	for range 2 { // the list is read, then found
		m := w.mustLogin().(*maildrop)
		l := m.List().(frozenList)
		require.Equal(t, []string{m.prefix + "1", "~old!"}, []string{pop3.UID(l, 0), pop3.UID(l, 1)})
		at, ok := l.Find("~old!")
		require.True(t, ok)
		require.Equal(t, 1, at)
		_, ok = l.Find(m.prefix + "2")
		require.False(t, ok, "it has one unique id")
		require.NoError(t, m.Close())
	}
	m := w.mustLogin().(*maildrop)
	kept(2, "late")
	i, size, err := m.Late(t.Context(), "late")
	require.NoError(t, err)
	require.EqualValues(t, 6, size)
	_, _, err = m.Late(t.Context(), m.prefix+"3")
	require.ErrorIs(t, err, pop3.ErrNoMessage)
	require.NoError(t, m.Commit(t.Context(), []int{1, i}, true))
	kept(3, "~old!")
	l := w.mustLogin().List()
	require.Equal(t, "~old!", pop3.UID(l, 1))
	require.Equal(t, 2, l.Len())
}

func TestUnlockCutsTheSession(t *testing.T) {
	w := newDropWorld(t)
	w.deliver("a: 1\r\n\r\n")
	m := w.mustLogin()
	w.Must(spool.KindBreakLock, &pb.BreakLock{Mailbox: "alice@example.test"})
	require.Contains(t, <-lostOf(m), "operator")
	next := w.mustLogin()
	require.Error(t, m.Commit(t.Context(), []int{0}, true))
	require.Equal(t, 1, next.List().Len())
	require.Empty(t, next.(*maildrop).lock.reason, "the next session was cut, too")
}

func TestSharedMaildrop(t *testing.T) {
	w := newDropWorld(t)
	w.Change(func(a *pb.Account) { a.Shared = true })
	for range 3 {
		w.deliver("a: 1\r\n\r\n")
	}
	one, two := w.mustLogin(), w.mustLogin()
	require.NoError(t, one.Commit(t.Context(), []int{0}, false))
	require.ErrorIs(t, two.Commit(t.Context(), []int{0}, false), pop3.ErrNoMessage)
	_, err := two.Open(t.Context(), 0)
	require.ErrorIs(t, err, pop3.ErrNoMessage)
	require.NoError(t, two.Commit(t.Context(), []int{0, 1}, true), "gone is gone")
	require.NoError(t, one.Commit(t.Context(), []int{1}, true))
	require.Equal(t, 1, w.mustLogin().List().Len())
}

func TestRetentionAndLoginDelayAreTold(t *testing.T) {
	w := newDropWorld(t)
	m := w.mustLogin().(*maildrop)
	require.Zero(t, *m.Info().Retention)
	require.Zero(t, m.Info().LoginDelay)
	require.NoError(t, m.Close())
	w.Change(func(a *pb.Account) { a.RetentionMs, a.LoginDelayMs = (36 * time.Hour).Milliseconds(), 60_000 })
	m = w.mustLogin().(*maildrop)
	require.Equal(t, pop3.Retention{Announce: true, Days: 1}, *m.Info().Retention)
	require.Equal(t, time.Minute, m.Info().LoginDelay)
	require.NoError(t, m.Commit(t.Context(), nil, true))
	_, err := w.login()
	require.ErrorIs(t, err, pop3.ErrLoginDelay)
	again, err := m.Wake(t.Context())
	require.NoError(t, err)
	require.NoError(t, again.Close())
}

// TestInUseCostsNoCommand: a login that a lock refuses writes to no log, and an old
// replica is not believed.
func TestInUseCostsNoCommand(t *testing.T) {
	w := newDropWorld(t)
	m := w.mustLogin()
	_, err := w.login()
	var busy *pop3.InUseError
	require.ErrorAs(t, err, &busy)
	before := len(w.Frames)
	_, err = w.login()
	require.ErrorAs(t, err, &busy)
	require.Equal(t, "n1", busy.Node)
	require.False(t, busy.Since.IsZero())
	require.Len(t, w.Frames, before)
	// The holder leaves while this replica does not know yet.
	w.Arrive = func() { w.Arrive = nil; require.NoError(t, m.Close()) }
	_, err = w.login()
	require.NoError(t, err)
}

// TestNoSessionIsNoWrongPassword: a node without a session may not know the
// account yet, and says nothing about credentials.
func TestNoSessionIsNoWrongPassword(t *testing.T) {
	w := newDropWorld(t)
	m := w.mustLogin()
	require.NoError(t, m.Commit(t.Context(), nil, true))
	epoch := w.Session
	w.Session = 0
	peer := &pop3.Peer{Session: "s"}
	for _, try := range []func() error{
		func() error { _, err := w.drops.Login(t.Context(), peer, "nobody", "x"); return err },
		func() error { _, err := w.drops.Verifier(t.Context(), peer, "nobody"); return err },
		func() error { _, err := w.drops.Proven(t.Context(), peer, "nobody"); return err },
		func() error { _, err := m.Wake(t.Context()); return err },
	} {
		err := try()
		require.ErrorIs(t, err, errNoSession)
		require.NotErrorIs(t, err, pop3.ErrAuth)
	}
	w.Session = epoch
	require.NoError(t, w.mustLogin().Close())
}
