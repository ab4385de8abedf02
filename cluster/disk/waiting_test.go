package disk

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// wait accepts n messages of a size that stay in the queue: each is tried once, and
// deferred.
func (m *mail) wait(n, size int, step time.Duration) {
	body := bodyOf("mail", size)
	for i := 0; i < n; i += mailGroup {
		s := &pb.Settle{Epoch: m.epoch, Node: "n1"}
		var logs []*raft.Log
		for range mailGroup {
			m.now = m.now.Add(step)
			id, l := m.accept(body)
			logs = append(logs, l)
			s.Verdicts = append(s.Verdicts, &pb.Verdict{
				Id: id[:], Attempt: 1, State: pb.State_DEFERRED, Reply: "451 4.7.1 try again later",
				Host: "mx1.example.net [192.0.2.25]:25", AtMs: m.now.UnixMilli(), NextMs: m.now.Add(time.Hour).UnixMilli(),
			})
		}
		m.apply(logs...)
		m.apply(m.entry(spool.KindSettle, s))
	}
}

// Small bodies that wait are in files of their own, and compactions leave them there. No
// other record is, however large.
func TestBodiesAloneHaveFilesOfTheirOwn(t *testing.T) {
	t.Parallel()
	const n, size = 2000, separate + 40
	m := newMail(t, vfs.NewMem(), func(o *Options) { o.MemTableSize = 256 << 10 })
	large := bytes.Repeat([]byte("certificate "), 4<<10)
	m.apply(m.entry(spool.KindPutCert, &pb.PutCert{Name: "acme/x", Data: large}))
	m.wait(n, size, time.Millisecond)
	m.calm()
	require.NoError(t, m.s.cur.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false))
	m.calm()
	blobs := m.s.cur.db.Metrics().BlobFiles
	require.EqualValues(t, n*size, blobs.ReferencedValueSize)
	require.EqualValues(t, n*size, blobs.ValueSize)
	require.Less(t, m.blobs(), uint64(n*size*5/4), "they were written once, with their frames")
	require.NoError(t, m.s.View(func(v spool.View) error {
		c, ok, err := v.Cert("acme/x")
		require.True(t, ok)
		require.Equal(t, large, c.GetData())
		return err
	}))
}

// separateFrom has bodies from a size on in blob files.
func separateFrom(size int) func(*Options) {
	return func(o *Options) {
		o.tune = func(p *pebble.Options) {
			policy := p.Experimental.ValueSeparationPolicy
			p.Experimental.ValueSeparationPolicy = func() pebble.ValueSeparationPolicy {
				v := policy()
				v.MinimumSize = size
				return v
			}
		}
	}
}

// BenchmarkWaiting is mail that comes and stays, in a store with RELAY_WAITING messages
// that wait, and mail that is delivered beside them: the processor time of a message,
// compactions included, and what is written for it, by the size from which bodies have
// files of their own. Use -benchtime 12000x and more.
func BenchmarkWaiting(b *testing.B) {
	waiting := envInt("RELAY_WAITING", 100000)
	for _, size := range []int{700, 1 << 10, 3 << 10, 5 << 10} {
		for _, from := range []int{separate, 4 << 10} {
			for _, before := range []int{0, waiting} {
				name := fmt.Sprintf("size=%d/from=%d/waiting=%d", size, from, before)
				b.Run("stay/"+name, func(b *testing.B) {
					benchWaiting(b, before, size, from, func(m *mail, n int) { m.wait(n, size, 2*time.Millisecond) })
				})
				b.Run("deliver/"+name, func(b *testing.B) {
					benchWaiting(b, before, size, from, func(m *mail, n int) { m.send(n, size, 10, 2*time.Millisecond) })
				})
			}
		}
	}
}

func benchWaiting(b *testing.B, before, size, from int, come func(m *mail, n int)) {
	m := newMail(b, nil, separateFrom(from), func(o *Options) {
		o.MemTableSize, o.CacheSize, o.Fatal = int64(envInt("RELAY_MEMTABLE", 16))<<20, 64<<20, nil
	})
	m.wait(before, size, 2*time.Millisecond)
	m.calm()
	_, was := m.written()
	blobs := m.blobs()
	report := processor(b)
	b.ResetTimer()
	come(m, b.N)
	m.calm()
	report()
	_, is := m.written()
	b.ReportMetric(float64(is-was)/float64(b.N), "compacted-B/op")
	b.ReportMetric(float64(m.blobs()-blobs)/float64(b.N), "blob-B/op")
}

// blobs is what flushes and compactions have written to blob files.
func (m *mail) blobs() (n uint64) {
	p := m.s.cur.db.Metrics()
	for i := range p.Levels {
		n += p.Levels[i].BlobBytesCompacted // Pebble counts what it flushes here, too
	}
	return n
}
