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
	"relay/node/maildrop"
	"relay/node/replica"
	"relay/node/replica/replicatest"
	"relay/pop3"
	"relay/smtp"
)

var home, away = netip.MustParseAddrPort("192.0.2.7:1000"), netip.MustParseAddrPort("198.51.100.1:1000")

// nodeWorld is what both services of a node work on, with the user alice.
type nodeWorld struct {
	*replicatest.Fake
	t        testing.TB
	drops    *maildrop.Service
	logins   *login.Service
	throttle *login.Throttle
	confirm  *replica.Confirmer
}

// cheapHash is login.HashPassword for tests, in which hashing is no subject.
func cheapHash(secret string) (string, error) { return login.Argon{Time: 1, Memory: 8}.Hash(secret) }

func newNodeWorld(t testing.TB) *nodeWorld {
	w := &nodeWorld{Fake: replicatest.New(t), t: t}
	var err error
	w.confirm = replica.NewConfirmer(w, zap.NewNop())
	w.logins, err = login.NewService(w, w.confirm, cheapHash)
	require.NoError(t, err)
	w.throttle = login.NewThrottle(3, w, "n1", nil, login.NewFamiliar(), zap.NewNop())
	w.drops = maildrop.New(maildrop.Config{
		Replica: w, SessionLost: func() <-chan struct{} { return nil }, Node: "n1", Logins: w.logins, Throttle: w.throttle,
		Log: zap.NewNop(),
	})
	w.Applied = func() { w.drops.Changed(w.Machine.Changes()) } // as a node's store does
	w.Register()
	hash, err := cheapHash("secret")
	require.NoError(t, err)
	w.AddAlice(hash)
	return w
}

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
	w.Change(func(a *pb.Account) { a.Password = hash })
	require.NoError(t, try(away, "USER", "alice", "old"), "what was wrong may become right")
	require.Equal(t, 1, w.failures(away), "but for the guess at another account")
}
