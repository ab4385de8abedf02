package transport

import (
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/internal/wire"
	"relay/cluster/members"
	"relay/cluster/pki"
)

// twoPorts makes the raft networks of two members.
func twoPorts(t testing.TB) (a, b Transport) {
	ca, err := pki.NewAuthority("test", time.Now())
	require.NoError(t, err)
	hints := map[string]string{}
	make := func(node string) (*wire.Port, *members.AddressBook) {
		key, csr, err := pki.NewRequest(node)
		require.NoError(t, err)
		request, err := pki.ParseRequest(csr)
		require.NoError(t, err)
		cert, err := ca.Sign(request, pki.Subject{Cluster: "c1", Node: node, Now: time.Now(), Life: time.Hour})
		require.NoError(t, err)
		me, err := pki.Credential{CA: string(ca.CertPEM()), Cert: string(cert), Key: string(key)}.Wire("c1", node)
		require.NoError(t, err)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		p := wire.New(wire.Options{Listener: l, Identity: me, Log: zap.NewNop()})
		p.Start()
		t.Cleanup(func() { _ = p.Close() })
		return p, members.NewAddressBook(node, members.NewPlaces("", nil, hints))
	}
	pa, ba := make("a")
	pb, bb := make("b")
	hints["a"], hints["b"] = pa.Addr().String(), pb.Addr().String()
	a, b = New(pa, ba, zap.NewNop(), nil), New(pb, bb, zap.NewNop(), nil)
	a.Vetted.Store(true)
	b.Vetted.Store(true)
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}

// Without the guard, a heartbeat is answered beside raft's main loop
// (hashicorp/raft#695).
func TestHeartbeatsGoThroughTheMainLoop(t *testing.T) {
	a, b := twoPorts(t)
	shortcut := false
	var network raft.Transport = b
	network.SetHeartbeatHandler(func(rpc raft.RPC) {
		shortcut = true
		rpc.Respond(&raft.AppendEntriesResponse{}, nil)
	})
	go func() {
		for {
			select {
			case rpc := <-b.Consumer():
				rpc.Respond(&raft.AppendEntriesResponse{Term: 7}, nil)
			case <-t.Context().Done():
				return
			}
		}
	}()
	req := &raft.AppendEntriesRequest{ // what raft takes for a heartbeat
		RPCHeader: raft.RPCHeader{ProtocolVersion: 3, Addr: []byte("a"), ID: []byte("a")}, Term: 1,
	}
	var resp raft.AppendEntriesResponse
	err := a.AppendEntries("b", "b", req, &resp)
	require.NoError(t, err)
	require.Equal(t, uint64(7), resp.Term)
	require.False(t, shortcut, "the heartbeat took the shortcut")
}

// With pipelining, a follower can be wedged for ever (hashicorp/raft#612).
func TestNoPipelining(t *testing.T) {
	a, _ := twoPorts(t)
	_, err := a.AppendEntriesPipeline("b", "b")
	require.ErrorIs(t, err, raft.ErrPipelineReplicationNotSupported)
}

func TestAddressMustNameItsNode(t *testing.T) {
	_, err := new(stream).Dial("127.0.0.1:1", time.Second)
	require.ErrorContains(t, err, "names no node")
}
