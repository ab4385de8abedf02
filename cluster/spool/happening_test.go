package spool_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// TestHappenings: what a command adds to histories and to the audit log is told while somebody
// watches, with numbers that are the same at every replica, and to nobody else.
func TestHappenings(t *testing.T) {
	var on atomic.Bool
	watched, other := newReplica(t), newReplica(t)
	watched.m.Watch(&on)
	tell := func(r *replica) (all []string) {
		for _, h := range r.m.Changes().Happened {
			if h.Event == nil {
				all = append(all, fmt.Sprintf("%d.%d %s", h.Index, h.N, h.Audit.What))
				continue
			}
			all = append(all, fmt.Sprintf("%d.%d %s %s", h.Index, h.N, h.Event.What, h.Event.Recipient))
		}
		return all
	}
	for _, r := range []*replica{watched, other} {
		r.user("bob@a.example")
		epoch := r.register("n1", "x")
		require.Empty(t, tell(r))
		on.Store(r == watched)
		id := newID(1)
		h := acceptOf(id, epoch, []string{"x@b.example"}, "bob@a.example")
		require.Equal(t, pb.Code_OK, r.do(spool.KindAccept, h, []byte("body")).Code)
		require.Equal(t, pb.Code_OK, r.settle(epoch, id, 0, 1, pb.State_DEFERRED))
		putRoutes(r, 1, "why")
		if r == other {
			require.Empty(t, tell(r))
			continue
		}
		at := r.index
		require.Equal(t, []string{
			fmt.Sprintf("%d.1 accepted ", at-2), fmt.Sprintf("%d.2 delivered bob@a.example", at-2),
			fmt.Sprintf("%d.1 deferred x@b.example", at-1), fmt.Sprintf("%d.0 route set far.example mx", at),
		}, tell(r))
		require.Empty(t, tell(r))
	}
	require.Equal(t, watched.store.Sum(), other.store.Sum())
}
