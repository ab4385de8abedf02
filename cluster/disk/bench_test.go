package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// indexed is the alternative to batch: Pebble's own indexed batch. It is here
// to be measured against.
type indexed struct {
	w    *pebble.Batch
	held io.Closer
}

func (b *indexed) Get(key []byte) ([]byte, error) {
	if b.held != nil {
		b.held.Close()
		b.held = nil
	}
	v, c, err := b.w.Get(key)
	if err == pebble.ErrNotFound {
		return nil, nil
	}
	b.held = c
	return v, err
}

func (b *indexed) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	it, err := b.w.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		if !fn(it.Key(), it.Value()) {
			break
		}
	}
	return it.Close()
}

func (b *indexed) Set(key, value []byte) error { return b.w.Set(key, value, nil) }
func (b *indexed) SetParts(key []byte, parts ...[]byte) error {
	return b.w.Set(key, bytes.Join(parts, nil), nil)
}
func (b *indexed) Delete(key []byte) error             { return b.w.Delete(key, nil) }
func (b *indexed) DeleteRange(lo, hi []byte) error     { return b.w.DeleteRange(lo, hi, nil) }
func (b *indexed) DeleteSized(key []byte, n int) error { return b.w.DeleteSized(key, uint32(n), nil) }

// accept does to a batch what accepting a message of 4 KiB with one local and
// one remote recipient does: eight lookups, half of them in vain, and eight
// writes. It allocates nothing of its own.
type accept struct {
	key   [8][32]byte
	small [120]byte
	body  []byte
	n     uint64
}

func (a *accept) one(b spool.Batch) error {
	a.n++
	for i := range a.key {
		k := a.key[i][:17]
		k[0] = "bmrxfuol"[i]
		binary.BigEndian.PutUint64(k[1:], a.n) // ids rise with time
		if i >= 5 {                            // mailboxes, owners and the like: written again and again
			binary.BigEndian.PutUint64(k[1:], a.n%64)
		}
		if _, err := b.Get(k); err != nil {
			return err
		}
	}
	for i := range a.key {
		v := a.small[:]
		if i == 0 {
			v = a.body
		}
		if err := b.SetParts(a.key[i][:17], v[:10], v[10:]); err != nil {
			return err
		}
	}
	return nil
}

const benchGroup = 64 // commands in a batch

// processor reports the processor time of each operation, background work
// included: on a shared machine the clock on the wall says little.
func processor(b *testing.B) func() {
	used := func() int64 {
		var u syscall.Rusage
		require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}

func BenchmarkBatch(b *testing.B) {
	open := func(b *testing.B) *Store {
		return openStore(b, nil, b.TempDir(), func(o *Options) { o.MemTableSize, o.CacheSize = 64<<20, 64<<20 })
	}
	a := &accept{body: make([]byte, 4096)}
	b.Run("overlay", func(b *testing.B) {
		s := open(b)
		b.ReportAllocs()
		defer processor(b)()
		for i := 0; b.Loop(); i++ {
			require.NoError(b, a.one(s.batch))
			if i%benchGroup == 0 {
				require.NoError(b, s.batch.commit(meta{index: uint64(i)}.encode(nil), nil))
			}
		}
		s.batch.reset()
	})
	b.Run("indexed", func(b *testing.B) {
		s := open(b)
		w := &indexed{w: s.cur.db.NewIndexedBatch()}
		b.ReportAllocs()
		defer processor(b)()
		for i := 0; b.Loop(); i++ {
			require.NoError(b, a.one(w))
			if i%benchGroup == 0 {
				_, _ = w.Get(nil)
				require.NoError(b, w.w.Commit(pebble.NoSync))
				w.w.Reset()
			}
		}
		_, _ = w.Get(nil)
		require.NoError(b, w.w.Close())
	})
}

// still is a machine that does what accept does.
type still struct{ accept }

func (m *still) Apply(b spool.Batch, index uint64, f spool.Frame) (*pb.Result, error) {
	m.body = f
	return &pb.Result{Index: index}, m.one(b)
}
func (m *still) Flush(spool.Batch) error { return nil }
func (m *still) Changes() spool.Changes  { return spool.Changes{} }

// BenchmarkApply is the whole way of a command from raft into the store.
func BenchmarkApply(b *testing.B) {
	for _, size := range []int{200, 4 << 10, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := openStore(b, nil, b.TempDir(), func(o *Options) {
				o.MemTableSize, o.CacheSize = 64<<20, 64<<20
				o.Load = func(spool.Reader) (Machine, error) { return &still{}, nil }
			})
			data := bodyOf("x", size)
			logs := make([]*raft.Log, 0, benchGroup)
			b.ReportAllocs()
			defer processor(b)()
			for i := uint64(1); b.Loop(); i++ {
				logs = append(logs, &raft.Log{Index: i, Term: 1, Type: raft.LogCommand, Data: data})
				if len(logs) == cap(logs) {
					s.ApplyBatch(logs)
					logs = logs[:0]
				}
			}
		})
	}
}

func BenchmarkScan(b *testing.B) {
	s := openStore(b, nil, b.TempDir(), func(o *Options) { o.MemTableSize, o.CacheSize = 64<<20, 64<<20 })
	a := &accept{body: make([]byte, 100)}
	for range 1000 {
		require.NoError(b, a.one(s.batch))
	}
	require.NoError(b, s.batch.commit(meta{index: 1}.encode(nil), nil))
	for range 100 {
		require.NoError(b, a.one(s.batch))
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		require.NoError(b, s.batch.Scan([]byte("x"), []byte("y"), func(_, _ []byte) bool { n++; return n < 10 }))
	}
	s.batch.reset()
}

func BenchmarkView(b *testing.B) {
	s := openStore(b, nil, b.TempDir(), func(o *Options) { o.MemTableSize, o.CacheSize = 64<<20, 64<<20 })
	apply(b, s, "set a 1")
	b.ReportAllocs()
	for b.Loop() {
		_ = s.View(func(v spool.View) error {
			_, err := v.R.Get([]byte("a"))
			return err
		})
	}
}

func BenchmarkBody(b *testing.B) {
	for _, size := range []int{4 << 10, 256 << 10} {
		for _, flushed := range []bool{false, true} {
			b.Run(fmt.Sprint(size, flushed), func(b *testing.B) {
				s := openStore(b, nil, b.TempDir(), func(o *Options) { o.MemTableSize, o.CacheSize = 64<<20, 64<<20 })
				id := ulid.Make()
				putBody(b, s, id, bodyOf("x", size))
				if flushed {
					require.NoError(b, s.Flush())
				}
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					r, err := s.OpenBody(id, 1, []byte("Received: x\r\n"))
					if err == nil {
						_, err = io.Copy(io.Discard, r)
					}
					if err != nil {
						b.Fatal(err)
					}
					r.Close()
				}
			})
		}
	}
}

// BenchmarkLocks is a POP3 session on the real machine: a lock that is taken and
// given back. -benchtime 100x and 20000x tell whether it gets slower with each.
func BenchmarkLocks(b *testing.B) {
	s := openStore(b, nil, b.TempDir(), func(o *Options) { o.MemTableSize, o.CacheSize, o.Load = 64<<20, 64<<20, nil })
	index := uint64(0)
	do := func(kind spool.Kind, h proto.Message) *pb.Result {
		f, err := spool.Encode(kind, h)
		require.NoError(b, err)
		index++
		res, ok := s.Apply(&raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: f}).(*pb.Result)
		require.True(b, ok)
		require.Equal(b, pb.Code_OK, res.Code, res.Text)
		return res
	}
	do(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "here.example"}})
	do(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: "a@here.example"}})
	epoch := do(spool.KindRegister, &pb.Register{Nonce: "x", Member: &pb.Member{Id: "n"}}).Epoch
	b.ReportAllocs()
	defer processor(b)()
	for b.Loop() {
		res := do(spool.KindLock, &pb.TakeLock{Mailbox: "a@here.example", Node: "n", Epoch: epoch, Session: "s"})
		do(spool.KindRemove, &pb.Remove{Mailbox: "a@here.example", Epoch: epoch, Token: res.Token, Unlock: true})
	}
}
