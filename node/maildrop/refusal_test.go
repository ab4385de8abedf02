package maildrop

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/login"
	"relay/node/replica"
	"relay/pop3"
)

var home = netip.MustParseAddrPort("192.0.2.7:1000")

// TestRefusalsAreTrue: an account made elsewhere a moment ago is not refused by a node
// that has not applied it, and one that is really missing is.
func TestRefusalsAreTrue(t *testing.T) {
	pop := func(user, secret string) func(*follower) error {
		return func(f *follower) error {
			m, err := f.drops.Login(f.t.Context(), &pop3.Peer{Session: "s", Remote: home}, user, secret)
			if err == nil {
				require.NoError(f.t, m.Close())
			}
			return err
		}
	}
	newcomer := func(f *follower) {
		f.Put(&pb.Account{Address: "new@example.test", Password: f.secret("secret")},
			true)
	}
	enabled := func(f *follower) { f.Change(func(a *pb.Account) { a.Disabled = false }) }
	disabled := func(f *follower) { f.Change(func(a *pb.Account) { a.Disabled = true }) }
	for _, c := range []struct {
		name   string
		before func(*follower) // is applied here
		change func(*follower) // is not
		do     func(*follower) error
		old    error // the answer if nothing was changed
	}{
		{"POP3 of a new user", nil, newcomer, pop("new", "secret"), pop3.ErrAuth},
		{"POP3 by a new password", nil, func(f *follower) {
			f.Change(func(a *pb.Account) { a.Password = f.secret("changed") })
		}, pop("alice", "changed"), pop3.ErrAuth},
		{"POP3 of a user enabled", disabled, enabled, pop("alice", "secret"), pop3.ErrAuth},
		{"POP3 of a user enabled, by SCRAM", disabled, enabled, func(f *follower) error {
			m, err := f.drops.Proven(f.t.Context(), &pop3.Peer{Session: "s", Remote: home}, "alice")
			if err == nil {
				require.NoError(f.t, m.Close())
			}
			return err
		}, pop3.ErrAuth},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFollower(t)
			if c.before != nil {
				c.before(f)
			}
			f.CatchUp()
			before := f.Fresh
			require.ErrorIs(t, c.do(f), c.old, "what is so everywhere is refused")
			require.Equal(t, before+1, f.Fresh)

			f.Fail = fmt.Errorf("%w: no leader", cluster.ErrUnavailable)
			err := c.do(f)
			require.False(t, replica.Permanent(err), "%v: nobody can tell", err)
			f.Fail = nil

			before = f.Fresh
			c.change(f)
			require.NoError(t, c.do(f))
			require.Equal(t, before+1, f.Fresh)
			require.NoError(t, c.do(f))
			require.Equal(t, before+1, f.Fresh, "what is not refused costs nothing")
		})
	}
}

// TestProofByOldKeys: a proof by SCRAM that does not fit is wrong where the keys
// are those of today.
func TestProofByOldKeys(t *testing.T) {
	f := newFollower(t)
	f.wire(f, 100) // attempts at once
	for name, change := range map[string]func(user string){
		"alice": func(string) {
			f.Change(func(a *pb.Account) { a.Scram, _ = login.NewScramKeys("changed") })
		},
		"new": func(string) {
			keys, err := login.NewScramKeys("secret")
			require.NoError(t, err)
			f.Put(&pb.Account{Address: "new@example.test", Scram: keys}, true)
		},
	} {
		peer := &pop3.Peer{Session: "s", Remote: home}
		told, err := f.drops.Verifier(t.Context(), peer, name)
		require.NoError(t, err)
		failures := f.failures(home)
		require.ErrorIs(t, f.drops.Disproven(t.Context(), peer, name, told), pop3.ErrAuth)
		require.Equal(t, failures+1, f.failures(home))
		change(name)
		require.ErrorIs(t, f.drops.Disproven(t.Context(), peer, name, told), replica.ErrOutdated)
		require.Equal(t, failures+1, f.failures(home), "that was nobody's mistake")
		f.Fail = cluster.ErrUnavailable
		require.ErrorIs(t, f.drops.Disproven(t.Context(), peer, name, told), replica.ErrUnsure)
		f.Fail = nil
	}
}

// TestUncountedGuess: a password that was not called wrong, because nobody could
// tell, is no earlier attempt of the same by another mechanism.
func TestUncountedGuess(t *testing.T) {
	f := newFollower(t)
	try := func(mechanism string) error {
		_, err := f.drops.Login(t.Context(), &pop3.Peer{Session: "s", Remote: home, Mechanism: mechanism}, "alice", "wrong")
		return err
	}
	f.Fail = cluster.ErrUnavailable
	require.ErrorIs(t, try("PLAIN"), replica.ErrUnsure)
	require.Zero(t, f.failures(home))
	f.Fail = nil
	require.ErrorIs(t, try("USER"), pop3.ErrAuth)
	require.Equal(t, 1, f.failures(home))
	require.ErrorIs(t, try("PLAIN"), pop3.ErrAuth)
	require.Equal(t, 1, f.failures(home), "that is the same by another mechanism")
}

// TestWakeAfterTheFirstLogin: the first login of an account improves its password;
// WAKE does not take that for another password where it is not applied yet.
func TestWakeAfterTheFirstLogin(t *testing.T) {
	f := newFollower(t)
	f.Change(func(a *pb.Account) { a.Password = "$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/"; a.Scram = nil })
	f.CatchUp()
	m, err := f.drops.Login(t.Context(), &pop3.Peer{Session: "s", Remote: home}, "alice", "password")
	require.NoError(t, err)
	require.NoError(t, m.Commit(t.Context(), nil, true))
	again, err := m.Wake(t.Context())
	require.NoError(t, err)
	require.NoError(t, again.Commit(t.Context(), nil, true))
	f.Change(func(a *pb.Account) { a.Password = f.secret("other") })
	f.CatchUp()
	_, err = again.Wake(t.Context())
	require.ErrorIs(t, err, pop3.ErrAuth)
}

// A password of a disabled account is wrong, and right when it is one no more.
func TestWrongPasswordOfDisabledAccount(t *testing.T) {
	w := newDropWorld(t)
	w.Clock = time.Now()
	w.Change(func(a *pb.Account) { a.Disabled = true })
	peer := &pop3.Peer{Session: "s", Remote: home}
	for n := range 2 {
		_, err := w.drops.Login(t.Context(), peer, "alice", "secret")
		require.ErrorIs(t, err, pop3.ErrAuth)
		require.Equal(t, n+1, w.failures(home))
	}
	w.Change(func(a *pb.Account) { a.Disabled = false })
	_, err := w.drops.Login(t.Context(), peer, "alice", "secret")
	require.NoError(t, err)
}
