package node

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/pop3"
)

func (w *dropWorld) account() (a *pb.Account) {
	require.NoError(w.t, w.View(func(v spool.View) (err error) { a, _, err = v.Account("alice@example.test"); return err }))
	return a
}

func TestLoginImprovesTheStoredPassword(t *testing.T) {
	w := newDropWorld(t)
	old, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	require.NoError(t, err)
	w.change(func(a *pb.Account) { a.Password, a.Scram = string(old), nil })
	_, err = w.drops.Login(t.Context(), &pop3.Peer{}, "alice", "wrong")
	require.ErrorIs(t, err, pop3.ErrAuth)
	require.Nil(t, w.account().Scram)
	m := w.mustLogin()
	a := w.account()
	require.Contains(t, a.Password, "$argon2id$")
	want, err := pop3.MakeVerifier("secret", a.Scram.Salt, int(a.Scram.Iterations))
	require.NoError(t, err)
	require.Equal(t, want, pop3Keys(a.Scram))
	require.NoError(t, m.Commit(t.Context(), nil, true))
	m, err = m.Wake(t.Context())
	require.NoError(t, err, "the session knows the new form")
	require.NoError(t, m.Close())
	index := w.index
	require.NoError(t, w.mustLogin().Close())
	require.Equal(t, index+2, w.index, "a lock and an unlock, nothing else")
}

func TestImproveLosesAgainstAChange(t *testing.T) {
	w := newDropWorld(t)
	stale := w.account()
	w.change(func(a *pb.Account) { a.Password = "$argon2id$other" })
	got := w.drops.passwords.improve(t.Context(), w, "n1", stale, "secret", w.drops.log)
	require.Equal(t, stale, got)
	require.Equal(t, "$argon2id$other", w.account().Password)
}

// TestImproveMeetsAnImprovement: of two first logins at once, or where the answer
// got lost, none is left with a hash by which its session can not be woken.
func TestImproveMeetsAnImprovement(t *testing.T) {
	l := newLossy(t)
	old, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	require.NoError(t, err)
	l.change(func(a *pb.Account) { a.Password, a.Scram = string(old), nil })
	stale := l.account()
	l.lose[spool.KindPutAccount] = true
	m := l.mustLogin()
	require.NoError(t, m.Commit(t.Context(), nil, true))
	m, err = m.Wake(t.Context())
	require.NoError(t, err)
	require.NoError(t, m.Close())
	l.lose[spool.KindPutAccount] = false
	got := l.drops.passwords.improve(t.Context(), l, "n1", stale, "secret", l.drops.log)
	require.Equal(t, l.account().Password, got.Password)
}

func TestScramKeysOfNobody(t *testing.T) {
	w := newDropWorld(t)
	w.must(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", CaKey: []byte("secret")}})
	keys := func(user string) *pb.ScramKeys {
		k, err := scramKeysOf(w, user)
		require.NoError(t, err)
		require.Len(t, k.Salt, scramSalt)
		require.EqualValues(t, scramIterations, k.Iterations)
		return k
	}
	require.Equal(t, keys("bob").Salt, keys("BOB@example.test").Salt, "as for users that are there")
	require.NotEqual(t, keys("bob").Salt, keys("eve").Salt)
	require.NoError(t, w.mustLogin().Close())
	require.Equal(t, w.account().Scram.Salt, keys("alice").Salt)
	w.change(func(a *pb.Account) { a.Disabled = true })
	require.NotEqual(t, w.account().Scram.Salt, keys("alice").Salt)
}
