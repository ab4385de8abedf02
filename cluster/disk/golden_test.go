package disk

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	"relay/cluster/spool/goldentest"
	pb "relay/cluster/spool/spoolpb"
)

// TestGoldenLogs replays the logs of version 1 on Pebble; see package goldentest.
func TestGoldenLogs(t *testing.T) {
	logs, err := goldentest.Read("../spool/testdata/v1")
	require.NoError(t, err)
	for _, l := range logs {
		s := openStore(t, vfs.NewMem(), "s", func(o *Options) {
			o.Load = func(r spool.Reader) (Machine, error) { return spool.Load(r) }
			o.Hot = spool.Hot
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
