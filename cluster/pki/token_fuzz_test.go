package pki

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/fault"
)

func FuzzToken(f *testing.F) {
	f.Add(Token{Secret: [SecretSize]byte{1, 2, 3}}.String())
	f.Add("rj1.")
	f.Add("rj2.AAAA")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil {
			require.ErrorIs(t, err, fault.ErrToken)
			return
		}
		again, err := ParseToken(token.String())
		require.NoError(t, err)
		require.Equal(t, token, again)
	})
}
