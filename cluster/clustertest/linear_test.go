package clustertest_test

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
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

// repeated has each write twice. Propose proposes a command again when its leader goes
// away, so that other writes may come between two effects of one write, within its time.
func (h *history) repeated() []porcupine.Operation {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := slices.Clone(h.ops)
	for _, op := range h.ops {
		if op.Input.(registerOp).write {
			op.ClientId += 1_000_000
			all = append(all, op)
		}
	}
	return all
}

// String has a line of each operation, in the order of calls.
func (h *history) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	slices.SortFunc(h.ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var b strings.Builder
	for _, op := range h.ops {
		what, value := "reads", op.Output
		if in := op.Input.(registerOp); in.write {
			what, value = "writes", in.value
		}
		end := "unknown"
		if op.Return != math.MaxInt64 {
			end = time.Duration(op.Return).String()
		}
		fmt.Fprintf(&b, "\n%v – %s: %d %s %v", time.Duration(op.Call), end, op.ClientId, what, value)
	}
	return b.String()
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
	result := porcupine.CheckOperationsTimeout(registerModel(), h.repeated(), 30*time.Second)
	require.Equal(t, porcupine.Ok, result, "%d operations: %s", len(h.ops), h)
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

// TestAHistoryOfRepeatedWrites: the check allows two effects of one write, and no old read.
func TestAHistoryOfRepeatedWrites(t *testing.T) {
	t.Parallel()
	check := func(last string, end int64) porcupine.CheckResult {
		h := &history{}
		h.add(1, registerOp{write: true, value: "a"}, 0, "", end)
		h.add(2, registerOp{}, 1, "a", 2)
		h.add(3, registerOp{write: true, value: "b"}, 3, "", 4)
		h.add(2, registerOp{}, 5, "b", 6)
		h.add(2, registerOp{}, 7, last, 8)
		return porcupine.CheckOperationsTimeout(registerModel(), h.repeated(), time.Minute)
	}
	require.Equal(t, porcupine.Ok, check("a", 8), "proposed again")
	require.Equal(t, porcupine.Illegal, check("a", 3), "its write is over")
	require.Equal(t, porcupine.Illegal, check("", 8))
	require.Equal(t, porcupine.Ok, check("b", 3))
}
