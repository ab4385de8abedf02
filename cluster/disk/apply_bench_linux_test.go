package disk

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
)

// threadTime is the processor time of the calling thread.
func threadTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_THREAD, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkApplyThread is what a message takes of the one goroutine that applies, and so
// what bounds a cluster whatever its processors: its Accept, and its verdict in a Settle
// for each group. The clock on the wall is of that goroutine, too; making the entries and
// compactions do not count. Use -benchtime 20000x.
func BenchmarkApplyThread(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10} {
		for _, group := range []int{20, 128} {
			b.Run(fmt.Sprintf("%dKiB/%d", size>>10, group), func(b *testing.B) { benchApplyThread(b, size, group) })
		}
	}
}

func benchApplyThread(b *testing.B, size, group int) {
	m := newMail(b, nil, func(o *Options) { o.MemTableSize, o.CacheSize, o.Fatal = 32<<20, 64<<20, nil })
	m.send(2000, 200, 10, time.Millisecond)
	m.calm()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var accept, settle, wall time.Duration
	timed := func(into *time.Duration, logs ...*raft.Log) {
		began, used := time.Now(), threadTime(b)
		m.apply(logs...)
		*into += threadTime(b) - used
		wall += time.Since(began)
	}
	body := bodyOf("mail", size)
	b.ResetTimer()
	for i := 0; i < b.N; i += group {
		var logs []*raft.Log
		var ids []spool.ID
		for range group {
			m.now = m.now.Add(100 * time.Microsecond)
			id, l := m.accept(body)
			ids, logs = append(ids, id), append(logs, l)
		}
		timed(&accept, logs...)
		timed(&settle, m.settle(ids))
	}
	each := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / float64((b.N+group-1)/group*group) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(each(accept), "accept-cpu-ns")
	b.ReportMetric(each(settle), "settle-cpu-ns")
	b.ReportMetric(each(wall), "wall-ns")
}
