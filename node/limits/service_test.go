package limits

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/queue/limit"
	"relay/queue/remote"
)

// world is three nodes, and who leads.
type world struct {
	mu     sync.Mutex
	nodes  map[string]*Service
	leader string
	term   uint64
	dead   map[string]bool
	asks   int
	kicks  map[string]int
	sheds  map[string]int
}

// port is a node's queue and connections.
type port struct {
	w    *world
	node string
}

func (p port) Kick(*limit.Gate) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.kicks[p.node]++
}

func (p port) Shed(_ *limit.Gate, n int) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.sheds[p.node] += n
}

// run runs three nodes in a bubble. f gets a function that ends one.
func run(t *testing.T, limits []string, f func(w *world, end func(node string))) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{nodes: map[string]*Service{}, leader: "n1", term: 1, dead: map[string]bool{}, kicks: map[string]int{},
			sheds: map[string]int{}}
		stops := map[string]context.CancelFunc{}
		var all sync.WaitGroup
		for i := range 3 {
			node := fmt.Sprintf("n%d", i+1)
			s := New(w.config(node))
			s.Set(limits, nil, port{w, node})
			w.nodes[node] = s
		}
		for node, s := range w.nodes {
			ctx, stop := context.WithCancel(t.Context())
			stops[node] = stop
			all.Go(func() { _ = s.Run(ctx, port{w, node}, port{w, node}) })
		}
		f(w, func(node string) { w.set(func() { w.dead[node] = true }); stops[node]() })
		for _, stop := range stops {
			stop()
		}
		all.Wait()
	})
}

func (w *world) set(f func()) { w.mu.Lock(); defer w.mu.Unlock(); f() }

func (w *world) count(of map[string]int, node string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return of[node]
}

func (w *world) config(node string) Config {
	return Config{
		Node: node, Log: zap.NewNop(), Epoch: func() uint64 { return 7 },
		Leader: func() string { w.mu.Lock(); defer w.mu.Unlock(); return w.leader },
		Lead: func(context.Context) (uint64, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.leader != node {
				return 0, errors.New("not the leader")
			}
			return w.term, nil
		},
		Ask: func(ctx context.Context, to, method string, req []byte) ([]byte, error) {
			w.mu.Lock()
			w.asks++
			gone := w.dead[to] || w.dead[node]
			w.mu.Unlock()
			time.Sleep(time.Millisecond)
			if gone || method != Method {
				return nil, errors.New("unreachable")
			}
			return w.nodes[to].Answer(ctx, node, req)
		},
		Live: func() []string { return []string{"n1", "n2", "n3"} },
		Dead: func(_ context.Context, node string) bool { w.mu.Lock(); defer w.mu.Unlock(); return w.dead[node] },
	}
}

// share is how many connections a node may have now.
func (w *world) share(node string) int {
	_, share, _ := w.nodes[node].Gates.For("site:x")[0].Words()
	return share
}

func later(d time.Duration) { time.Sleep(d); synctest.Wait() }

// TestNothingIsAskedWithoutNeed: without limits there is no question, and with limits none while there is no mail.
func TestNothingIsAskedWithoutNeed(t *testing.T) {
	run(t, nil, func(w *world, _ func(string)) {
		later(time.Hour)
		w.set(func() { require.Zero(t, w.asks) })
	})
	run(t, []string{"site:x connections=10"}, func(w *world, _ func(string)) {
		later(time.Hour)
		w.set(func() { require.LessOrEqual(t, w.asks, 4, "one of each, for the leader to know") })
	})
}

// TestSharesComeAndGo: demand brings a share in less than a second, and its end takes it away; one of a dead node comes
// back, and a new leader goes on.
func TestSharesComeAndGo(t *testing.T) {
	run(t, []string{"site:x connections=9"}, func(w *world, end func(string)) {
		later(time.Second)
		gate := func(node string) *limit.Gate { return w.nodes[node].Gates.For("site:x")[0] }
		gate("n2").Demand(20, 20)
		later(time.Second)
		require.Equal(t, 9, w.share("n2"))
		require.Positive(t, w.count(w.kicks, "n2"))
		gate("n3").Demand(20, 20)
		gate("n1").Demand(20, 20)
		later(2 * time.Second)
		for _, node := range []string{"n1", "n2", "n3"} {
			require.Equal(t, 3, w.share(node), node)
		}
		gate("n1").Demand(-20, -20)
		later(time.Second)
		require.Equal(t, 9, w.share("n2")+w.share("n3"))

		w.set(func() { w.leader, w.term = "n2", 2 })
		later(12 * time.Second)
		require.Equal(t, 9, w.share("n2")+w.share("n3"))
		end("n3")
		later(limit.Learning + 2*time.Second)
		require.Equal(t, 9, w.share("n2"))
		w.set(func() { w.leader = "" })
		later(limit.Lease)
		require.Zero(t, w.share("n2"), "nobody leads")
	})
}

// TestALapseClosesConnections: a node that reaches no leader closes what it has.
func TestALapseClosesConnections(t *testing.T) {
	run(t, []string{"site:x connections=9"}, func(w *world, _ func(string)) {
		later(time.Second)
		gates := w.nodes["n2"].Gates.For("site:x")
		gates[0].Demand(2, 2)
		later(time.Second)
		p := limit.Begin(gates, 1)
		require.NotNil(t, p)
		ctx, cancel := context.WithCancelCause(context.Background())
		p.OnLapse(cancel)
		place, _ := p.Open()
		require.NotNil(t, place)
		w.set(func() { w.dead["n2"] = true })
		later(limit.Lease + limit.Period)
		require.ErrorIs(t, context.Cause(ctx), errLapsed)
		require.Positive(t, w.count(w.sheds, "n2"))
		place.Close()
		p.End()
		gates[0].Demand(-2, -2)
	})
}

// TestSitesAreLearnt: by the agent's look-up, and named anew when the table changes.
func TestSitesAreLearnt(t *testing.T) {
	s := New((&world{}).config("n1"))
	s.Learn("X.example", []remote.Record{{Host: "a.mx.big.example"}})
	require.Equal(t, "a.mx.big.example", s.Of("x.example"))
	s.Set(nil, []string{"big mx.big.example"}, nil)
	require.Equal(t, "big", s.Of("x.example"))
	s.Set(nil, []string{"big com"}, nil)
	require.Equal(t, "big", s.Of("x.example"), "a table that can not be read does not count")
}
