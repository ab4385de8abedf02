package node

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/replica"
	"relay/node/replica/replicatest"
)

// TestMemberStates: what a node is called follows from what is heard of it now,
// whatever its session says.
func TestMemberStates(t *testing.T) {
	yes, no := true, false
	here := vitals{Version: "v1", Refusing: &yes}
	for name, c := range map[string]struct {
		m     cluster.MemberStatus
		said  vitals
		owned uint64
		want  string
	}{
		"alive": {cluster.MemberStatus{Live: true, Answers: true}, vitals{Version: "v1", Refusing: &no}, 3,
			admin.NodeAlive},
		"silent":            {cluster.MemberStatus{Live: true, Silent: 2 * time.Second}, vitals{}, 0, admin.NodeSilent},
		"dead, no majority": {cluster.MemberStatus{Live: true, Silent: 5 * time.Second}, vitals{}, 0, admin.NodeDead},
		"dead":              {cluster.MemberStatus{Silent: time.Second}, vitals{}, 0, admin.NodeDead},
		"drained":           {cluster.MemberStatus{Live: true, Answers: true, Draining: true}, here, 0, admin.NodeDrained},
		"during the notice": {cluster.MemberStatus{Live: true, Answers: true, Draining: true},
			vitals{Version: "v1", Refusing: &no}, 0, admin.NodeDraining},
		"has a client": {cluster.MemberStatus{Live: true, Answers: true, Draining: true},
			vitals{Version: "v1", Refusing: &yes, Served: 1}, 0, admin.NodeDraining},
		"owns something": {cluster.MemberStatus{Live: true, Answers: true, Draining: true}, here, 1, admin.NodeDraining},
		"leads": {cluster.MemberStatus{Live: true, Answers: true, Draining: true, Role: memberLeader}, here, 0,
			admin.NodeDraining},
		"says nothing": {cluster.MemberStatus{Live: true, Answers: true, Draining: true}, vitals{}, 0,
			admin.NodeDraining},
		"a build of before": {cluster.MemberStatus{Live: true, Answers: true, Draining: true}, vitals{Version: "v0"}, 0,
			admin.NodeDrained},
		"silent and drained": {cluster.MemberStatus{Live: true, Draining: true, Silent: time.Second}, vitals{}, 0,
			admin.NodeSilent},
	} {
		require.Equal(t, c.want, memberState(&c.m, c.said, c.owned, 5*time.Second), name)
	}
}

func TestWhatMayFail(t *testing.T) {
	for _, c := range []struct {
		all, up, spare int
		advice         string
	}{
		{1, 1, 0, ""}, {2, 2, 0, "none may fail"}, {3, 3, 1, ""}, {3, 2, 0, ""}, {3, 1, 0, ""},
		{4, 4, 1, "of 4 voting nodes 1 may fail, as of 3; with one more 2 may"}, {4, 3, 0, ""}, {5, 5, 2, ""},
	} {
		v := voteCount{c.all, c.up}
		require.Equal(t, c.spare, v.spare(), "%v", v)
		require.Contains(t, strings.Join(v.advice(), "\n"), c.advice)
		require.Equal(t, c.advice == "", len(v.advice()) == 0, "%v", v)
	}
}

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
