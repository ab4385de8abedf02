package disk

import (
	"encoding/binary"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// BenchmarkSums is a message of 4 KiB into a mailbox on the real machine, in
// groups, without and with the chain of sums: compare cpu-ns/op.
func BenchmarkSums(b *testing.B) {
	for name, version := range map[string]uint32{"off": 1, "on": 2} {
		b.Run(name, func(b *testing.B) { benchSums(b, version) })
	}
}

func benchSums(b *testing.B, version uint32) {
	s := openStore(b, nil, b.TempDir(), func(o *Options) { o.MemTableSize, o.CacheSize, o.Load = 64<<20, 64<<20, nil })
	index, body := uint64(0), make([]byte, 4096)
	entry := func(kind spool.Kind, h proto.Message, body ...[]byte) *raft.Log {
		f, err := spool.Encode(kind, h, body...)
		require.NoError(b, err)
		index++
		return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: f}
	}
	s.ApplyBatch([]*raft.Log{
		entry(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}}),
		entry(spool.KindRaise, &pb.Raise{From: 1, To: version}),
		entry(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "here.example"}}),
		entry(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: "a@here.example"}}),
	})
	if version == 1 {
		// A Raise begins the chain, whatever it leads to.
		s.machine = must(spool.Load(s.cur.reader()))
	}
	group := make([]*raft.Log, 64)
	defer processor(b)()
	for i := 0; b.Loop(); i++ {
		id := make([]byte, 16)
		binary.BigEndian.PutUint64(id, index)
		group[i%64] = entry(spool.KindAccept, &pb.Accept{
			Message: &pb.Message{Id: id, Sender: "bob@example.test", Size: 4096, Chunks: 1}, Inline: true,
			Drops: []*pb.Drop{{Mailbox: "a@here.example", Recipient: "a@here.example"}},
		}, body)
		if i%64 == 63 {
			s.ApplyBatch(group)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
