package cluster

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestALeaderWithoutTheTimeBeginsAnew: one that lost its term before the time was found
// looks for it as early when it leads again; one that has found it does not.
func TestALeaderWithoutTheTimeBeginsAnew(t *testing.T) {
	for _, one := range []struct{ led, found, first, late bool }{
		{false, false, true, true},
		{false, true, true, false},
		{true, false, true, true},
		{true, true, false, false},
	} {
		first, late := early(one.led, one.found)
		require.Equal(t, one.first, first, "%+v", one)
		require.Equal(t, one.late, late, "%+v", one)
	}
}
