package wire

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGenerationNames(t *testing.T) {
	id := "01JDWQ5X5N8Q4Z2T1V7K3M9PRS"
	one := Generation(id, 1, []string{"n2=b:1", "n1=a:1"})
	require.Equal(t, one, Generation(id, 1, []string{"n1=a:1", "n2=b:1"}), "in any order")
	require.NotEqual(t, one, Generation(id, 1, []string{"n1=a:1"}))
	require.True(t, ValidName(one))
	cluster, n := GenerationOf(one)
	require.Equal(t, id, cluster)
	require.EqualValues(t, 1, n)
	_, n = GenerationOf(id)
	require.Zero(t, n)

	ten := Generation(id, 10, nil)
	for _, c := range []struct {
		own, other string
		later      bool
	}{
		{id, one, true}, {one, ten, true}, {one, id, false}, {one, one, false}, {ten, one, false},
		{one, Generation(id, 1, nil), false}, {id, id, false}, {id, Generation("another", 3, nil), false},
	} {
		require.Equal(t, c.later, later(c.own, c.other), "%s meets %s", c.own, c.other)
	}
}
