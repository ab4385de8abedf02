package login

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica"
	"relay/node/replica/replicatest"
)

// world is a replica with the user alice, and a login service on it.
type world struct {
	*replicatest.Fake
	t       testing.TB
	service *Service
}

// cheapHash is HashPassword for tests, in which hashing is no subject.
func cheapHash(secret string) (string, error) { return Argon{Time: 1, Memory: 8}.Hash(secret) }

func newWorld(t testing.TB) *world {
	w := &world{Fake: replicatest.New(t), t: t}
	var err error
	w.service, err = NewService(w, replica.NewConfirmer(w, zap.NewNop()), cheapHash)
	require.NoError(t, err)
	w.must(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "example.test"}})
	w.must(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{DefaultDomain: "example.test"}})
	hash, err := cheapHash("secret")
	require.NoError(t, err)
	w.must(spool.KindPutAccount, &pb.PutAccount{
		Account: &pb.Account{Address: "alice@example.test", Password: hash}, Create: true,
	})
	return w
}

func (w *world) must(kind spool.Kind, h proto.Message) {
	w.t.Helper()
	res, err := replica.Propose(context.Background(), w, kind, h)
	require.NoError(w.t, err)
	require.Equal(w.t, pb.Code_OK, res.Code, res.Text)
}

func (w *world) account() (a *pb.Account) {
	w.t.Helper()
	require.NoError(w.t,
		w.View(func(v spool.View) (err error) { a, _, err = v.Account("alice@example.test"); return err }))
	return a
}

func (w *world) change(f func(*pb.Account)) {
	w.t.Helper()
	a := w.account()
	f(a)
	w.must(spool.KindPutAccount, &pb.PutAccount{Account: a, Update: true})
}

// login is a login with the right password.
func (w *world) login(user, secret string) {
	w.t.Helper()
	a, v, err := w.service.Password(context.Background(), Attempt{User: user, Secret: secret})
	require.NoError(w.t, err)
	require.Equal(w.t, Right, v)
	w.service.UpgradeHash(context.Background(), w, "n1", a, secret, zap.NewNop())
}
