package pop3test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/pop3"
)

// Fixture is a backend under test with one user, whose maildrop is empty.
type Fixture struct {
	Backend      pop3.Backend
	User, Secret string
	// Deliver puts a message into the user's maildrop, behind those that are
	// there.
	Deliver func(t *testing.T, body string)
	// ReadOnly says that nothing can be deleted.
	ReadOnly bool
}

// Conform checks that a backend keeps the contract of pop3.Backend and
// pop3.Maildrop. make is called once for each check.
func Conform(t *testing.T, make func(t *testing.T) Fixture) {
	for name, check := range map[string]func(*testing.T, Fixture){
		"credentials": credentials, "lock": lock, "list": list, "commit": commit,
		"release": release, "close": closing, "uids": uids, "late": late, "wake": wake, "frozen": frozen,
	} {
		t.Run(name, func(t *testing.T) {
			f := make(t)
			if f.ReadOnly && slices.Contains([]string{"commit", "release", "uids", "late"}, name) {
				check = readOnly
			}
			check(t, f)
		})
	}
}

// readOnly: deletions are refused and change nothing, all else is as usual.
func readOnly(t *testing.T, f Fixture) {
	f.Deliver(t, "a: same\r\n\r\n")
	f.Deliver(t, "a: same\r\n\r\n")
	m := f.login(t)
	require.True(t, m.Info().ReadOnly)
	require.Equal(t, 2, m.List().Len())
	require.NotEqual(t, pop3.UID(m.List(), 0), pop3.UID(m.List(), 1), "identical mail has different UIDs")
	uid := pop3.UID(m.List(), 0)
	for _, release := range []bool{false, true} {
		require.ErrorIs(t, m.Commit(context.Background(), []int{0}, release), pop3.ErrReadOnly)
	}
	_, err := f.try(f.User, f.Secret)
	var busy *pop3.InUseError
	require.ErrorAs(t, err, &busy, "a refused commit keeps the lock")
	require.Contains(t, read(t, m, 0), "a: same")
	require.NoError(t, m.Commit(context.Background(), nil, true))
	require.NoError(t, m.Close())
	m = f.login(t)
	require.Equal(t, 2, m.List().Len())
	require.Equal(t, uid, pop3.UID(m.List(), 0))
}

// wake: the lock can be given up without deletions and taken again, with a fresh
// list in which what was there has kept its UID.
func wake(t *testing.T, f Fixture) {
	f.Deliver(t, "a: 1\r\n\r\n")
	m := f.login(t)
	uid := pop3.UID(m.List(), 0)
	require.NoError(t, m.Commit(context.Background(), nil, true))
	other := f.login(t)
	_, err := m.Wake(context.Background())
	var busy *pop3.InUseError
	require.ErrorAs(t, err, &busy)
	require.NoError(t, other.Close())
	f.Deliver(t, "a: 2\r\n\r\n")
	m, err = m.Wake(context.Background())
	require.NoError(t, err)
	t.Cleanup(func() { _ = m.Close() })
	require.Equal(t, 2, m.List().Len())
	require.Equal(t, uid, pop3.UID(m.List(), 0))
	require.NotEqual(t, uid, pop3.UID(m.List(), 1))
}

// frozen: sizes and UIDs do not change, whatever arrives, and every message is
// read more than once with the same octets.
func frozen(t *testing.T, f Fixture) {
	f.Deliver(t, "a: 1\r\n\r\n.\r\n\r\n..\r\n")
	m := f.login(t)
	l := m.List()
	uid, size, text := pop3.UID(l, 0), l.Size(0), read(t, m, 0)
	f.Deliver(t, "a: 2\r\n\r\n")
	require.Equal(t, 1, m.List().Len())
	require.Equal(t, uid, pop3.UID(m.List(), 0))
	require.Equal(t, size, m.List().Size(0))
	require.Equal(t, text, read(t, m, 0))
	require.EqualValues(t, len(text), size)
	require.Contains(t, text, "a: 1\r\n\r\n.\r\n\r\n..\r\n")
}

func (f Fixture) try(user, secret string) (pop3.Maildrop, error) {
	return f.Backend.Login(context.Background(), &pop3.Peer{Session: "conform"}, user, secret)
}

func (f Fixture) login(t *testing.T) pop3.Maildrop {
	t.Helper()
	m, err := f.try(f.User, f.Secret)
	require.NoError(t, err)
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func credentials(t *testing.T, f Fixture) {
	for _, bad := range [][2]string{{f.User, f.Secret + "x"}, {"no-" + f.User, f.Secret}, {f.User, ""}, {"", ""}} {
		_, err := f.try(bad[0], bad[1])
		require.ErrorIs(t, err, pop3.ErrAuth, "%q", bad)
	}
	require.NoError(t, f.login(t).Close())
}

func lock(t *testing.T, f Fixture) {
	m := f.login(t)
	_, err := f.try(f.User, f.Secret)
	var busy *pop3.InUseError
	require.ErrorAs(t, err, &busy)
	require.False(t, busy.Since.IsZero())
	require.NotEmpty(t, busy.Node)
	_, err = f.try(f.User, f.Secret+"x")
	require.ErrorIs(t, err, pop3.ErrAuth, "only who may come in learns that it is locked")
	told := make(chan string, 1)
	m.OnLost(func(why string) { told <- why })
	require.NoError(t, m.Close())
	require.NoError(t, f.login(t).Close())
	require.Empty(t, told, "neither a refused login nor a Close is a loss of the lock")
}

func read(t *testing.T, m pop3.Maildrop, i int) string {
	t.Helper()
	r, err := m.Open(context.Background(), i)
	require.NoError(t, err)
	defer r.Close()
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	if _, ok := r.(io.WriterTo); ok {
		again, err := m.Open(context.Background(), i)
		require.NoError(t, err)
		defer again.Close()
		var b bytes.Buffer
		_, err = again.(io.WriterTo).WriteTo(&b)
		require.NoError(t, err)
		require.Equal(t, string(got), b.String(), "WriteTo and Read differ")
	}
	return string(got)
}

// list: frozen, sizes exact, CRLF at the end.
func list(t *testing.T, f Fixture) {
	bodies := []string{"Subject: 1\r\n\r\none\r\n", "Subject: 2\r\n\r\n.two\r\n..\r\n", "Subject: 1\r\n\r\none\r\n"}
	for _, b := range bodies {
		f.Deliver(t, b)
	}
	m := f.login(t)
	f.Deliver(t, "Subject: late\r\n\r\n")
	l := m.List()
	require.Equal(t, len(bodies), l.Len())
	for i, b := range bodies {
		got := read(t, m, i)
		require.Contains(t, got, b)
		require.EqualValues(t, len(got), l.Size(i))
	}
	require.NoError(t, m.Close())
	require.Equal(t, len(bodies)+1, f.login(t).List().Len())
}

func commit(t *testing.T, f Fixture) {
	for _, b := range []string{"a: 1\r\n\r\n", "a: 2\r\n\r\n", "a: 3\r\n\r\n", "a: 4\r\n\r\n"} {
		f.Deliver(t, b)
	}
	m := f.login(t)
	keep := pop3.UID(m.List(), 3)
	require.NoError(t, m.Commit(context.Background(), []int{1}, false))
	_, err := f.try(f.User, f.Secret)
	require.Error(t, err, "a commit without release keeps the lock")
	require.Equal(t, 4, m.List().Len(), "the list stays frozen")
	require.Contains(t, read(t, m, 0), "a: 1")
	require.NoError(t, m.Commit(context.Background(), []int{0, 2}, true))
	require.NoError(t, m.Close(), "Close after a release")
	m = f.login(t)
	require.Equal(t, 1, m.List().Len())
	require.Equal(t, keep, pop3.UID(m.List(), 0))
	require.NoError(t, m.Commit(context.Background(), nil, true))
}

// release: the lock goes with the commit, and Wake takes it again.
func release(t *testing.T, f Fixture) {
	f.Deliver(t, "a: 1\r\n\r\n")
	m := f.login(t)
	require.NoError(t, m.Commit(context.Background(), []int{0}, true))
	other := f.login(t)
	require.Zero(t, other.List().Len())
	_, err := m.Wake(context.Background())
	var busy *pop3.InUseError
	require.ErrorAs(t, err, &busy)
	require.NoError(t, other.Close())
	f.Deliver(t, "a: 2\r\n\r\n")
	m, err = m.Wake(context.Background())
	require.NoError(t, err)
	require.Equal(t, 1, m.List().Len())
	_, err = f.try(f.User, f.Secret)
	require.ErrorAs(t, err, &busy)
	require.NoError(t, m.Commit(context.Background(), []int{0}, true))
	require.NoError(t, m.Close())
	require.Zero(t, f.login(t).List().Len())
}

func closing(t *testing.T, f Fixture) {
	f.Deliver(t, "a: 1\r\n\r\n")
	m := f.login(t)
	require.NoError(t, m.Close())
	require.Equal(t, 1, f.login(t).List().Len())
}

// uids: valid, stable, never reused, also for identical mail.
func uids(t *testing.T, f Fixture) {
	seen := map[string]bool{}
	for range 3 {
		f.Deliver(t, "a: same\r\n\r\n")
		f.Deliver(t, "a: same\r\n\r\n")
		m := f.login(t)
		require.Equal(t, 2, m.List().Len())
		for i := range 2 {
			uid := pop3.UID(m.List(), i)
			require.Regexp(t, `^[!-~]{1,70}$`, uid)
			require.False(t, seen[uid], "%s was used before", uid)
			seen[uid] = true
			require.Equal(t, "x"+uid, string(m.List().AppendUID([]byte("x"), i)))
		}
		stays := pop3.UID(m.List(), 1)
		require.NoError(t, m.Close())
		m = f.login(t)
		require.Equal(t, stays, pop3.UID(m.List(), 1))
		require.NoError(t, m.Commit(context.Background(), []int{0, 1}, true))
	}
}

// late: a Live maildrop finds what came later, under a number of its own.
func late(t *testing.T, f Fixture) {
	m := f.login(t)
	if _, ok := m.(pop3.Live); !ok {
		t.Skip("not a Live maildrop")
	}
	f.Deliver(t, "a: late\r\n\r\n")
	require.NoError(t, m.Close())
	m = f.login(t)
	uid := pop3.UID(m.List(), 0)
	require.NoError(t, m.Commit(context.Background(), []int{0}, true))
	m = f.login(t)
	live := m.(pop3.Live)
	_, _, err := live.Late(context.Background(), uid)
	require.True(t, errors.Is(err, pop3.ErrNoMessage), "deleted mail is not found")
	_, _, err = live.Late(context.Background(), "no such uid")
	require.ErrorIs(t, err, pop3.ErrNoMessage)
}
