package propose

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"relay/cluster/clock"
	"relay/cluster/fault"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

// fakeRaft applies entries when it is told to.
type fakeRaft struct {
	mu      sync.Mutex
	entries []*fakeFuture
	came    chan *fakeFuture
	state   atomic.Uint32
	over    bool // entries are answered at once
}

type fakeFuture struct {
	frame spool.Frame
	done  chan struct{}
	err   error
	index uint64
}

func newFakeRaft() *fakeRaft {
	r := &fakeRaft{came: make(chan *fakeFuture, 10000)}
	r.state.Store(uint32(raft.Leader))
	return r
}

func (r *fakeRaft) State() raft.RaftState { return raft.RaftState(r.state.Load()) }

func (r *fakeRaft) Apply(b []byte, _ time.Duration) raft.ApplyFuture {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &fakeFuture{frame: b, done: make(chan struct{}), index: uint64(len(r.entries) + 1)}
	r.entries = append(r.entries, f)
	if r.over {
		f.finish(raft.ErrRaftShutdown)
		return f
	}
	r.came <- f
	return f
}

func (f *fakeFuture) Error() error          { <-f.done; return f.err }
func (f *fakeFuture) Index() uint64         { return f.index }
func (f *fakeFuture) Response() interface{} { return &pb.Result{Index: f.index} }

func (f *fakeFuture) finish(err error) {
	f.err = err
	close(f.done)
}

func frame(t testing.TB, kind spool.Kind, h proto.Message, body int) spool.Frame {
	f, err := spool.Encode(kind, h, make([]byte, body))
	require.NoError(t, err)
	return f
}

func small(t testing.TB) spool.Frame { return frame(t, spool.KindRenew, &pb.Renew{Node: "n"}, 0) }
func large(t testing.TB) spool.Frame { return frame(t, spool.KindChunk, &pb.Chunk{}, 200<<10) }

func newCall(f spool.Frame) *call {
	c := &call{proposal: proposal{frame: f}, done: make(chan struct{}, 1)}
	c.sink = c
	return c
}

// runBatcher runs a batcher until the test ends.
func runBatcher(t *testing.T, r *fakeRaft, tune tuning.Tuning) *Batcher {
	c := New(Ports{At: func(uint32) bool { return false }}, NewLeaderWatch())
	began := time.Now()
	g := NewBatcher(r, tune.WithDefaults(), c.Admits, func() time.Duration { return time.Since(began) })
	g.TermTime().Rebase(began.UnixMilli())
	g.TermTime().Let(clock.StampAll)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range tune.WithDefaults().BatchDepth {
		wg.Go(func() { g.Run(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		r.mu.Lock()
		r.over = true
		for _, f := range r.entries {
			select {
			case <-f.done:
			default:
				f.finish(nil)
			}
		}
		r.mu.Unlock()
		wg.Wait()
	})
	return g
}

// next takes the entries of a group off the fake raft.
func next(t *testing.T, r *fakeRaft, n int) (group []*fakeFuture) {
	t.Helper()
	for range n {
		select {
		case f := <-r.came:
			group = append(group, f)
		case <-time.After(time.Minute):
			require.Fail(t, "the batcher lets nothing through")
		}
	}
	return group
}

func none(t *testing.T, r *fakeRaft) {
	t.Helper()
	select {
	case <-r.came:
		require.Fail(t, "the batcher let more than one group through")
	default:
	}
}

func finish(group []*fakeFuture, err error) {
	for _, f := range group {
		f.finish(err)
	}
}

func TestGateMakesGroupsOfWhatArrives(t *testing.T) {
	r := newFakeRaft()
	g := runBatcher(t, r, tuning.Tuning{})
	first := newCall(small(t))
	g.submit(&first.proposal)
	group := next(t, r, 1)
	var rest []*call
	for range 300 {
		c := newCall(small(t))
		rest = append(rest, c)
		g.submit(&c.proposal)
	}
	none(t, r) // one group in flight
	finish(group, nil)
	<-first.done
	require.NoError(t, first.err)
	for _, want := range []int{128, 128, 44} {
		group = next(t, r, want)
		none(t, r)
		finish(group, nil)
	}
	for _, c := range rest {
		<-c.done
		require.NoError(t, c.err)
	}
}

func TestGateTakesControlFirstAndBoundsBulk(t *testing.T) {
	r := newFakeRaft()
	g := runBatcher(t, r, tuning.Tuning{GroupBytes: 1 << 20, BulkBytes: 450 << 10})
	hold := newCall(small(t))
	g.submit(&hold.proposal)
	group := next(t, r, 1)
	for range 8 {
		g.submit(&newCall(large(t)).proposal)
	}
	for range 3 {
		g.submit(&newCall(small(t)).proposal)
	}
	finish(group, nil)
	group = next(t, r, 5) // control, and two of bulk
	none(t, r)
	for i, f := range group {
		require.Equal(t, i >= 3, f.frame.Bulk(), "entry %d", i)
	}
	finish(group, nil)
	group = next(t, r, 5) // without control, as many as fit
	none(t, r)
	finish(group, nil)
	finish(next(t, r, 1), nil)
}

func TestGateLetsBulkThroughBesideMuchControl(t *testing.T) {
	r := newFakeRaft()
	g := runBatcher(t, r, tuning.Tuning{})
	hold := newCall(small(t))
	g.submit(&hold.proposal)
	group := next(t, r, 1)
	for range 1000 {
		g.submit(&newCall(small(t)).proposal)
	}
	g.submit(&newCall(large(t)).proposal)
	finish(group, nil)
	group = next(t, r, 97)
	require.True(t, group[96].frame.Bulk(), "bulk must not starve")
	finish(group, nil)
}

func TestGateStampsCopiesOfFramesSeenBefore(t *testing.T) {
	r := newFakeRaft()
	g := runBatcher(t, r, tuning.Tuning{})
	var now atomic.Int64
	g.mu.Lock()
	g.stamper = clock.NewStamper(func() time.Duration { return time.Duration(now.Load()) * time.Millisecond })
	g.mu.Unlock()
	g.TermTime().Let(clock.StampAll)
	f := small(t)
	for i, at := range []int64{1_000_000, 2_000_000, 1_500_000} {
		now.Store(at)
		c := newCall(f)
		g.submit(&c.proposal)
		group := next(t, r, 1)
		cmd, err := spool.Decode(group[0].frame)
		require.NoError(t, err)
		require.Equal(t, []int64{1_000_000, 2_000_000, 2_000_000}[i], cmd.At, "stamps never run backwards")
		require.Equal(t, i == 0, &group[0].frame[0] == &f[0], "what stands in the log is never stamped again")
		finish(group, raft.ErrLeadershipLost)
		<-c.done
		require.True(t, fault.MayBeApplied(c.err))
	}
	cmd, err := spool.Decode(f)
	require.NoError(t, err)
	require.Equal(t, int64(1_000_000), cmd.At)
}

func TestGateRefuses(t *testing.T) {
	r := newFakeRaft()
	g := runBatcher(t, r, tuning.Tuning{})
	ask := func(f spool.Frame) error {
		c := newCall(f)
		g.submit(&c.proposal)
		<-c.done
		return c.err
	}
	unknown := small(t)
	unknown[1] = 250
	require.ErrorIs(t, ask(unknown), fault.ErrInvalid, "an unknown kind would stop every node")
	newer := small(t)
	newer[0] = spool.MaxVersion + 1
	require.ErrorIs(t, ask(newer), fault.ErrInvalid)
	require.ErrorIs(t, ask(spool.Frame("short")), fault.ErrInvalid)
	strange := small(t)
	strange = append(strange[:14], 0x98, 0xb8, 0x02, 0x07) // field 5000
	binary.BigEndian.PutUint32(strange[10:], 4)
	require.ErrorIs(t, ask(strange), fault.ErrInvalid, "an unknown field would stop every node")
	r.state.Store(uint32(raft.Follower))
	err := ask(small(t))
	require.ErrorIs(t, err, fault.ErrNotLeader)
	require.False(t, fault.MayBeApplied(err))
	none(t, r)
}

func TestWithdrawnProposalsStayOut(t *testing.T) {
	r := newFakeRaft()
	g := runBatcher(t, r, tuning.Tuning{})
	hold := newCall(small(t))
	g.submit(&hold.proposal)
	group := next(t, r, 1)
	require.False(t, g.withdraw(&hold.proposal), "it is under way")
	gone, stays := newCall(small(t)), newCall(small(t))
	g.submit(&gone.proposal, &stays.proposal)
	require.True(t, g.withdraw(&gone.proposal))
	finish(group, nil)
	finish(next(t, r, 1), nil)
	<-stays.done
	require.Equal(t, uint64(2), stays.res.Index)
	none(t, r)
}

func TestTimeStandsWhereTheGateLooks(t *testing.T) {
	f := small(t)
	require.False(t, stamped(f))
	f.Stamp(time.UnixMilli(0x0102030405060708))
	require.True(t, stamped(f))
	require.Equal(t, []byte{1, 2, 3, 4, 5, 6, 7, 8}, []byte(f[stampStart:stampEnd]))
	_, err := spool.Decode(f[:preamble-1])
	require.Error(t, err)
}
