package log

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

func BenchmarkLog(b *testing.B) {
	for _, size := range []int{200, 4 << 10, 64 << 10} {
		for _, group := range []int{1, 64} {
			b.Run(fmt.Sprintf("%dx%d", group, size), func(b *testing.B) {
				l := openLog(b, b.TempDir(), func(o *Options) { o.GrowTo, o.MmapBytes = 64<<20, 1<<30 })
				data := bytes.Repeat([]byte("x"), size)
				b.SetBytes(int64(size * group))
				b.ReportAllocs()
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
			})
		}
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
