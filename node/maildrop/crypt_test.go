package maildrop

import (
	"testing"

	"github.com/stretchr/testify/require"

	pb "relay/cluster/spool/spoolpb"
	"relay/pop3"
)

// These are hashes that crypt(3) makes of a secret.
func importedHashes() []string {
	return []string{
		"$1$saltysal$a.EMJJSKjet.0fLyvJXVR/",
		"$5$saltysalt$QbYA6HrkYGTxGDQTysN.qDlBHM/HEFDvn33YthHYDtD",
		"$6$abc$IdWKNKTJEb8LxY7CGg8YBXlvtfZzFw7Mp/r6niK9YB2mdvgY..TKjv1T..8RadRt2qvUHYRLr/TsVArtr91iR1",
		"$6$rounds=1234$salt0123456789ab$" +
			"eaEjU4uk9xcfFw.Kcf5J6z4Ik7mD5MXzkMFs.BLSfJwjSADW8Xfy1tD1PBS3c4k44tBBO.NRAxTQbaXPinCXz0",
	}
}

// A login against a hash of another system leaves argon2id and SCRAM keys.
func TestLoginImprovesImportedHashes(t *testing.T) {
	for _, c := range importedHashes() {
		w := newDropWorld(t)
		w.Change(func(a *pb.Account) { a.Password, a.Scram = c, nil })
		_, err := w.drops.Login(t.Context(), &pop3.Peer{}, "alice", "wrong")
		require.ErrorIs(t, err, pop3.ErrAuth)
		require.Equal(t, c, w.Account().Password)
		m := w.mustLogin()
		require.Contains(t, w.Account().Password, "$argon2id$")
		require.NotNil(t, w.Account().Scram)
		require.NoError(t, m.Close())
		require.NoError(t, w.mustLogin().Close())
	}
}
