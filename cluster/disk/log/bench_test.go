package log

import (
	"bytes"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

func BenchmarkLog(b *testing.B) {
	for _, kind := range []string{"former", "packed"} {
		for _, size := range []int{200, 4 << 10, 64 << 10} {
			for _, group := range []int{1, 64} {
				b.Run(fmt.Sprintf("%s/%dx%d", kind, group, size), func(b *testing.B) {
					l := openLog(b, b.TempDir(), modes()[kind].set, func(o *Options) { o.GrowTo, o.MmapBytes = 64<<20, 1<<30 })
					fillLog(b, l, group, size)
				})
			}
		}
	}
}

// fillLog stores groups of entries, and reports the processor time of each entry.
func fillLog(b *testing.B, l *Log, group, size int) {
	data := bytes.Repeat([]byte("x"), size)
	b.SetBytes(int64(size * group))
	b.ReportAllocs()
	began := cpuTime(b)
	for i := uint64(1); b.Loop(); i += uint64(group) {
		all := make([]*raft.Log, group)
		for j := range all {
			all[j] = &raft.Log{Index: i + uint64(j), Term: 1, Data: data}
		}
		require.NoError(b, l.StoreLogs(all))
		if l.Bytes() > 32<<20 {
			first, _ := l.FirstIndex()
			require.NoError(b, l.DeleteRange(first, i-uint64(group)))
		}
	}
	b.ReportMetric(float64((cpuTime(b)-began).Nanoseconds())/float64(b.N*group), "cpu-ns/entry")
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkOpen starts a log of 64 MiB.
func BenchmarkOpen(b *testing.B) {
	for _, kind := range []string{"former", "packed"} {
		for _, size := range []int{200, 4 << 10} {
			b.Run(fmt.Sprintf("%s/%d", kind, size), func(b *testing.B) {
				dir := b.TempDir()
				l := openLog(b, dir, modes()[kind].set)
				for i := uint64(1); l.Bytes() < 64<<20; i += 256 {
					all := make([]*raft.Log, 256)
					for j := range all {
						all[j] = &raft.Log{Index: i + uint64(j), Term: 1, Data: bytes.Repeat([]byte("x"), size)}
					}
					require.NoError(b, l.StoreLogs(all))
				}
				require.NoError(b, l.Close())
				for b.Loop() {
					require.NoError(b, openLog(b, dir, modes()[kind].set).Close())
				}
			})
		}
	}
}

// BenchmarkReplaceSuffix deletes the newest 64,000 entries. It takes -benchtime 3x: most
// of its time is to store them.
func BenchmarkReplaceSuffix(b *testing.B) {
	for _, kind := range []string{"former", "packed"} {
		b.Run(kind, func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				l := openLog(b, b.TempDir(), modes()[kind].set)
				for i := uint64(1); i <= 65000; i += 1000 {
					require.NoError(b, l.StoreLogs(entries(1, i, i+999)))
				}
				b.StartTimer()
				require.NoError(b, l.DeleteRange(1001, 65000))
				b.StopTimer()
				require.NoError(b, l.Close())
			}
		})
	}
}

// BenchmarkSeal is what the checksums cost.
func BenchmarkSeal(b *testing.B) {
	l := &Log{}
	e := &raft.Log{Index: 1, Term: 1, Data: make([]byte, 4096)}
	b.SetBytes(4096)
	b.ReportAllocs()
	for b.Loop() {
		l.seal(e, place{}, checksum(e))
		l.forgetScratch()
	}
}
