package disk

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// noon is when mail begins.
var noon = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// mail sends messages through a store with the real state machine, by a clock of
// its own.
type mail struct {
	t     testing.TB
	s     *Store
	now   time.Time // of the entries
	index uint64
	epoch uint64
	n     uint64
	clock atomic.Int64 // now in ms, for other goroutines
}

// newMail opens a store of cluster version 2 with a node that may accept and settle.
func newMail(t testing.TB, fs vfs.FS, change ...func(*Options)) *mail {
	m := &mail{t: t, now: noon}
	change = append([]func(*Options){func(o *Options) {
		o.Load, o.now = nil, func() time.Time { return time.UnixMilli(m.clock.Load()) }
	}}, change...)
	m.s = openStore(t, fs, t.TempDir(), change...)
	m.apply(m.entry(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "here.example"}}))
	m.apply(m.entry(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}}))
	m.apply(m.entry(spool.KindRaise, &pb.Raise{From: 1, To: 2}))
	m.pass(2 * time.Minute) // the windows that the Raise has closed
	register := &pb.Register{Nonce: "x", Member: &pb.Member{Id: "n1", MaxCommand: spool.MaxVersion}}
	m.epoch = m.apply(m.entry(spool.KindRegister, register)).Epoch
	return m
}

func (m *mail) entry(kind spool.Kind, h proto.Message, body ...[]byte) *raft.Log {
	f, err := spool.Encode(kind, h, body...)
	require.NoError(m.t, err)
	f.Stamp(m.now)
	m.clock.Store(m.now.UnixMilli())
	m.index++
	return &raft.Log{Index: m.index, Term: 1, Type: raft.LogCommand, Data: f}
}

// pass lets time pass, in steps that move the state's clock.
func (m *mail) pass(d time.Duration) {
	for ; d > 0; d -= time.Minute {
		m.now = m.now.Add(min(d, time.Minute))
		m.apply(m.entry(spool.KindMark, &pb.Mark{Id: "x"}))
	}
}

// apply applies entries and returns what the last one answered.
func (m *mail) apply(logs ...*raft.Log) (last *pb.Result) {
	for _, a := range m.s.ApplyBatch(logs) {
		var ok bool
		last, ok = a.(*pb.Result)
		require.True(m.t, ok, "%v", a)
		require.Equal(m.t, pb.Code_OK, last.Code, last.Text)
	}
	return last
}

// mix spreads the bits of a number.
func mix(n uint64) uint64 { return n*0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03 }

func (m *mail) accept(body []byte) (id spool.ID, _ *raft.Log) {
	m.n++
	_ = id.SetTime(uint64(m.now.UnixMilli()))
	binary.BigEndian.PutUint64(id[8:], mix(m.n))
	digest := make([]byte, 32)
	binary.BigEndian.PutUint64(digest, mix(mix(m.n)))
	binary.BigEndian.PutUint64(digest[8:], mix(m.n))
	return id, m.entry(spool.KindAccept, &pb.Accept{
		Message: &pb.Message{
			Id: id[:], CreatedMs: m.now.UnixMilli(), Sender: "bounce-1234@news.example.com", Digest: digest, Home: m.epoch,
			MessageId: fmt.Sprintf("%d.%d@mail.example.com", m.n, m.now.UnixNano()),
			Client: &pb.Client{
				Node: "n1", Address: "127.0.0.1:43210", Helo: "mail.example.com",
				Tls: "TLS1.3 TLS_AES_128_GCM_SHA256", Protocol: "ESMTPS", Session: "0123456789abcdef",
			},
		},
		Recipients: []*pb.Recipient{{Address: fmt.Sprintf("user%d@d%d.example.net", m.n, m.n%50)}},
		Inline:     true, Epoch: m.epoch, Twin: digest[:16],
	}, body)
}

func (m *mail) settle(ids []spool.ID) *raft.Log {
	s := &pb.Settle{Epoch: m.epoch, Node: "n1"}
	for i := range ids {
		s.Verdicts = append(s.Verdicts, &pb.Verdict{
			Id: ids[i][:], Attempt: 1, State: pb.State_DELIVERED, Reply: "250 2.0.0 Ok: queued as 4F8A91234567",
			Host: "mx1.example.net [192.0.2.25]:25", Tls: "TLS1.3 TLS_AES_128_GCM_SHA256", AtMs: m.now.UnixMilli(),
		})
	}
	return m.entry(spool.KindSettle, s)
}

// mailGroup is how many messages are accepted, and later settled, at once.
const mailGroup = 20

// send delivers n messages of a size, one each step of the clock; lag groups
// are under way at a time.
func (m *mail) send(n, size, lag int, step time.Duration) {
	body := bodyOf("mail", size)
	var underWay [][]spool.ID
	for i := 0; i < n; i += mailGroup {
		var logs []*raft.Log
		var ids []spool.ID
		for range mailGroup {
			m.now = m.now.Add(step)
			id, l := m.accept(body)
			ids, logs = append(ids, id), append(logs, l)
		}
		m.apply(logs...)
		underWay = append(underWay, ids)
		if len(underWay) > lag {
			m.apply(m.settle(underWay[0]))
			underWay = underWay[1:]
		}
	}
	for _, ids := range underWay {
		m.apply(m.settle(ids))
	}
}

// calm flushes, and waits until Pebble has nothing more to do.
func (m *mail) calm() {
	require.NoError(m.t, m.s.Flush())
	db := m.s.cur.db
	require.Eventually(m.t, func() bool {
		p := db.Metrics()
		return p.Compact.NumInProgress == 0 && p.Flush.NumInProgress == 0 && p.Table.PendingStatsCollectionCount == 0
	}, time.Minute, time.Millisecond)
}

// written is what flushes and compactions have written to tables.
func (m *mail) written() (flushed, compacted uint64) {
	p := m.s.cur.db.Metrics()
	for i := range p.Levels {
		flushed += p.Levels[i].TableBytesFlushed
		compacted += p.Levels[i].TableBytesCompacted
	}
	return flushed, compacted
}

func (m *mail) counter(name string) (n int64) {
	require.NoError(m.t, m.s.View(func(v spool.View) (err error) { n, err = v.Counter(name); return err }))
	return n
}

// tableBytes is the size of all tables.
func (m *mail) tableBytes() (n uint64) {
	for _, one := range m.tables() {
		n += one.Size
	}
	return n
}

// tables returns all tables, with their properties.
func (m *mail) tables() (all []pebble.SSTableInfo) {
	levels, err := m.s.cur.db.SSTables(pebble.WithProperties())
	require.NoError(m.t, err)
	for _, l := range levels {
		all = append(all, l...)
	}
	return all
}

// keeps checks that no table crosses a border of the time.
func (m *mail) keeps(border time.Time) {
	kinds := map[byte]int{}
	for _, table := range m.tables() {
		lo, hi := table.Smallest.UserKey, table.Largest.UserKey
		kinds[lo[0]]++
		if end := spool.Border(lo, border); end != nil {
			c := string(hi)
			require.True(m.t, c < string(end) || c == string(end) && table.Largest.IsExclusiveSentinel(),
				"a table from %q to %q", lo, hi)
		}
	}
	for _, kind := range []byte("ehm") {
		require.Positive(m.t, kinds[kind], "no table of %c", kind)
	}
}

// No table holds two kinds of record, nor young beside old, neither when it
// comes of a flush nor when it comes of a compaction.
func TestTablesKeepToTheirBorders(t *testing.T) {
	border := noon.Add(10*time.Hour + 30*time.Minute)
	m := newMail(t, vfs.NewMem(), quiet, func(o *Options) { o.now = func() time.Time { return border } })
	for range 3 {
		m.send(1000, 200, 3, 12*time.Second)
		m.calm()
		m.keeps(border)
	}
	require.Greater(t, len(m.tables()), 20)
	require.NoError(t, m.s.cur.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false))
	m.keeps(border)
}

// Reclaim compacts tables of bodies alone, not the history beside them.
func TestReclaimCompactsBodiesAlone(t *testing.T) {
	m := newMail(t, vfs.NewMem(), quiet, func(o *Options) { o.ReclaimFrom, o.MemTableSize = 1<<20, 4<<20 })
	m.send(1000, octets, 3, time.Second)
	require.NoError(t, m.s.Flush())
	lo, hi := bodies()
	tables, err := m.s.cur.db.SSTables(pebble.WithKeyRangeFilter(lo, hi))
	require.NoError(t, err)
	var size uint64
	for _, level := range tables {
		for _, table := range level {
			require.EqualValues(t, 'b', table.Smallest.UserKey[0])
			require.EqualValues(t, 'b', table.Largest.UserKey[0])
			size += table.Size
		}
	}
	worth, err := m.s.cur.deletedSpace(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, worth.pieces)
	for _, p := range worth.pieces {
		require.EqualValues(t, 'b', p.lo[0])
		require.EqualValues(t, 'b', p.hi[0])
		require.LessOrEqual(t, p.size, size)
	}
	before := m.tables()
	did, err := m.s.Reclaim(t.Context())
	require.NoError(t, err)
	require.True(t, did)
	stay := map[string]bool{}
	for _, table := range m.tables() {
		stay[table.FileNum.String()] = true
	}
	for _, table := range before {
		if table.Smallest.UserKey[0] != 'b' {
			require.True(t, stay[table.FileNum.String()], "a table of %q was rewritten", table.Smallest.UserKey)
		}
	}
}

// writtenFor is how many octets flushes and compactions write to tables for n messages
// in a store that has a history of before messages.
func writtenFor(t *testing.T, before, n int) (flushed, compacted uint64) {
	m := newMail(t, vfs.NewMem(), func(o *Options) { o.MemTableSize = 1 << 20 })
	const piece = 1000 // what a memtable holds, about
	for range before / piece {
		m.send(piece, 200, 3, time.Millisecond)
		m.calm()
	}
	m.pass(3 * time.Hour)
	f, c := m.written()
	for range n / piece {
		m.send(piece, 200, 3, time.Millisecond)
		m.calm()
	}
	flushed, compacted = m.written()
	return flushed - f, compacted - c
}

// New mail writes hardly more to tables, however much history there is. Pebble picks its
// compactions by the order in which its goroutines end, so that the sum varies by a half;
// without the cuts it is seven times as much beside 40,000 messages.
// RELAY_HISTORY is how many messages of history there are, by default 40,000, or 8,000
// with -short.
func TestHistoryCostsNewMailNothing(t *testing.T) {
	t.Parallel()
	history, n := envInt("RELAY_HISTORY", 40000), 8000
	if testing.Short() {
		history, n = 8000, 3000
	}
	if history >= 400000 {
		n = 20000
	}
	flushed, compacted := writtenFor(t, 0, n)
	flushedMore, compactedMore := writtenFor(t, history, n)
	t.Logf("%d messages: %d octets flushed, %d compacted; with %d messages of history %d and %d",
		n, flushed, compacted, history, flushedMore, compactedMore)
	require.Less(t, float64(flushedMore+compactedMore), 2*float64(flushed+compacted))
}

// A bound that is lowered frees the disk: the history of a window goes by range, and Pebble
// drops the tables that are in it as a whole. So tables are small here, as the history is.
func TestALowerBoundFreesTheDisk(t *testing.T) {
	t.Parallel()
	m := newMail(t, vfs.NewMem(), func(o *Options) {
		o.MemTableSize = 1 << 20
		o.tune = func(p *pebble.Options) {
			for i := range p.TargetFileSizes {
				p.TargetFileSizes[i] = 32 << 10
			}
		}
	})
	n := 20000
	if testing.Short() {
		n = 5000
	}
	m.send(n, 200, 3, 12*time.Millisecond)
	m.pass(3 * time.Hour)
	m.calm()
	was := m.tableBytes()
	bound := uint64(m.counter(spool.CountHistoryBytes) / 10)
	m.apply(m.entry(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{HistoryBytes: bound}}))
	for m.apply(m.entry(spool.KindSweep, &pb.Sweep{Limit: 1000})).Count > 0 {
	}
	require.LessOrEqual(t, uint64(m.counter(spool.CountHistoryBytes)), bound)
	for i := 0; m.tableBytes() >= was/3; i++ {
		require.Less(t, i, 20, "of %d octets of tables there are still %d", was, m.tableBytes())
		m.send(20, 200, 3, time.Millisecond) // compactions come with new mail
		m.calm()
	}
}

// envInt reads a number from the environment.
func envInt(name string, def int) int {
	if v, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return v
	}
	return def
}

// BenchmarkHistory is mail in a store with history: the processor time of a message,
// compactions included, and what they write for it. In the steady state as much
// history is swept as comes. RELAY_HISTORY is how many messages of history there are,
// RELAY_MEMTABLE the size of a memtable in MiB. Use -benchtime 20000x and more: history
// is sent before each run.
func BenchmarkHistory(b *testing.B) {
	history, table := envInt("RELAY_HISTORY", 100000), int64(envInt("RELAY_MEMTABLE", 16))<<20
	for _, cut := range []bool{false, true} {
		for _, size := range []int{200, 4 << 10, 64 << 10} {
			b.Run(fmt.Sprintf("cut=%v/deliver/size=%d", cut, size), func(b *testing.B) {
				benchHistory(b, history, size, table, cut, false)
			})
		}
		b.Run(fmt.Sprintf("cut=%v/steady/size=%d", cut, 4<<10), func(b *testing.B) {
			benchHistory(b, history, 4<<10, table, cut, true)
		})
	}
}

func benchHistory(b *testing.B, history, size int, table int64, cut, steady bool) {
	const piece = 1000
	m := newMail(b, nil, func(o *Options) {
		o.MemTableSize, o.CacheSize, o.Fatal = table, 64<<20, nil
		if !cut {
			o.Border = func([]byte, time.Time) []byte { return nil }
		}
	})
	m.send(history, 200, 10, 2*time.Millisecond)
	if steady {
		m.pass(3*24*time.Hour + 12*time.Minute - time.Duration(history)*2*time.Millisecond)
	}
	m.calm()
	_, was := m.written()
	report := processor(b)
	b.ResetTimer()
	for i := 0; i < b.N; i += piece {
		m.send(min(piece, b.N-i), size, 10, 2*time.Millisecond)
		if steady {
			m.apply(m.entry(spool.KindSweep, &pb.Sweep{Limit: piece, Ages: true}))
		}
	}
	m.calm()
	report()
	if steady {
		window := int(time.Minute / (2 * time.Millisecond))
		require.InDelta(b, history, m.counter(spool.CountHistoryMessages), float64(2*window))
	}
	_, is := m.written()
	b.ReportMetric(float64(is-was)/float64(b.N), "compacted-B/op")
}
