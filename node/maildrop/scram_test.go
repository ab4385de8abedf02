package maildrop

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/login"
	"relay/pop3"
	"relay/smtp/sasl"
)

func TestLoginImprovesTheStoredPassword(t *testing.T) {
	w := newDropWorld(t)
	old, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	require.NoError(t, err)
	w.Change(func(a *pb.Account) { a.Password, a.Scram = string(old), nil })
	_, err = w.drops.Login(t.Context(), &pop3.Peer{}, "alice", "wrong")
	require.ErrorIs(t, err, pop3.ErrAuth)
	require.Nil(t, w.Account().Scram)
	m := w.mustLogin()
	a := w.Account()
	require.Contains(t, a.Password, "$argon2id$")
	want, err := sasl.NewKeys("secret", a.Scram.Salt, int(a.Scram.Iterations))
	require.NoError(t, err)
	require.Equal(t, want, saslOf(a.Scram))
	require.NoError(t, m.Commit(t.Context(), nil, true))
	m, err = m.Wake(t.Context())
	require.NoError(t, err, "the session knows the new form")
	require.NoError(t, m.Close())
	index := w.Index
	require.NoError(t, w.mustLogin().Close())
	require.Equal(t, index+2, w.Index, "a lock and an unlock, nothing else")
}

func TestImproveLosesAgainstAChange(t *testing.T) {
	w := newDropWorld(t)
	stale := w.Account()
	w.Change(func(a *pb.Account) { a.Password = "$argon2id$other" })
	got := w.drops.logins.UpgradeHash(t.Context(), w, "n1", stale, "secret", w.drops.log)
	require.Equal(t, stale, got)
	require.Equal(t, "$argon2id$other", w.Account().Password)
}

// TestImproveMeetsAnImprovement: of two first logins at once, or where the answer
// got lost, none is left with a hash by which its session can not be woken.
func TestImproveMeetsAnImprovement(t *testing.T) {
	l := newLossy(t)
	old, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	require.NoError(t, err)
	l.Change(func(a *pb.Account) { a.Password, a.Scram = string(old), nil })
	stale := l.Account()
	l.lose[spool.KindPutAccount] = true
	m := l.mustLogin()
	require.NoError(t, m.Commit(t.Context(), nil, true))
	m, err = m.Wake(t.Context())
	require.NoError(t, err)
	require.NoError(t, m.Close())
	l.lose[spool.KindPutAccount] = false
	got := l.drops.logins.UpgradeHash(t.Context(), l, "n1", stale, "secret", l.drops.log)
	require.Equal(t, l.Account().Password, got.Password)
}

// TestKeysHealAtALogin: keys that an older build made of a password as it was
// typed are those of the prepared one after the next login by password.
func TestKeysHealAtALogin(t *testing.T) {
	w := newDropWorld(t)
	hash, err := cheapHash("pass²")
	require.NoError(t, err)
	salt := []byte("0123456789abcdef")
	salted, err := pbkdf2.Key(sha256.New, "pass²", salt, 4096, sha256.Size)
	require.NoError(t, err)
	w.Change(func(a *pb.Account) {
		a.Password = hash
		a.Scram = &pb.ScramKeys{Salt: salt, Iterations: 4096, StoredKey: salted, ServerKey: salted}
	})
	enter := func(secret string) error {
		m, err := w.drops.Login(t.Context(), &pop3.Peer{}, "alice", secret)
		if err == nil {
			require.NoError(t, m.Close())
		}
		return err
	}
	require.NoError(t, enter("pass²"))
	healed := w.Account()
	require.True(t, saslOf(healed.Scram).Fit("pass2"))
	require.Equal(t, hash, healed.Password, "whoever is logged in stays so")
	index := w.Index
	require.NoError(t, enter("pass²"))
	require.Equal(t, index+2, w.Index, "a lock and an unlock, nothing else")
}

// TestPasswordInAnotherForm: the letters are the same, composed or not.
func TestPasswordInAnotherForm(t *testing.T) {
	w := newDropWorld(t)
	hash, err := cheapHash("ju\u0308rgen")
	require.NoError(t, err)
	keys, err := login.NewScramKeys("ju\u0308rgen")
	require.NoError(t, err)
	w.Change(func(a *pb.Account) { a.Password, a.Scram = hash, keys })
	for secret, ok := range map[string]bool{"jürgen": true, "ju\u0308rgen": true, "jurgen": false, "jürgén": false} {
		m, err := w.drops.Login(t.Context(), &pop3.Peer{}, "alice", secret)
		require.Equal(t, ok, err == nil, secret)
		if err == nil {
			require.NoError(t, m.Close())
		}
	}
}

func TestTwoNamesOfOneAccount(t *testing.T) {
	w := newDropWorld(t)
	w.Must(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{DefaultDomain: "example.test"}})
	for _, one := range []string{"alice", "ALICE", "alice@example.test", "Alice@Example.TEST", "alice@EXAMPLE.test"} {
		require.True(t, w.drops.SameAccount(t.Context(), one, "alice"), one)
		require.True(t, w.drops.SameAccount(t.Context(), "alice@example.test", one), one)
	}
	for _, one := range []string{"bob", "alice@other.test", "", "alice+tag"} {
		require.False(t, w.drops.SameAccount(t.Context(), one, "alice"), one)
	}
}

// saslOf are the keys of an account in the words of package sasl.
func saslOf(k *pb.ScramKeys) *sasl.Keys {
	return &sasl.Keys{Salt: k.Salt, Iterations: int(k.Iterations), StoredKey: k.StoredKey, ServerKey: k.ServerKey}
}
