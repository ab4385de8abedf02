package node

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRoomForMessagesIsAShareOfTheMemory(t *testing.T) {
	require.EqualValues(t, heldMost, heldRoom(math.MaxInt64), "no limit is set")
	require.EqualValues(t, 64<<20, heldRoom(512<<20))
}
