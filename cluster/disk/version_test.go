package disk

import (
	"bytes"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// newer loads a machine as a build would that does not know the state's version.
func newer(spool.Reader) (Machine, error) { return nil, spool.ErrVersion }

func TestAStoreOfANewerVersionIsNotOpened(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs, "s")
	apply(t, s, "set a 1")
	require.NoError(t, s.Close())
	o := small(t, fs)
	o.Load = newer
	_, err := Open("s", o)
	require.ErrorIs(t, err, spool.ErrVersion)
}

// TestASnapshotOfANewerVersionIsFatal: as an error of the snapshot alone, the
// leader would send it for ever.
func TestASnapshotOfANewerVersionIsFatal(t *testing.T) {
	from, _ := source(t, 50)
	m, b := stream(t, from)
	first := true
	var fatal error
	s := openStore(t, vfs.NewMem(), "s", func(o *Options) {
		o.Fatal = func(err error) { fatal = err }
		o.Load = func(r spool.Reader) (Machine, error) {
			if first {
				first = false
				return loadToy(r)
			}
			return newer(r)
		}
	})
	require.ErrorIs(t, receive(s, m, bytes.NewReader(b)), spool.ErrVersion)
	require.ErrorIs(t, fatal, spool.ErrVersion)
}

// TestTheChainOfSumsTravelsWithTheData: over a restart, and in a snapshot.
func TestTheChainOfSumsTravelsWithTheData(t *testing.T) {
	fs := vfs.NewMem()
	real := func(o *Options) {
		o.Load = func(r spool.Reader) (Machine, error) { return spool.Load(r) }
		o.Cached = spool.Cached
	}
	sum := func(s *Store) uint64 {
		v, on := s.machine.(summer).Sum()
		require.True(t, on)
		return v
	}
	s := openStore(t, fs, "s", real)
	put := func(s *Store, kind spool.Kind, h proto.Message) {
		f, err := spool.Encode(kind, h)
		require.NoError(t, err)
		_, ok := s.Apply(&raft.Log{Index: s.Applied() + 1, Term: 1, Type: raft.LogCommand, Data: f}).(*pb.Result)
		require.True(t, ok)
	}
	put(s, spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	_, on := s.machine.(summer).Sum()
	require.False(t, on, "version 1 has no chain")
	put(s, spool.KindRaise, &pb.Raise{From: 1, To: 2})
	for range 200 {
		put(s, spool.KindRenew, &pb.Renew{Node: "n1"})
	}
	want := sum(s)
	index, at := s.Anchor()
	require.EqualValues(t, 192, index)
	known, ok := s.SumAt(192)
	require.True(t, ok)
	require.Equal(t, at, known)
	_, ok = s.SumAt(190)
	require.False(t, ok)
	m, b := stream(t, s)
	other := openStore(t, vfs.NewMem(), "s", real)
	require.NoError(t, receive(other, m, bytes.NewReader(b)))
	require.Equal(t, want, sum(other))
	require.NoError(t, s.Close())
	s = openStore(t, fs, "s", real)
	require.Equal(t, want, sum(s))
	put(s, spool.KindRenew, &pb.Renew{Node: "n1"})
	put(other, spool.KindRenew, &pb.Renew{Node: "n1"})
	require.Equal(t, sum(s), sum(other))
}
