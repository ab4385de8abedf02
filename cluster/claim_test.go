package cluster

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
)

// TestUnknownSessionHoldsAsLongAsAny: a node whose state lags does not know how
// long the session holds that is in its way, unless the leader has said it.
func TestUnknownSessionHoldsAsLongAsAny(t *testing.T) {
	w := newDeathwatch(Tuning{}.withDefaults())
	require.Greater(t, w.surely(unknownSession(rival{Epoch: 7})), spool.MaxLease)
	require.Less(t, w.surely(unknownSession(rival{Epoch: 7, Dead: 1})), spool.MaxLease)
}
