package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica"
	"relay/node/replica/replicatest"
)

// TestDrainedNodeStarts: a node that starts with the mark refuses new clients at
// once, though the clock of a state that is behind leaves some of the notice.
func TestDrainedNodeStarts(t *testing.T) {
	r := replicatest.New(t)
	do := func(kind spool.Kind, h proto.Message) {
		res, err := replica.Propose(t.Context(), r, kind, h)
		require.NoError(t, err)
		require.Equal(t, pb.Code_OK, res.Code, res.Text)
	}
	for _, id := range []string{"n1", "n2"} {
		do(spool.KindRegister, &pb.Register{Nonce: id, Member: &pb.Member{Id: id, MaxCommand: spool.MaxVersion}})
	}
	do(spool.KindDrain, &pb.Drain{Node: "n1", NoticeMs: 5000})
	refused := false
	d := newDrain(r, "n1", func(on, _ bool) { refused = on }, zap.NewNop())
	require.NoError(t, d.begin())
	require.True(t, refused)
	require.ErrorIs(t, d.ready(), errDrained)
	do(spool.KindDrain, &pb.Drain{Node: "n1", Off: true})
	require.NoError(t, d.look())
	d.step(time.Now())
	require.False(t, refused)
	require.NoError(t, d.ready())
}

// TestNoticeOfADrain plays the phases of a node that goes out of service, by its
// mark and at a stop, on a clock of its own.
func TestNoticeOfADrain(t *testing.T) {
	for name, c := range map[string]struct {
		mark, others bool          // before the stop
		after        time.Duration // the mark, the stop
		refuses      time.Duration // after the stop
	}{
		"a stop":                        {others: true, refuses: 5 * time.Second},
		"a stop of the only one":        {refuses: 0},
		"a stop during a notice":        {mark: true, others: true, after: 7 * time.Second, refuses: 3 * time.Second},
		"a stop at the end of a drain":  {mark: true, others: true, after: time.Minute, refuses: 0},
		"a stop early in a long notice": {mark: true, others: true, after: time.Second, refuses: 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			r := replicatest.New(t)
			synctest.Test(t, func(t *testing.T) {
				var refused time.Time
				d := newDrain(r, "n1", func(on, _ bool) {
					if on {
						refused = time.Now()
					}
				}, zap.NewNop())
				for _, id := range []string{"n1", "n2"} {
					if id == "n1" || c.others || c.mark {
						_, err := replica.Propose(t.Context(), r, spool.KindRegister, &pb.Register{Nonce: id, Member: &pb.Member{Id: id}})
						require.NoError(t, err)
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go func() { _ = d.run(ctx) }()
				if c.mark {
					d.mu.Lock()
					d.mark, d.end = 1, time.Now().Add(10*time.Second)
					d.mu.Unlock()
					d.wake()
					require.ErrorIs(t, d.ready(), errDrained)
					time.Sleep(c.after) // the bubble's clock
				}
				stopped := time.Now()
				d.stop(ctx, 5*time.Second)
				synctest.Wait()
				require.ErrorIs(t, d.ready(), errStopping)
				require.ErrorIs(t, d.serving(), errRefusing)
				require.Equal(t, c.refuses, max(refused.Sub(stopped), 0))
			})
		})
	}
}
