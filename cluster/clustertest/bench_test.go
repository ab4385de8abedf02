package clustertest_test

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/cluster/clustertest"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// BenchmarkAccept proposes messages of a size from all three nodes at once, so
// many in flight in all.
//
//	go test -run - -bench Accept ./cluster/clustertest
func BenchmarkAccept(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10} {
		for _, flying := range []int{1, 20, 100} {
			b.Run(fmt.Sprintf("%dKiB/%d", size>>10, flying), func(b *testing.B) { benchAccept(b, size, flying) })
		}
	}
}

func benchAccept(b *testing.B, size, flying int) {
	g := clustertest.New(b, clustertest.Options{Tuning: cluster.Tuning{Promote: 200 * time.Millisecond}})
	body := make([]byte, size)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	work := make(chan struct{})
	var wg sync.WaitGroup
	var bad error
	var once sync.Once
	for i := range flying {
		n := g.Nodes()[i%len(g.Nodes())]
		wg.Go(func() {
			for range work {
				if err := acceptOne(ctx, n, body); err != nil {
					once.Do(func() { bad = err })
				}
			}
		})
	}
	b.SetBytes(int64(size))
	before := cpuTime(b)
	b.ResetTimer()
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
	b.StopTimer()
	require.NoError(b, bad)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "accepts/s")
	// All three nodes' work is in this process; the figure holds on a busy
	// machine, too.
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
	g.WaitEqual()
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// acceptOne accepts a message into nobody's mailbox and nobody's queue: the benchmark
// measures the way through the log.
func acceptOne(ctx context.Context, n *clustertest.Node, body []byte) error {
	id := ulid.Make()
	f, err := spool.Encode(spool.KindAccept, &pb.Accept{
		Message: &pb.Message{Id: id[:], Sender: "a@example.test", Size: uint64(len(body)), Chunks: 1},
		Inline:  true, Epoch: n.C().Epoch(),
		Recipients: []*pb.Recipient{{Address: "b@example.net"}},
	}, body)
	if err != nil {
		return err
	}
	res, err := n.C().Propose(ctx, f)
	if err == nil && res.Code != pb.Code_OK && res.Code != pb.Code_DUPLICATE {
		err = fmt.Errorf("%s: %s", res.Code, res.Text)
	}
	return err
}
