package node

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	pb "relay/cluster/spool/spoolpb"
	"relay/pop3"
	"relay/smtp"
)

var home, away = netip.MustParseAddrPort("192.0.2.7:1000"), netip.MustParseAddrPort("198.51.100.1:1000")

// failures is how many logins of a network count against it.
func (w *dropWorld) failures(from netip.AddrPort) int {
	w.t.Helper()
	n, err := w.drops.throttle.count(network(from.Addr()))
	require.NoError(w.t, err)
	return n
}

// Thunderbird tries one password by PLAIN, LOGIN and USER; it and other devices
// come back with it every few minutes.
func TestSameWrongPasswordCountsOnce(t *testing.T) {
	w := newDropWorld(t)
	w.clock = time.Now()
	try := func(from netip.AddrPort, user, secret string) error {
		_, err := w.drops.Login(t.Context(), &pop3.Peer{Session: "s", Remote: from}, user, secret)
		return err
	}
	for range 10 {
		require.ErrorIs(t, try(home, "alice", "old"), pop3.ErrAuth)
	}
	require.Equal(t, 1, w.failures(home))
	require.ErrorIs(t, try(home, "ALICE@example.test", "old"), pop3.ErrAuth)
	require.Equal(t, 1, w.failures(home), "the same account by another name")

	s := &session{receiver: &receiver{replica: w, passwords: w.drops.passwords, throttle: w.drops.throttle}, peer: &smtp.Peer{Remote: home}}
	n := &Node{throttle: w.drops.throttle, meters: smtp.NewMeters(smtp.Limits{})}
	submit := func(secret string) time.Duration {
		err := s.Authenticate(t.Context(), "alice", secret)
		require.ErrorIs(t, err, smtp.ErrCredentials)
		return n.wrongPassword(home.Addr(), err)
	}
	submit("old")
	require.Equal(t, 1, w.failures(home), "submission is the same service to a guesser")
	submit("older")
	var delays []time.Duration
	for range 5 {
		delays = append(delays, submit("older"))
	}
	require.Equal(t, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 4 * time.Second, 4 * time.Second}, delays, "slower and slower all the same")
	require.Equal(t, 2, w.failures(home))

	require.ErrorIs(t, try(away, "alice", "old"), pop3.ErrAuth)
	require.Equal(t, 1, w.failures(away), "it is another network's first guess")
	require.ErrorIs(t, try(away, "nobody", "old"), pop3.ErrAuth)
	require.ErrorIs(t, try(away, "nobody", "old"), pop3.ErrAuth)
	require.Equal(t, 2, w.failures(away), "and another user's")

	hash, err := hashPassword("old")
	require.NoError(t, err)
	w.change(func(a *pb.Account) { a.Password = hash })
	require.NoError(t, try(home, "alice", "old"), "what was wrong may become right")
	require.Zero(t, w.failures(home))
}

// A password of a disabled account is wrong, and right when it is one no more.
func TestWrongPasswordOfDisabledAccount(t *testing.T) {
	w := newDropWorld(t)
	w.clock = time.Now()
	w.change(func(a *pb.Account) { a.Disabled = true })
	peer := &pop3.Peer{Session: "s", Remote: home}
	for range 2 {
		_, err := w.drops.Login(t.Context(), peer, "alice", "secret")
		require.ErrorIs(t, err, pop3.ErrAuth)
	}
	require.Equal(t, 1, w.failures(home))
	w.change(func(a *pb.Account) { a.Disabled = false })
	_, err := w.drops.Login(t.Context(), peer, "alice", "secret")
	require.NoError(t, err)
}

// Or somebody who repeats himself, uncounted, could keep all others waiting.
func TestSameWrongPasswordIsNotHashed(t *testing.T) {
	p, err := newPasswords()
	require.NoError(t, err)
	for _, a := range []*pb.Account{nil, {Address: "a@example.test", Password: p.decoy}} {
		v, err := p.login(t.Context(), home.Addr(), "a", a, "old")
		require.NoError(t, err)
		require.Equal(t, wrong, v)
	}
	p.slots <- struct{}{}
	p.slots <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, a := range []*pb.Account{nil, {Address: "a@example.test", Password: p.decoy}} {
		v, err := p.login(ctx, home.Addr(), "a", a, "old")
		require.NoError(t, err)
		require.Equal(t, wrongAgain, v)
	}
	_, err = p.login(ctx, home.Addr(), "a", nil, "other")
	require.ErrorIs(t, err, context.Canceled)
}

// It is remembered as long as it comes back within the hour.
func TestWrongPasswordIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := newPasswords()
		require.NoError(t, err)
		try := func() verdict {
			v, err := p.login(t.Context(), home.Addr(), "a", nil, "old")
			require.NoError(t, err)
			return v
		}
		require.Equal(t, wrong, try())
		for range 3 {
			time.Sleep(wrongFor - time.Second)
			require.Equal(t, wrongAgain, try())
		}
		time.Sleep(wrongFor + time.Second)
		require.Equal(t, wrong, try())
	})
}
