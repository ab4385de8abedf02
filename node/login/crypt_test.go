package login

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// These are hashes that crypt(3) makes of a secret.
func cryptHashes() [][2]string {
	return [][2]string{
		{"secret", "$1$saltysal$a.EMJJSKjet.0fLyvJXVR/"},
		{"secret", "$5$saltysalt$QbYA6HrkYGTxGDQTysN.qDlBHM/HEFDvn33YthHYDtD"},
		{"Hello world!", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"},
		{"This is just a test", "$5$rounds=5000$toolongsaltstrin$Un/5jzAHMgOGZ5.mWJpuVolil07guHPvOW8mGRcvxa5"},
		{"secret", "$6$abc$IdWKNKTJEb8LxY7CGg8YBXlvtfZzFw7Mp/r6niK9YB2mdvgY..TKjv1T..8RadRt2qvUHYRLr/TsVArtr91iR1"},
		{"secret", "$6$rounds=1234$salt0123456789ab$" +
			"eaEjU4uk9xcfFw.Kcf5J6z4Ik7mD5MXzkMFs.BLSfJwjSADW8Xfy1tD1PBS3c4k44tBBO.NRAxTQbaXPinCXz0"},
		{"we have a short salt string but not a short password",
			"$6$rounds=77777$short$WuQyW2YR.hBNpjjRhpYD/ifIw05xdfeEyQoMxIXbkvr0gge1a1x3yRULJ5CCaUeOxFmtlcGZelFl5CxtgfiAc0"},
		{"n\xc3\xafve " + strings.Repeat("x", 200),
			"$6$long$l/7uE3JzaFC2qJzIJb0JhFI1qDo/j/QR0MUTtf.42vcZ75qY4Avo3DYU6UayH2/aIHLzv2twPKlHrIL/gTRum/"},
	}
}

func TestCryptHashes(t *testing.T) {
	for _, c := range cryptHashes() {
		secret, hash := c[0], c[1]
		require.True(t, IsCrypt(hash), hash)
		ok, err := checkPassword(hash, secret)
		require.NoError(t, err, hash)
		require.True(t, ok, hash)
		ok, err = checkPassword(hash, secret+"x")
		require.NoError(t, err, hash)
		require.False(t, ok, hash)
	}
	for _, bad := range []string{
		"$1$", "$1$salt$short", "$5$x$y", "$6$abc$", "$6$$x$y$z",
		strings.Replace(cryptHashes()[6][1], "77777", "999999999", 1), // would cost minutes a login
		strings.Replace(cryptHashes()[6][1], "77777", "-1", 1),
		strings.Replace(cryptHashes()[6][1], "77777", "", 1),
		cryptHashes()[1][1] + "\n",
	} {
		_, err := ParseCrypt(bad)
		require.Error(t, err, bad)
	}
}

func FuzzImportedHash(f *testing.F) {
	for _, c := range cryptHashes() {
		f.Add(c[1])
	}
	f.Fuzz(func(t *testing.T, hash string) {
		if !IsCrypt(hash) {
			return
		}
		d, err := ParseCrypt(hash)
		if err != nil {
			return
		}
		again, err := ParseCrypt(d.Encode())
		require.NoError(t, err)
		require.Equal(t, d.Key(), again.Key())
		require.Equal(t, d.Salt(), again.Salt())
	})
}
