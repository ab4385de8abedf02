package operator

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"relay/cluster/disk"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/ids"
	"relay/node/replica/replicatest"
)

// onDisk is a fakeReplica whose reads come from a store on disk.
type onDisk struct {
	*replicatest.Fake
	store *disk.Store
}

func (r onDisk) View(fn func(spool.View) error) error                   { return r.store.View(fn) }
func (r onDisk) Frozen(fn func(v spool.View, index uint64) error) error { return r.store.Frozen(fn) }

// fill applies Accepts of one recipient each, spread over a day and over
// destinations, the first of which take most.
func (r onDisk) fill(b *testing.B, messages int) {
	index := uint64(1)
	frame := func(kind spool.Kind, h proto.Message, body ...[]byte) *raft.Log {
		f, err := spool.Encode(kind, h, body...)
		require.NoError(b, err)
		f.Stamp(r.Clock)
		index++
		return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: f}
	}
	apply := func(logs ...*raft.Log) {
		for _, a := range r.store.ApplyBatch(logs) {
			if err, ok := a.(error); ok {
				require.NoError(b, err)
			}
		}
	}
	apply(frame(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}}))
	apply(frame(spool.KindRaise, &pb.Raise{From: 1, To: 2}))
	apply(frame(spool.KindRegister, &pb.Register{Nonce: "x", Member: &pb.Member{Id: "n1", MaxCommand: spool.MaxVersion}}))
	epoch := index
	var logs []*raft.Log
	for i := range messages {
		r.Clock = replicatest.Start.Add(time.Duration(i) * (24 * time.Hour / time.Duration(messages)))
		id := ids.At(r.Clock)
		binary.BigEndian.PutUint64(id[8:], uint64(i))
		logs = append(logs, frame(spool.KindAccept, &pb.Accept{
			Inline: true, Epoch: epoch,
			Message: &pb.Message{
				Id: id[:], CreatedMs: r.Clock.UnixMilli(), Sender: fmt.Sprintf("sender%d@example.test", i%1000),
			},
			Recipients: []*pb.Recipient{{
				Address: fmt.Sprintf("user%d@d%d.test", i, min(i%100, i%7*50)), State: pb.State(i % 2),
				Attempts: uint32(i % 5), LastReply: "451 4.7.1 Greylisted, try again later", LastHost: "mx.far.test [192.0.2.1]:25",
			}},
		}, []byte("Subject: x\r\n\r\nx\r\n")))
		if len(logs) == 128 {
			apply(logs...)
			logs = logs[:0]
		}
	}
	if len(logs) > 0 {
		apply(logs...)
	}
}

// BenchmarkQueueOfAMillion shows that listings do not read the whole queue.
// The goal is 200 ms for a page and for the statistics.
func BenchmarkQueueOfAMillion(b *testing.B) {
	messages := 1000000
	if testing.Short() {
		messages = 20000
	}
	w := newWorld(b)
	store, err := disk.Open(b.TempDir(), disk.Options{})
	require.NoError(b, err)
	defer store.Close()
	r := onDisk{w.rep, store}
	r.fill(b, messages)
	w.Replica = r
	ctx := context.Background()
	page := func(b *testing.B, p admin.QueuePage) {
		p.Limit = 50
		for b.Loop() {
			found, _, err := w.Queue(ctx, p)
			require.NoError(b, err)
			require.NotEmpty(b, found)
		}
	}
	middle := ids.At(replicatest.Start.Add(12 * time.Hour)).String()
	for name, p := range map[string]admin.QueuePage{
		"oldest": {}, "newest": {Sort: "-created"}, "middle": {After: middle},
		"newest from the middle": {Sort: "-created", After: middle},
		"by domain":              {Filter: admin.QueueFilter{Domain: "d77.test"}},
		"by sender":              {Filter: admin.QueueFilter{Sender: "sender7@example.test"}},
		"by reply and age":       {Filter: admin.QueueFilter{Error: "greylisted", OlderThanSeconds: 3600}},
		"whole pass by attempts": {Sort: "-attempts"},
		"whole pass by size":     {Sort: "-size"},
		"whole pass by sender":   {Sort: "sender"},
	} {
		b.Run(name, func(b *testing.B) { page(b, p) })
	}
	b.Run("nothing matches a page", func(b *testing.B) {
		for b.Loop() {
			_, _, err := w.Queue(ctx, admin.QueuePage{Limit: 50, Filter: admin.QueueFilter{Recipient: "nobody@d0.test"}})
			require.NoError(b, err)
		}
	})
	b.Run("stats", func(b *testing.B) {
		for b.Loop() {
			_, err := w.Stats(ctx)
			require.NoError(b, err)
		}
	})
	b.Run("find", func(b *testing.B) {
		for b.Loop() {
			_, err := w.Find(ctx, admin.TraceQuery{From: "sender9@example.test", Limit: 10})
			require.NoError(b, err)
		}
	})
	benchmarkIDsAndCounts(b, w, messages)
	b.Run("dry run", func(b *testing.B) {
		for b.Loop() {
			_, err := w.Manage(ctx, admin.By{}, admin.QueueAction{Action: admin.ActionHold, All: true, DryRun: true})
			require.NoError(b, err)
		}
	})
	b.Run("status", func(b *testing.B) {
		for b.Loop() {
			_, err := w.Status(ctx)
			require.NoError(b, err)
		}
	})
}

func benchmarkIDsAndCounts(b *testing.B, w *world, messages int) {
	ctx := context.Background()
	b.Run("by the end of an id", func(b *testing.B) {
		id := ids.At(replicatest.Start.Add(12 * time.Hour))
		binary.BigEndian.PutUint64(id[8:], uint64(messages/2))
		for b.Loop() {
			got, err := w.message(ctx, id.String()[18:])
			require.NoError(b, err)
			require.Equal(b, id, got)
		}
	})
	b.Run("counts", func(b *testing.B) {
		for b.Loop() {
			_, err := w.CountQueue(ctx, admin.QueueFilter{Domain: "d0.test", Sender: "*9@example.test"})
			require.NoError(b, err)
			_, err = w.CountFound(ctx, admin.TraceQuery{To: "user9*"})
			require.NoError(b, err)
		}
	})
}
