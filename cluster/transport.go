package cluster

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"relay/cluster/internal/wire"
)

// transport is raft's network with the heartbeat shortcut taken out. Raft
// would answer heartbeats on the connection's own goroutine, beside its main
// loop; such a heartbeat can change the term while a deposed leader is just
// stamping entries, and the logs diverge (hashicorp/raft#695). Without the
// shortcut heartbeats queue up with everything else.
type transport struct {
	*raft.NetworkTransport
	answered func(raft.ServerID) // hears of each AppendEntries that was answered
}

// SetHeartbeatHandler deliberately does nothing.
func (transport) SetHeartbeatHandler(func(raft.RPC)) {}

// AppendEntries implements raft.Transport. All of them come this way: see
// maxInFlight.
func (t transport) AppendEntries(id raft.ServerID, at raft.ServerAddress, q *raft.AppendEntriesRequest, r *raft.AppendEntriesResponse) error {
	err := t.NetworkTransport.AppendEntries(id, at, q, r)
	if err == nil && t.answered != nil {
		t.answered(id)
	}
	return err
}

// newTransport makes raft's network on the shared port. answered hears of each
// AppendEntries that was answered; it may be nil.
func newTransport(port *wire.Port, book *book, log *zap.Logger, answered func(raft.ServerID)) transport {
	return transport{answered: answered, NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider:   book,
		Logger:                  newRaftLog(log),
		Stream:                  &stream{Listener: port.Listen(wire.Raft), port: port, book: book},
		MaxPool:                 4,
		Timeout:                 10 * time.Second,
		MaxRPCsInFlight:         maxInFlight,
		MsgpackUseNewTimeFormat: true,
	})}
}

// maxInFlight keeps replication unpipelined: with more, a follower can be wedged
// for ever (hashicorp/raft#612; TestPipelineWedgesAFollower).
const maxInFlight = 1

// timeoutScale is the octets of a snapshot that may take one Timeout: the
// deadline of a transfer must end within the day, whatever its size.
const timeoutScale = 64 << 20

// stream is raft's StreamLayer on the shared port.
type stream struct {
	net.Listener
	port *wire.Port
	book *book
}

// Dial connects to a node that book.ServerAddr named.
func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	node, _, ok := strings.Cut(string(address), addressMark)
	if !ok {
		return nil, fmt.Errorf("cluster: the address %q names no node", address)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := s.book.dial(ctx, node, func(ctx context.Context, addr string) (*wire.Conn, error) {
		return s.port.Dial(ctx, wire.Raft, node, addr)
	})
	if err != nil {
		return nil, err // not a nil *wire.Conn
	}
	return conn, nil
}

// addressMark stands behind the node id in the addresses that raft dials: a
// dialler must know whom it has to find, and the book knows where.
const addressMark = "@"
