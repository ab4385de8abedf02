package propose

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"relay/cluster/clock"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

// quickRaft has applied what it gets.
type quickRaft struct{}

func (quickRaft) State() raft.RaftState                        { return raft.Leader }
func (quickRaft) Apply([]byte, time.Duration) raft.ApplyFuture { return applied{} }

type applied struct{}

func (applied) Error() error          { return nil }
func (applied) Index() uint64         { return 1 }
func (applied) Response() interface{} { return &pb.Result{} }

// counted is a sink that tells when a group is settled.
type counted struct{ sync.WaitGroup }

func (c *counted) settle(*proposal, *pb.Result, error) { c.Done() }

// BenchmarkBatcherThread is what a command takes of the leader's one batcher goroutine:
// it checks, stamps, hands to raft and settles; raft itself takes no time here.
func BenchmarkBatcherThread(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10} {
		for _, group := range []int{20, 128} {
			b.Run(fmt.Sprintf("%dKiB/%d", size>>10, group), func(b *testing.B) { benchBatcherThread(b, size, group) })
		}
	}
}

func benchBatcherThread(b *testing.B, size, group int) {
	c := New(Ports{At: func(uint32) bool { return false }}, NewLeaderWatch())
	began := time.Now()
	g := NewBatcher(quickRaft{}, tuning.Tuning{Linger: -1, GroupBytes: 16 << 20}.WithDefaults(), c.Admits,
		func() time.Duration { return time.Since(began) })
	g.TermTime().Rebase(began.UnixMilli())
	g.TermTime().Let(clock.StampAll)
	ctx, cancel := context.WithCancel(b.Context())
	used := make(chan time.Duration)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		var before, after syscall.Rusage
		err := syscall.Getrusage(syscall.RUSAGE_THREAD, &before)
		g.Run(ctx)
		if err == nil {
			err = syscall.Getrusage(syscall.RUSAGE_THREAD, &after)
		}
		if err != nil {
			b.Error(err)
		}
		used <- time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	}()
	f := frame(b, spool.KindAccept, &pb.Accept{
		Message: &pb.Message{
			Id: make([]byte, 16), Sender: "bounce-1234@news.example.com", MessageId: "1.2@mail.example.com",
			Client: &pb.Client{Node: "n1", Address: "127.0.0.1:43210", Helo: "mail.example.com", Protocol: "ESMTPS"},
		},
		Recipients: []*pb.Recipient{{Address: "user@example.net"}}, Inline: true, Twin: make([]byte, 16),
	}, size)
	n := 0
	for ; n < b.N; n += group {
		var done counted
		done.Add(group)
		all := make([]*proposal, group)
		for i := range all {
			one := append(spool.Frame(nil), f...)
			all[i] = &proposal{frame: one, sink: &done}
		}
		g.submit(all...)
		done.Wait()
	}
	cancel()
	b.ReportMetric(0, "ns/op")
	spent := <-used
	require.Positive(b, spent)
	b.ReportMetric(float64(spent.Nanoseconds())/float64(n), "cpu-ns/command")
}
