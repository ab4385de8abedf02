package login

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/smtp/sasl"
)

func TestScramKeysOfNobody(t *testing.T) {
	w := newWorld(t)
	w.Must(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", CaKey: []byte("secret")}})
	keys := func(user string) *sasl.Keys {
		k, err := ScramKeysOf(w, user)
		require.NoError(t, err)
		require.Len(t, k.Salt, scramSalt)
		require.EqualValues(t, ScramIterations, k.Iterations)
		return k
	}
	require.Equal(t, keys("bob").Salt, keys("BOB@example.test").Salt, "as for users that are there")
	require.NotEqual(t, keys("bob").Salt, keys("eve").Salt)
	w.login("alice", "secret")
	require.Equal(t, w.Account().Scram.Salt, keys("alice").Salt)
	w.Change(func(a *pb.Account) { a.Disabled = true })
	require.NotEqual(t, w.Account().Scram.Salt, keys("alice").Salt)
}

// TestDecoysOutliveTheCA: what SCRAM tells of nobody does not change with the CA.
func TestDecoysOutliveTheCA(t *testing.T) {
	salt := func(c *pb.Cluster) []byte {
		return sasl.DummyKeys(decoySecret(c), "eve@example.test", ScramIterations).Salt
	}
	secret := []byte("0123456789abcdef")
	require.Equal(t, salt(&pb.Cluster{CaKey: []byte("old"), Secret: secret}),
		salt(&pb.Cluster{CaKey: []byte("new"), Secret: secret}))
	require.NotEqual(t, salt(&pb.Cluster{CaKey: secret}),
		salt(&pb.Cluster{CaKey: []byte("old"), Secret: []byte("fedcba9876543210")}))
}

// TestScramIsHiddenWhileSomebodyCannotUseIt: an imported hash knows no keys.
func TestScramIsHiddenWhileSomebodyCannotUseIt(t *testing.T) {
	w := newWorld(t)
	keys, err := NewScramKeys("secret")
	require.NoError(t, err)
	s := NewScramUse(w)
	set := func(change func(a *pb.Account)) bool {
		w.Change(change)
		s.stale.Store(true)
		return s.Hide()
	}
	require.True(t, s.Hide())
	require.False(t, set(func(a *pb.Account) { a.Scram = keys }))
	require.False(t, set(func(a *pb.Account) { a.Name = "Alice" }))
	s.cost = 0
	require.True(t, set(func(a *pb.Account) { a.Scram = nil }))
	require.True(t, set(func(a *pb.Account) { a.Name = "Alicia" }))
	s.cost = 0
	require.False(t, set(func(a *pb.Account) { a.Disabled = true }), "who cannot log in does not count")
}
