package sasl

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBase64OnTheWire(t *testing.T) {
	for text, want := range map[string]string{"": "", "AGE=": "\x00a", "YWJj": "abc"} {
		got, err := Decode([]byte(text))
		require.NoError(t, err, text)
		require.NotNil(t, got, "a response without octets is one")
		require.Equal(t, want, string(got))
		require.Equal(t, "+ "+text, string(Encode([]byte("+ "), got)))
	}
	for _, bad := range []string{"=", "*", "YWJ", "YW Jj", "YW\rJj", "YWJj\n", "YWJ=", "AGF=", "ä"} {
		_, err := Decode([]byte(bad))
		require.ErrorIs(t, err, ErrBase64, bad)
	}
	got, err := DecodeInitial([]byte("="))
	require.NoError(t, err)
	require.Equal(t, []byte{}, got)
	require.Equal(t, "=", EncodeInitial(got))
	require.Equal(t, "YWJj", EncodeInitial([]byte("abc")))
	_, err = DecodeInitial([]byte("*"))
	require.ErrorIs(t, err, ErrBase64)
}
