package inbound

import (
	"context"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/login"
	"relay/node/replica"
	"relay/node/replica/replicatest"
	"relay/smtp"
)

var home = netip.MustParseAddrPort("192.0.2.7:1000")

// spacious has room for everything. It meets Room.
type spacious struct{}

func (spacious) Full() bool                { return false }
func (spacious) Over(uint64) (bool, error) { return false, nil }

// world is what SMTP intake works on, with the user alice.
type world struct {
	*replicatest.Fake
	t        testing.TB
	logins   *login.Service
	throttle *login.Throttle
	confirm  *replica.Confirmer
}

// cheapHash is login.HashPassword for tests, in which hashing is no subject.
func cheapHash(secret string) (string, error) { return login.Argon{Time: 1, Memory: 8}.Hash(secret) }

// scramKeys are those of alice; they are slow to make, and one pair serves all tests.
var scramKeys = sync.OnceValues(func() (*pb.ScramKeys, error) { return login.NewScramKeys("secret") })

func newWorld(t testing.TB) *world {
	w := &world{Fake: replicatest.New(t), t: t}
	w.wire(w, 3)
	w.Register()
	w.AddAlice(w.secret("secret"))
	keys, err := scramKeys() // as after the first login
	require.NoError(t, err)
	w.Change(func(a *pb.Account) { a.Scram = keys })
	return w
}

// wire makes the services anew, on a replica.
func (w *world) wire(r replica.Fenced, free int) {
	var err error
	w.confirm = replica.NewConfirmer(r, zap.NewNop())
	w.logins, err = login.NewService(r, w.confirm, cheapHash)
	require.NoError(w.t, err)
	w.throttle = login.NewThrottle(free, r, "n1", nil, login.NewFamiliar(), zap.NewNop())
}

func (w *world) alias(address, target string) {
	w.t.Helper()
	w.Must(spool.KindPutAlias, &pb.PutAlias{Alias: &pb.Alias{Address: address, Targets: []string{target}}})
}

func (w *world) secret(text string) string {
	hash, err := cheapHash(text)
	require.NoError(w.t, err)
	return hash
}

// failures is how many logins of a network count against it.
func (w *world) failures(from netip.AddrPort) int {
	w.t.Helper()
	n, err := w.throttle.Count(login.Network(from.Addr()).String())
	require.NoError(w.t, err)
	return n
}

// follower is a node that applies when it is told to, and when somebody waits for it.
type follower struct {
	*world
	*replicatest.Behind
}

func newFollower(t *testing.T) *follower {
	w := newWorld(t)
	f := &follower{w, replicatest.NewBehind(w.Fake, nil)}
	f.wire(f, 3)
	return f
}

// session is an SMTP session at a node that shows what it has applied, which is
// less than there is until it is brought up to date.
func (f *follower) session(more func(*receiver, *smtp.Peer)) *session {
	s, err := f.begin(more)
	require.NoError(f.t, err)
	return s.(*session)
}

func (f *follower) begin(more func(*receiver, *smtp.Peer)) (smtp.Session, error) {
	b := &receiver{
		replica: f, mail: newMailer(f, nil, "n1", "mx.example.test", 50, zap.NewNop()), logins: f.logins,
		throttle: f.throttle,
		confirm:  f.confirm, room: spacious{}, ready: func(context.Context) error { return nil },
		starts: newStarts(), log: zap.NewNop(),
	}
	p := &smtp.Peer{Remote: home, ESMTP: true}
	if more != nil {
		more(b, p)
	}
	return b.NewSession(f.t.Context(), p)
}

// user logs a session in, as XCLIENT would.
func user(name string) func(*receiver, *smtp.Peer) {
	return func(_ *receiver, p *smtp.Peer) { p.User = name }
}
