package records

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

func TestImportedHashes(t *testing.T) {
	const crypt = "$5$saltysalt$QbYA6HrkYGTxGDQTysN.qDlBHM/HEFDvn33YthHYDtD"
	const slow = "$6$rounds=77777$short$" +
		"WuQyW2YR.hBNpjjRhpYD/ifIw05xdfeEyQoMxIXbkvr0gge1a1x3yRULJ5CCaUeOxFmtlcGZelFl5CxtgfiAc0"
	for _, hash := range []string{crypt, slow, "$1$saltysal$a.EMJJSKjet.0fLyvJXVR/"} {
		got, err := importedHash(hash)
		require.NoError(t, err, hash)
		require.Equal(t, hash, got)
	}
	for _, bad := range []string{
		"", "plain", "$1$", "$1$salt$short", "$5$x$y", "$6$abc$", "$6$$x$y$z", "$7$abc$def", "$md5$abc$def",
		strings.Replace(slow, "77777", "999999999", 1), // would cost minutes a login
		strings.Replace(slow, "77777", "-1", 1),
		strings.Replace(slow, "77777", "", 1),
		crypt + "\n",
	} {
		_, err := importedHash(bad)
		require.ErrorIs(t, err, admin.ErrInvalid, bad)
	}
}
