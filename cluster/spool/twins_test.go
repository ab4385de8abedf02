package spool

import (
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTwinFilter(t *testing.T) {
	digest := func(s string, i int) []byte {
		d := sha256.Sum256(fmt.Append(nil, s, i))
		return d[:]
	}
	var f twins
	require.False(t, f.may(7, digest("a", 0)))
	const n = 200_000
	for i := range n {
		f.add(7, digest("a", i))
	}
	f.add(8, digest("b", 0))
	wrong := 0
	for i := range n {
		require.True(t, f.may(7, digest("a", i)))
		if f.may(7, digest("other", i)) {
			wrong++
		}
	}
	require.Less(t, wrong, n/1000)
	require.True(t, f.may(8, digest("b", 0)))
	require.False(t, f.may(9, digest("a", 0)), "not the same generation")
	f.add(9, digest("c", 0))
	require.False(t, f.may(9, digest("a", 0)), "the old one is forgotten")
	require.False(t, f.may(7, digest("a", 0)))
	require.True(t, f.may(8, digest("b", 0)))
	f.add(7, digest("late", 0))
	require.True(t, f.may(9, digest("c", 0)), "one that is too old takes nothing away")
}
