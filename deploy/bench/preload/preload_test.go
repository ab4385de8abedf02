package preload

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster/datadir"
	"relay/cluster/disk"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

func open(t *testing.T, dir string) *datadir.Data {
	d, err := datadir.OpenData(dir, tuning.Tuning{}.WithDefaults(), zap.NewNop(), disk.Options{
		OnChanges: func(spool.Changes) {},
	}, nil, func(err error) { t.Error(err) })
	require.NoError(t, err)
	return d
}

// killed makes the data of a node that was killed: its log has applied more than its store.
func killed(t *testing.T, node string, entries int) string {
	dir := filepath.Join(t.TempDir(), node)
	require.NoError(t, datadir.Init(t.Context(), datadir.InitOptions{
		ID: node, Dir: dir, Advertise: "127.0.0.1:7170", Log: zap.NewNop(),
	}))
	d := open(t, dir)
	command := func(kind spool.Kind, h proto.Message) []byte {
		f, err := spool.Encode(kind, h)
		require.NoError(t, err)
		f.Stamp(time.Now())
		return f
	}
	config := raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "n1@"}, {ID: "n2", Address: "n2@"}}}
	logs := []*raft.Log{
		{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(config)},
		{Index: 2, Term: 1, Type: raft.LogCommand,
			Data: command(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})},
		{Index: 3, Term: 1, Type: raft.LogCommand, Data: command(spool.KindRegister,
			&pb.Register{Nonce: "x", Member: &pb.Member{Id: "n1", MaxCommand: spool.MaxVersion}})},
		{Index: 4, Term: 1, Type: raft.LogCommand, Data: command(spool.KindRaise, &pb.Raise{From: 1, To: 2})},
		{Index: 5, Term: 1, Type: raft.LogCommand, // is refused
			Data: command(spool.KindRenew, &pb.Renew{Node: "n9", Epoch: 1})},
		{Index: 6, Term: 1, Type: raft.LogNoop},
	}
	require.NoError(t, d.Log.StoreLogs(logs[:entries]))
	require.NoError(t, d.Close())
	return dir
}

func TestFill(t *testing.T) {
	for name, s := range map[string]Stock{
		"history": {Messages: 200, Size: 200, Span: time.Minute},
		"waiting": {Messages: 200, Size: 200, Span: time.Hour, Waiting: true, Domains: 7},
	} {
		t.Run(name, func(t *testing.T) {
			dirs := []string{killed(t, "n1", 6), killed(t, "n2", 3)}
			require.NoError(t, Fill(t.Context(), dirs, s))
			var indexes []uint64
			for _, dir := range dirs {
				d := open(t, dir)
				last, err := d.Log.LastIndex()
				require.NoError(t, err)
				require.Zero(t, last, "the log is empty")
				durable, err := d.Store.Durable()
				require.NoError(t, err)
				indexes = append(indexes, durable)
				require.NoError(t, d.Store.View(func(v spool.View) error {
					for counter, want := range map[string]int64{spool.CountAccepted: 200, spool.CountQueueMessages: 0} {
						if s.Waiting && counter == spool.CountQueueMessages {
							want = 200
						}
						n, err := v.Counter(counter)
						require.NoError(t, err)
						require.Equal(t, want, n, counter)
					}
					return v.Queue(spool.ID{}, func(_ spool.ID, _ uint32, r *pb.Recipient) bool {
						require.Equal(t, pb.State_DEFERRED, r.State)
						require.Greater(t, r.NextMs, time.Now().UnixMilli())
						require.Positive(t, r.Size)
						return true
					})
				}))
				require.NoError(t, d.Close())
			}
			require.Equal(t, indexes[0], indexes[1])
		})
	}
}

func TestFillWantsASession(t *testing.T) {
	require.ErrorContains(t, Fill(t.Context(), []string{killed(t, "n1", 2)}, Stock{Messages: 1}), "not killed")
}
