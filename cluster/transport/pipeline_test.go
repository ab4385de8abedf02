package transport

import (
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/tuning"
)

// stumbling is a follower's network: now and then the follower says no to
// entries, as it does when a write fails or its log has another end.
type stumbling struct {
	raft.Transport
	calls chan raft.RPC
	last  func() uint64
	trip  atomic.Bool
	trips atomic.Int32
}

func stumble(t *testing.T, inner raft.Transport) *stumbling {
	s := &stumbling{Transport: inner, calls: make(chan raft.RPC)}
	ctx := t.Context()
	go func() {
		for {
			select {
			case rpc := <-inner.Consumer():
				req, ok := rpc.Command.(*raft.AppendEntriesRequest)
				if ok && len(req.Entries) > 0 && s.trip.CompareAndSwap(true, false) {
					s.trips.Add(1)
					rpc.Respond(&raft.AppendEntriesResponse{RPCHeader: req.RPCHeader, Term: req.Term, LastLog: s.last()}, nil)
					continue
				}
				select {
				case s.calls <- rpc:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return s
}

func (s *stumbling) Consumer() <-chan raft.RPC { return s.calls }

// piping is a leader's network: it can break its pipelines, which a leader with
// a wedged follower can't do any more, not even to shut down.
type piping struct {
	raft.Transport
	mu   sync.Mutex
	made []raft.AppendPipeline
}

func (p *piping) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	one, err := p.Transport.AppendEntriesPipeline(id, to)
	if err == nil {
		p.mu.Lock()
		p.made = append(p.made, one)
		p.mu.Unlock()
	}
	return one, err
}

func (p *piping) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.made {
		_ = one.Close()
	}
}

// idle is a state machine with no state.
type idle struct{}

func (idle) Apply(*raft.Log) any                 { return nil }
func (idle) Snapshot() (raft.FSMSnapshot, error) { return nil, raft.ErrNothingNewToSnapshot }
func (idle) Restore(r io.ReadCloser) error       { return r.Close() }

// pair runs a leader and two followers, of which the first stumbles.
func pair(t *testing.T, inFlight int) (leader, follower *raft.Raft, trip *stumbling) {
	conf := tuning.Tuning{
		Heartbeat: 300 * time.Millisecond, Election: 300 * time.Millisecond, LeaderLease: 200 * time.Millisecond,
		CommitTimeout: 5 * time.Millisecond,
	}.
		WithDefaults()
	var members raft.Configuration
	var nets []*raft.NetworkTransport
	for _, id := range []raft.ServerID{"a", "b", "c"} {
		n, err := raft.NewTCPTransportWithConfig("127.0.0.1:0", nil, &raft.NetworkTransportConfig{
			MaxPool: 3, Timeout: 5 * time.Second, MaxRPCsInFlight: inFlight, Logger: tuning.NewRaftLog(zap.NewNop()),
		})
		require.NoError(t, err)
		nets = append(nets, n)
		members.Servers = append(members.Servers, raft.Server{ID: id, Address: n.LocalAddr()})
	}
	var all []*raft.Raft
	pipes := &piping{Transport: nets[0]}
	for i, s := range members.Servers {
		var network raft.Transport = nets[i]
		switch i {
		case 0:
			network = pipes
		case 1:
			trip = stumble(t, nets[i])
			network = trip
		}
		store := raft.NewInmemStore()
		if i == 1 {
			trip.last = func() uint64 { last, _ := store.LastIndex(); return last }
		}
		rc := conf.RaftConfig(string(s.ID), zap.NewNop())
		if i > 0 { // a leads
			rc.HeartbeatTimeout, rc.ElectionTimeout = 20*time.Second, 20*time.Second
		}
		r, err := raft.NewRaft(rc, idle{}, store, store, raft.NewInmemSnapshotStore(), network)
		require.NoError(t, err)
		t.Cleanup(func() { _ = r.Shutdown().Error() })
		all = append(all, r)
	}
	t.Cleanup(func() {
		for _, n := range nets {
			_ = n.Close()
		}
		pipes.close()
	})
	require.NoError(t, all[0].BootstrapCluster(members).Error())
	require.Eventually(t, func() bool { return all[0].State() == raft.Leader }, time.Minute, 5*time.Millisecond)
	return all[0], all[1], trip
}

// wedges makes the follower stumble under load, and reports whether it ever
// stays behind for good.
func wedges(t *testing.T, inFlight int) bool {
	leader, follower, s := pair(t, inFlight)
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = leader.Apply([]byte("entry"), 0).Error()
				}
			}
		})
	}
	defer load.Wait()
	defer close(stop)
	for range 40 {
		before := s.trips.Load()
		s.trip.Store(true)
		if !within(time.Second, func() bool { return s.trips.Load() > before }) {
			return true // nothing reaches it any more
		}
		want := leader.LastIndex()
		if !within(time.Second, func() bool { return follower.LastIndex() >= want }) {
			return true
		}
	}
	return false
}

func within(d time.Duration, cond func() bool) bool {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		if cond() {
			return true
		}
	}
	return false
}

// TestPipelineWedgesAFollower shows what MaxRPCsInFlight=1 guards against: with
// raft's default of two, a follower that says no once, at the wrong moment, is
// never sent an entry again, while heartbeats go on as if all were well
// (hashicorp/raft#612).
func TestPipelineWedgesAFollower(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes seconds")
	}
	require.False(t, wedges(t, maxInFlight), "as we run it")
	if !wedges(t, 2) {
		t.Log("the follower was not wedged with 2 in flight: raft may have mended #612, and the guard may go")
	}
}
