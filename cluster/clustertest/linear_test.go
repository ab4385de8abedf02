package clustertest_test

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"relay/cluster/clustertest"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// register is one route's target, as a model: written or read.
type registerOp struct {
	write bool
	value string
}

func registerModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return "" },
		Step: func(state, input, output any) (bool, any) {
			in := input.(registerOp)
			if in.write {
				return true, in.value
			}
			return output.(string) == state.(string), state
		},
	}
}

// history records operations with their times; an operation with no known end is open
// for ever.
type history struct {
	began time.Time
	mu    sync.Mutex
	ops   []porcupine.Operation
}

func (h *history) now() int64 { return int64(time.Since(h.began)) }

func (h *history) add(client int, in registerOp, call int64, out string, end int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: end})
}

func (h *history) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops)
}

func TestReadsAfterConsistentAreLinearizable(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	h := &history{began: time.Now()}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i, n := range g.Nodes() {
		wg.Go(func() { writer(ctx, h, i, n, done) })
		wg.Go(func() { reader(ctx, h, 10+i, n, done) })
	}
	grown := func(by int) {
		want := h.len() + by
		g.Eventually("nothing is read or written", func() bool { return h.len() >= want })
	}
	grown(60)
	require.NoError(t, g.Node(0).C().Transfer(ctx, ""))
	grown(60)
	leader := g.Leader()
	g.Isolate(leader)
	grown(60)
	g.HealAll()
	g.WaitReady(g.Nodes()...)
	grown(30)
	close(done)
	wg.Wait()
	result := porcupine.CheckOperationsTimeout(registerModel(), h.ops, 10*time.Second)
	require.Equal(t, porcupine.Ok, result, "%d operations", len(h.ops))
}

func writer(ctx context.Context, h *history, client int, n *clustertest.Node, done chan struct{}) {
	for i := 0; ; i++ {
		if over(done) {
			return
		}
		value := fmt.Sprintf("smtp:h%d.test:%d", client, i+1)
		f, err := spool.Encode(spool.KindPutRoute, &pb.PutRoute{Route: &pb.Route{Domain: "x.test", Target: value}})
		if err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		call := h.now()
		res, err := n.C().Propose(ctx, f)
		cancel()
		end := h.now()
		if err != nil || res.Code != pb.Code_OK {
			end = math.MaxInt64
		}
		h.add(client*1000+i, registerOp{write: true, value: value}, call, "", end)
	}
}

func reader(ctx context.Context, h *history, client int, n *clustertest.Node, done chan struct{}) {
	for {
		if over(done) {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		call := h.now()
		err := n.C().Consistent(ctx)
		cancel()
		if err != nil {
			continue
		}
		var value string
		err = n.C().View(func(v spool.View) error {
			all, err := v.Routes()
			for _, r := range all {
				if r.Domain == "x.test" {
					value = r.Target
				}
			}
			return err
		})
		if err == nil {
			h.add(client, registerOp{}, call, value, h.now())
		}
	}
}

// over reports whether done is closed, and makes room for the others: short
// histories can be checked, long ones can't.
func over(done chan struct{}) bool {
	t := time.NewTimer(10 * time.Millisecond)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}
