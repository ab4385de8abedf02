package login

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

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
	w.Must(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{DefaultDomain: "example.test"}})
	hash, err := cheapHash("secret")
	require.NoError(t, err)
	w.AddAlice(hash)
	return w
}

// login is a login with the right password.
func (w *world) login(user, secret string) {
	w.t.Helper()
	a, v, err := w.service.Password(context.Background(), Attempt{User: user, Secret: secret})
	require.NoError(w.t, err)
	require.Equal(w.t, Right, v)
	w.service.UpgradeHash(context.Background(), w, "n1", a, secret, zap.NewNop())
}
