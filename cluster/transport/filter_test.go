package transport

import (
	"bytes"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// TestAnOlderSnapshotIsRefused: raft would take the state back to a snapshot that ends before what is applied. One that
// ends there or later reaches raft, and one that ends before the log begins, too: the state of before a recovery, say.
func TestAnOlderSnapshotIsRefused(t *testing.T) {
	a, b := twoPorts(t)
	b.applied = func() uint64 { return 9 }
	b.termAt = func(index uint64) (uint64, bool) { return 1, index >= 7 }
	var reached []uint64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for len(reached) < 3 {
			select {
			case rpc := <-b.Consumer():
				reached = append(reached, rpc.Command.(*raft.InstallSnapshotRequest).LastLogIndex)
				refuse(rpc, nil) // reads what follows the call
			case <-t.Context().Done():
				return
			}
		}
	}()
	install := func(last uint64) error {
		data := bytes.Repeat([]byte("x"), 100<<10)
		return a.InstallSnapshot("b", "b", &raft.InstallSnapshotRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: 3, Addr: []byte("a"), ID: []byte("a")}, SnapshotVersion: 1,
			Term: 1, LastLogIndex: last, LastLogTerm: 1, Size: int64(len(data)),
		}, new(raft.InstallSnapshotResponse), bytes.NewReader(data))
	}
	require.ErrorContains(t, install(8), "ends at entry 8, and entry 9 is applied here")
	require.ErrorContains(t, install(7), "ends at entry 7, and entry 9 is applied here")
	require.NoError(t, install(6))
	require.NoError(t, install(9))
	require.NoError(t, install(10))
	<-done
	require.Equal(t, []uint64{6, 9, 10}, reached)
}
