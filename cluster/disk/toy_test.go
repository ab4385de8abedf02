package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"

	"relay/cluster/spool"
	"relay/cluster/spool/memory"
	pb "relay/cluster/spool/spoolpb"
)

// toy is a small state machine. A command is text: "set key value", "del key",
// "body key size", "drop lo hi", "sum lo hi" (reads), joined by ";". It counts commands in
// memory and writes the number at Flush, as the real one does with its
// counters, and it chains a hash over all commands, so that a lost, repeated or
// reordered one shows.
type toy struct {
	count, chain uint64
	changed      []string
}

func loadToy(r spool.Reader) (Machine, error) {
	t := &toy{}
	v, err := r.Get([]byte("c/count"))
	if err == nil && v != nil {
		t.count = binary.BigEndian.Uint64(v)
		t.chain = binary.BigEndian.Uint64(v[8:])
	}
	return t, err
}

var errToy = errors.New("unknown command")

func (t *toy) Apply(b spool.Batch, index uint64, f spool.Frame) (*pb.Result, error) {
	t.count++
	t.chain = t.chain*0x9E3779B97F4A7C15 + index
	for _, c := range f {
		t.chain = t.chain*0x100000001b3 + uint64(c)
	}
	if f.Kind() == spool.KindMark {
		return &pb.Result{Index: index}, nil
	}
	for _, c := range bytes.Split(f, []byte{';'}) {
		if err := t.one(b, bytes.Fields(c)); err != nil {
			return nil, err
		}
	}
	return &pb.Result{Index: index, Count: uint32(t.count)}, nil
}

func (t *toy) one(b spool.Batch, w [][]byte) error {
	switch {
	case len(w) == 3 && string(w[0]) == "set":
		t.changed = append(t.changed, string(w[1]))
		return b.SetParts(w[1], w[2][:1], w[2][1:])
	case len(w) == 2 && string(w[0]) == "del":
		v, err := b.Get(w[1])
		if err != nil {
			return err
		}
		return b.DeleteSized(w[1], len(v))
	case len(w) == 3 && string(w[0]) == "drop":
		return b.DeleteRange(w[1], w[2])
	case len(w) == 3 && string(w[0]) == "body":
		var n int
		fmt.Sscan(string(w[2]), &n)
		return b.Set(w[1], bodyOf(string(w[1]), n))
	case len(w) == 3 && string(w[0]) == "sum":
		n := 0
		err := b.Scan(w[1], w[2], func(k, v []byte) bool { n += len(k) + len(v); return true })
		if err != nil {
			return err
		}
		return b.Set([]byte("s/"+string(w[1])), fmt.Append(nil, n))
	}
	return errToy
}

// bodyOf is a body that compresses badly and is told by its key.
func bodyOf(key string, n int) []byte {
	var seed [32]byte
	copy(seed[:], key)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(b)
	return b
}

func (t *toy) Flush(b spool.Batch) error {
	v := binary.BigEndian.AppendUint64(nil, t.count)
	return b.Set([]byte("c/count"), binary.BigEndian.AppendUint64(v, t.chain))
}

func (t *toy) Changes() spool.Changes {
	c := spool.Changes{Boxes: t.changed}
	t.changed = nil
	return c
}

// small are options for tests: small buffers, and no failure allowed.
func small(t testing.TB, fs vfs.FS) Options {
	return Options{
		Log:          zaptest.NewLogger(t, zaptest.Level(zaptestLevel)),
		Load:         loadToy,
		Fatal:        func(err error) { t.Errorf("fatal: %v", err) },
		FS:           fs,
		MemTableSize: 256 << 10,
		CacheSize:    1 << 20,
		CloseWait:    2 * time.Second,
	}
}

const zaptestLevel = zapcore.ErrorLevel // lower it to see more

func openStore(t testing.TB, fs vfs.FS, dir string, change ...func(*Options)) *Store {
	o := small(t, fs)
	for _, c := range change {
		c(&o)
	}
	s, err := Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func entryOf(index uint64, command string) *raft.Log {
	return &raft.Log{Index: index, Term: 1 + index/1000, Type: raft.LogCommand, Data: []byte(command)}
}

func members(names ...string) raft.Configuration {
	var c raft.Configuration
	for _, n := range names {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(n), Address: raft.ServerAddress(n + ":1")})
	}
	return c
}

func configOf(index uint64, names ...string) *raft.Log {
	return &raft.Log{Index: index, Term: 1 + index/1000, Type: raft.LogConfiguration,
		Data: raft.EncodeConfiguration(members(names...))}
}

func markOf(t testing.TB, index uint64, id string) *raft.Log {
	f, err := spool.Encode(spool.KindMark, &pb.Mark{Id: id})
	require.NoError(t, err)
	return &raft.Log{Index: index, Term: 1 + index/1000, Type: raft.LogCommand, Data: f}
}

// apply applies commands at the next indexes.
func apply(t testing.TB, s *Store, commands ...string) {
	var logs []*raft.Log
	for i, c := range commands {
		logs = append(logs, entryOf(s.Applied()+1+uint64(i), c))
	}
	for i, a := range s.ApplyBatch(logs) {
		r, ok := a.(*pb.Result)
		require.True(t, ok, "%v", a)
		require.Equal(t, logs[i].Index, r.Index)
	}
}

func value(t testing.TB, s *Store, key string) string {
	var got string
	require.NoError(t, s.View(func(v spool.View) error {
		b, err := v.R.Get([]byte(key))
		got = string(b)
		if b == nil {
			got = "(none)"
		}
		return err
	}))
	return got
}

// workload is a log that writes, overwrites, deletes, scans and stores bodies.
func workload(seed uint64, n int) []*raft.Log {
	r := rand.New(rand.NewPCG(seed, 1))
	logs := []*raft.Log{configOf(1, "a", "b", "c")}
	for i := uint64(2); len(logs) < n; i++ {
		k := r.IntN(40)
		var c string
		switch r.IntN(11) {
		case 0, 1, 2, 3:
			c = fmt.Sprintf("set k/%d v%d", k, i)
		case 4:
			c = fmt.Sprintf("del k/%d;set k/%d x%d", k, (k+1)%40, i)
		case 5, 6:
			c = fmt.Sprintf("body b/%d %d", k, 3000+r.IntN(9000))
		case 7:
			c = fmt.Sprintf("del b/%d", k)
		case 8:
			c = fmt.Sprintf("set k/%d y%d;sum k/ k0", k, i)
		case 9:
			if r.IntN(4) == 0 {
				logs = append(logs, configOf(i, "a", "b", fmt.Sprint("n", i)))
				continue
			}
			c = fmt.Sprintf("sum b/ b0;set k/%d z%d", k, i)
		}
		if c == "" {
			c = fmt.Sprintf("drop k/%d k/%d;set k/%d w%d;drop b/%d b/%d", k, k+r.IntN(3), k, i, k/10, k/10+1)
		}
		if r.IntN(15) == 0 {
			i++ // a no-op, which the store is not shown
		}
		logs = append(logs, entryOf(i, c))
	}
	return logs
}

// model replays a log without a disk and returns the hash behind each index.
func model(t testing.TB, logs []*raft.Log) map[uint64][]byte {
	m := memory.New()
	machine, err := loadToy(m)
	require.NoError(t, err)
	sums := map[uint64][]byte{0: m.Sum()}
	for _, l := range logs {
		require.NoError(t, m.Update(func(b spool.Batch) error {
			if l.Type == raft.LogCommand {
				if _, err := machine.Apply(b, l.Index, l.Data); err != nil {
					return err
				}
			}
			return machine.Flush(b)
		}))
		sums[l.Index] = m.Sum()
	}
	return sums
}

// ranges cuts a log into batches of random size.
func ranges(r *rand.Rand, logs []*raft.Log, most int) [][]*raft.Log {
	var all [][]*raft.Log
	for len(logs) > 0 {
		n := min(1+r.IntN(most), len(logs))
		all = append(all, logs[:n])
		logs = logs[n:]
	}
	return all
}

// after returns the entries behind an index.
func after(logs []*raft.Log, index uint64) []*raft.Log {
	for i, l := range logs {
		if l.Index > index {
			return logs[i:]
		}
	}
	return nil
}
