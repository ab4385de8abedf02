package cluster

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/datadir"
	"relay/cluster/liveness"
	"relay/cluster/spool"
	"relay/cluster/tuning"
)

// TestUnknownSessionHoldsAsLongAsAny: a node whose state lags does not know how
// long the session holds that is in its way, unless the leader has said it.
func TestUnknownSessionHoldsAsLongAsAny(t *testing.T) {
	t0 := tuning.Tuning{}.WithDefaults()
	w := liveness.NewDetector(t0.Lease, t0.Margin)
	require.Greater(t, w.SurelyDead(unknownSession(rival{Epoch: 7})), spool.MaxLease)
	require.Less(t, w.SurelyDead(unknownSession(rival{Epoch: 7, Dead: 1})), spool.MaxLease)
}

// TestNoncesThatMayCountAreKept: the one on record, and those that may be on their way.
func TestNoncesThatMayCountAreKept(t *testing.T) {
	var all []string
	for i := range datadir.MaxPending {
		all = append(all, fmt.Sprint(i))
	}
	newest := all[datadir.MaxPending/2:]
	require.Equal(t, append([]string{"0"}, newest...), needed(all, "0"))
	require.Equal(t, newest, needed(all, "15"))
	require.Equal(t, newest, needed(all, "of another copy"))
	require.Equal(t, []string{"a"}, needed([]string{"a"}, "b"))
}
