package node

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	pb "relay/cluster/spool/spoolpb"
	"relay/node/config"
	"relay/node/inbound"
	"relay/node/login"
	"relay/pop3"
	"relay/smtp"
)

var home, away = netip.MustParseAddrPort("192.0.2.7:1000"), netip.MustParseAddrPort("198.51.100.1:1000")

// failures is how many logins of a network count against it.
func (w *nodeWorld) failures(from netip.AddrPort) int {
	w.t.Helper()
	n, err := w.throttle.Count(login.Network(from.Addr()).String())
	require.NoError(w.t, err)
	return n
}

// Thunderbird tries one password by PLAIN, LOGIN and USER: that is one mistake.
// A client that repeats it makes another.
func TestWrongPasswordByManyMechanismsCountsOnce(t *testing.T) {
	w := newNodeWorld(t)
	w.Clock = time.Now()
	try := func(from netip.AddrPort, mechanism, user, secret string) error {
		_, err := w.drops.Login(t.Context(), &pop3.Peer{Session: "s", Remote: from, Mechanism: mechanism}, user, secret)
		return err
	}
	for round := range 2 {
		for _, mechanism := range []string{"PLAIN", "LOGIN", "USER"} {
			require.ErrorIs(t, try(home, mechanism, "alice", "old"), pop3.ErrAuth)
			require.Equal(t, round+1, w.failures(home))
		}
	}

	in, err := inbound.New(inbound.Config{
		Replica: w, Node: "n1", Logins: w.logins, Throttle: w.throttle, Confirm: w.confirm, Log: zap.NewNop(),
		Ready: func(context.Context) error { return nil },
	})
	require.NoError(t, err)
	peer := &smtp.Peer{Remote: home}
	s, err := in.Backend(&config.SMTP{Role: config.RoleSubmission}).NewSession(t.Context(), peer)
	require.NoError(t, err)
	n := &Node{conf: config.New(), throttle: w.throttle, meters: smtp.NewMeters(smtp.Limits{})}
	submit := func(mechanism, secret string) time.Duration {
		peer.Mechanism = mechanism
		err := s.(smtp.Authenticator).Authenticate(t.Context(), "alice", secret)
		require.ErrorIs(t, err, smtp.ErrCredentials)
		return n.wrongPassword(home.Addr(), err)
	}
	submit("PLAIN", "old")
	require.Equal(t, 2, w.failures(home), "submission is the same service to a guesser")
	submit("PLAIN", "old")
	require.Equal(t, 3, w.failures(home))

	require.ErrorIs(t, try(away, "USER", "alice", "old"), pop3.ErrAuth)
	require.Equal(t, 1, w.failures(away), "it is another network's first guess")
	require.ErrorIs(t, try(away, "PLAIN", "ALICE@example.test", "old"), pop3.ErrAuth)
	require.Equal(t, 1, w.failures(away), "the same account by another name")
	require.ErrorIs(t, try(away, "USER", "nobody", "old"), pop3.ErrAuth)
	require.Equal(t, 2, w.failures(away), "another user's")

	hash, err := cheapHash("old")
	require.NoError(t, err)
	w.change(func(a *pb.Account) { a.Password = hash })
	require.NoError(t, try(away, "USER", "alice", "old"), "what was wrong may become right")
	require.Equal(t, 1, w.failures(away), "but for the guess at another account")
}

// A password of a disabled account is wrong, and right when it is one no more.
func TestWrongPasswordOfDisabledAccount(t *testing.T) {
	w := newNodeWorld(t)
	w.Clock = time.Now()
	w.change(func(a *pb.Account) { a.Disabled = true })
	peer := &pop3.Peer{Session: "s", Remote: home}
	for n := range 2 {
		_, err := w.drops.Login(t.Context(), peer, "alice", "secret")
		require.ErrorIs(t, err, pop3.ErrAuth)
		require.Equal(t, n+1, w.failures(home))
	}
	w.change(func(a *pb.Account) { a.Disabled = false })
	_, err := w.drops.Login(t.Context(), peer, "alice", "secret")
	require.NoError(t, err)
}
