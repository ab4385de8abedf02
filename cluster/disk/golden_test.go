package disk

import (
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	"relay/cluster/spool/goldentest"
	"relay/cluster/spool/memory"
	pb "relay/cluster/spool/spoolpb"
)

// TestGoldenLogs replays the logs of version 1 on Pebble; see package goldentest.
func TestGoldenLogs(t *testing.T) {
	logs, err := goldentest.Read("../spool/testdata/v1")
	require.NoError(t, err)
	for _, l := range logs {
		s := openStore(t, vfs.NewMem(), "s", func(o *Options) {
			o.Load = func(r spool.Reader) (Machine, error) { return spool.Load(r) }
			o.Cached = spool.Cached
		})
		var group []*raft.Log
		for i, e := range l.Entries {
			group = append(group, &raft.Log{Index: e.Index, Term: 1, Type: raft.LogCommand, Data: e.Frame})
			if len(group) < 13 && i < len(l.Entries)-1 {
				continue
			}
			for j, a := range s.ApplyBatch(group) {
				res, ok := a.(*pb.Result)
				require.True(t, ok, "%v", a)
				require.Equal(t, l.Answers[i-len(group)+1+j], goldentest.Answer(group[j].Index, res), l.Name)
			}
			group = group[:0]
		}
		_, sum := hashOf(t, s)
		require.Equal(t, l.State, sum, l.Name)
	}
}

// TestImportsOnPebble: the store on disk and the one in memory come to the same state
// by imports, deletions and sweeps, whatever the batches.
func TestImportsOnPebble(t *testing.T) {
	var log []spool.Frame
	at := time.UnixMilli(1_900_000_000_000)
	add := func(kind spool.Kind, h proto.Message, body ...byte) {
		f, err := spool.Encode(kind, h, body)
		require.NoError(t, err)
		at = at.Add(time.Second)
		f.Stamp(at)
		log = append(log, f)
	}
	const user = "alice@here.example"
	add(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	add(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	add(spool.KindRegister, &pb.Register{Nonce: "a", Member: &pb.Member{Id: "n1", MaxCommand: spool.MaxVersion}})
	add(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "here.example"}})
	add(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: user}})
	for n := range byte(40) {
		h := &pb.Import{Mailbox: user}
		for i := range byte(3) {
			id := spool.ID{1, 15: n*2 + i} // one of them comes again
			h.Messages = append(h.Messages, &pb.Old{Key: id[:], Accept: &pb.Accept{
				Message: &pb.Message{Id: id[:], Size: 1}, Inline: true,
				Drops: []*pb.Drop{{Mailbox: user, Recipient: user, Uidl: fmt.Sprint("u", id[15])}},
			}})
		}
		add(spool.KindImport, h, n, n, n)
	}
	add(spool.KindLock, &pb.TakeLock{Mailbox: user, Node: "n1", Epoch: 3, Session: "s"})
	add(spool.KindRemove, &pb.Remove{
		Mailbox: user, Epoch: 3, Token: uint64(len(log)), Uids: []uint64{1, 2, 7}, Unlock: true,
	})
	add(spool.KindDropAccount, &pb.DropAccount{Address: user})
	add(spool.KindSweep, &pb.Sweep{Limit: 20})

	ram := memory.New()
	m, err := spool.Load(ram)
	require.NoError(t, err)
	s := openStore(t, vfs.NewMem(), "s", func(o *Options) {
		o.Load = func(r spool.Reader) (Machine, error) { return spool.Load(r) }
		o.Cached = spool.Cached
	})
	for from := 0; from < len(log); from += 7 {
		var group []*raft.Log
		b := ram.Batch()
		for i := from; i < min(from+7, len(log)); i++ {
			group = append(group, &raft.Log{Index: uint64(i + 1), Term: 1, Type: raft.LogCommand, Data: log[i]})
			_, err := m.Apply(b, uint64(i+1), append(spool.Frame(nil), log[i]...))
			require.NoError(t, err)
		}
		require.NoError(t, m.Flush(b))
		b.Commit()
		s.ApplyBatch(group)
	}
	n, err := spool.View{R: ram}.Counter(spool.CountMailboxMessages)
	require.NoError(t, err)
	require.EqualValues(t, 81-3-20, n)
	_, sum := hashOf(t, s)
	require.Equal(t, ram.Sum(), sum)
}
