package transport

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// BenchmarkAppendEntries is one call of a leader to one follower, over TLS on loopback:
// the time until the answer, and what both sides together take of the processors. The
// follower answers at once.
func BenchmarkAppendEntries(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10} {
		for _, group := range []int{1, 20, 128} {
			b.Run(fmt.Sprintf("%dKiB/%d", size>>10, group), func(b *testing.B) { benchAppendEntries(b, size, group) })
		}
	}
}

func benchAppendEntries(b *testing.B, size, group int) {
	leader, follower := twoPorts(b)
	go func() {
		for {
			select {
			case rpc := <-follower.Consumer():
				rpc.Respond(&raft.AppendEntriesResponse{Term: 1, Success: true}, nil)
			case <-b.Context().Done():
				return
			}
		}
	}()
	req := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: 3, Addr: []byte("a"), ID: []byte("a")}, Term: 1, PrevLogEntry: 1,
		PrevLogTerm: 1,
	}
	for i := range group {
		req.Entries = append(req.Entries, &raft.Log{Index: uint64(i + 2), Term: 1, Data: make([]byte, size+300)})
	}
	var resp raft.AppendEntriesResponse
	b.SetBytes(int64(size * group))
	before := cpuTime(b)
	for b.Loop() {
		require.NoError(b, leader.NetworkTransport.AppendEntries("b", "b", req, &resp))
	}
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(b.N*group), "cpu-ns/entry")
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
