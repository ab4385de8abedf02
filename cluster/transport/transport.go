package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"relay/cluster/datadir"
	raftlog "relay/cluster/disk/log"
	"relay/cluster/internal/wire"
	"relay/cluster/members"
	"relay/cluster/tuning"
)

// Transport is raft's network: one NetworkTransport dials, and one for each peer
// serves what comes in, behind the filter. The heartbeat shortcut is taken out.
// Raft would answer heartbeats on the connection's own goroutine, beside its main
// loop; such a heartbeat can change the term while a deposed leader is just
// stamping entries, and the logs diverge (hashicorp/raft#695). Without the
// shortcut heartbeats queue up with everything else.
type Transport struct {
	*raft.NetworkTransport // dials
	*filter
	Acks     *acks
	retry    *retry
	quiet    *quiescence
	pulse    *pulse
	answered func(raft.ServerID) // hears of each AppendEntries that was answered
	votes    *votes
}

// votes hears how long the requests for a vote take that others answer. voted is
// set before any is sent.
type votes struct {
	voted func(term uint64, took time.Duration)
}

// Guards is what the transport asks its node.
type Guards struct {
	Admits  func(node string) bool // whether a peer is a member
	Leader  func() string          // as raft knows it
	Term    func() uint64          // raft's current term
	Floor   func() uint64          // index up to which everything is committed here
	Applied func() uint64          // index up to which everything is applied here
	TermAt  func(index uint64) (term uint64, known bool)
	Leads   func(term uint64) bool                // whether this node leads in that term
	Commit  func() uint64                         // raft's commit index
	Petty   func(*raft.Log) bool                  // whether nobody waits to hear that an entry is committed
	Serves  func(node string, term uint64) bool   // and has to serve the other
	Voted   func(term uint64, took time.Duration) // hears of each vote that was answered
	Fatal   func(error)                           // hears that this node can't go on
}

// Guard sets what the transport asks. It is called once, before the port starts.
func (t Transport) Guard(g Guards) {
	f := t.filter
	f.admits, f.Leader, f.term, f.fatal = g.Admits, g.Leader, g.Term, g.Fatal
	f.floor, f.applied, f.termAt = g.Floor, g.Applied, g.TermAt
	t.quiet.leads, t.quiet.commit, t.quiet.petty = g.Leads, g.Commit, g.Petty
	t.pulse.leads, t.retry.serves, t.votes.voted = g.Leads, g.Serves, g.Voted
}

// Quiesce has calls that tell nothing kept back for so long at most, and heartbeats go
// out at multiples of beat; 0: at once. At multiples of renew entries come. It returns the log
// that raft is to write to, which tells of each entry that it has stored.
func (t Transport) Quiesce(log *raftlog.Log, longest, beat, renew time.Duration) raft.LogStore {
	t.quiet.last, t.quiet.entry, t.quiet.longest = log.LastIndex, log.GetLog, longest
	t.pulse.every, t.pulse.renew = beat, renew
	return tellingLog{log, t.quiet.look}
}

// EndTerm lets calls go that were kept back in a term of this node's that has ended. Raft
// waits for them before it stops that term's heartbeats.
func (t Transport) EndTerm() {
	t.quiet.look()
	t.pulse.look()
}

// Want has followers told at once that an index is committed: somebody waits for it there.
func (t Transport) Want(index uint64) { t.quiet.want(index) }

// Moving has calls to followers go out at once until the returned function is called: the
// leadership moves to one of them.
func (t Transport) Moving() (done func()) { return t.quiet.hurry() }

// Hurry has heartbeats go out at once until the returned function is called: somebody
// waits for their answers.
func (t Transport) Hurry() (done func()) { return t.pulse.hurry() }

// SetHeartbeatHandler deliberately does nothing.
func (Transport) SetHeartbeatHandler(func(raft.RPC)) {}

// Consumer is where raft gets the calls of others: what the filter lets pass.
func (t Transport) Consumer() <-chan raft.RPC { return t.filter.out }

// Close ends both directions. The port's connections must be closed soon.
func (t Transport) Close() error {
	return errors.Join(t.NetworkTransport.Close(), t.filter.close())
}

// A node whose start is not vetted must not be heard either: no call of its raft
// goes out, so that it can not even win a pre-vote, and its term stands still.

// AppendEntries implements raft.Transport, and remembers what the other side
// acknowledges. All of them come this way: see maxInFlight.
func (t Transport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest,
	resp *raft.AppendEntriesResponse) error {
	if !t.Vetted.Load() {
		return errProbation
	}
	heartbeat, keep := isHeartbeat(req), t.quiet.keep
	if heartbeat {
		keep = t.pulse.keep
	}
	if err := keep(string(id), req); err != nil {
		return err
	}
	began := time.Now()
	if err := t.NetworkTransport.AppendEntries(id, to, req, resp); err != nil {
		t.quiet.forget(string(id))
		t.pulse.forget(string(id))
		if !heartbeat {
			t.retry.failed(string(id), req.Term)
		}
		return err
	}
	t.heard(string(id), req, resp)
	if t.answered != nil {
		t.answered(id)
	}
	if resp.Success {
		if !heartbeat {
			t.pulse.acknowledged(string(id), began)
		}
		t.Acks.note(string(id), datadir.Mark{Term: req.Term, Index: req.PrevLogEntry + uint64(len(req.Entries))})
	}
	return nil
}

// heard takes over what the answer to a call tells of the follower's links and log.
func (t Transport) heard(node string, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) {
	switch {
	case isHeartbeat(req):
		t.retry.heard(node)
		return
	case resp.Success:
		t.quiet.acknowledged(node, req)
	default:
		t.quiet.forget(node)
	}
	t.retry.served(node)
}

// InstallSnapshot implements raft.Transport.
func (t Transport) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest,
	resp *raft.InstallSnapshotResponse, data io.Reader) error {
	err := t.NetworkTransport.InstallSnapshot(id, to, req, resp, data)
	if err != nil {
		t.retry.failed(string(id), req.Term)
		return err
	}
	t.retry.served(string(id))
	return nil
}

// RequestVote implements raft.Transport.
func (t Transport) RequestVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestVoteRequest,
	resp *raft.RequestVoteResponse) error {
	if !t.Vetted.Load() {
		return errProbation
	}
	began := time.Now()
	err := t.NetworkTransport.RequestVote(id, to, req, resp)
	if err == nil {
		t.votes.voted(req.Term, time.Since(began))
	}
	return err
}

// RequestPreVote implements raft.WithPreVote.
func (t Transport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestPreVoteRequest,
	resp *raft.RequestPreVoteResponse) error {
	if !t.Vetted.Load() {
		return errProbation
	}
	return t.NetworkTransport.RequestPreVote(id, to, req, resp)
}

// acks holds, for each follower, the furthest place of its log that it has
// acknowledged to this node.
type acks struct {
	mu  sync.Mutex
	all map[string]datadir.Mark
}

func (a *acks) note(node string, m datadir.Mark) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.all[node]; old.Less(m) {
		a.all[node] = m
	}
}

// Forget drops what a node acknowledged with a log that is gone.
func (a *acks) Forget(node string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.all, node)
}

func (a *acks) Copy() map[string]datadir.Mark {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.all)
}

// New makes raft's network on the shared port. Until the filter's
// hooks are set it admits everybody. answered hears of each AppendEntries that was
// answered; it may be nil.
func New(port *wire.Port, book *members.AddressBook, log *zap.Logger, answered func(raft.ServerID)) Transport {
	f := newFilter(book.Self)
	f.inlet = func(in *inbound) *raft.NetworkTransport {
		return network(&stream{Listener: in, port: port, book: book}, book, log)
	}
	t := Transport{
		Outbound(f.done, port, book, log), f, &acks{all: map[string]datadir.Mark{}},
		newRetry(f.done), newQuiescence(f.done), newPulse(f.done), answered, &votes{func(uint64, time.Duration) {}},
	}
	go f.serve(port.Listen(wire.Raft))
	return t
}

// Outbound makes a network that calls others and takes no calls; done ends the waiting
// for them.
func Outbound(done chan struct{}, port *wire.Port, book *members.AddressBook, log *zap.Logger) *raft.NetworkTransport {
	return network(&stream{Listener: deaf{done, port}, port: port, book: book}, book, log)
}

func network(s raft.StreamLayer, book *members.AddressBook, log *zap.Logger) *raft.NetworkTransport {
	t := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider:   book,
		Logger:                  tuning.NewRaftLog(log),
		Stream:                  s,
		MaxPool:                 4,
		Timeout:                 10 * time.Second,
		MaxRPCsInFlight:         maxInFlight,
		MsgpackUseNewTimeFormat: true,
	})
	t.TimeoutScale = timeoutScale
	return t
}

// deaf is a listener on which nobody comes.
type deaf struct {
	done chan struct{}
	port *wire.Port
}

// Accept implements net.Listener.
func (d deaf) Accept() (net.Conn, error) {
	<-d.done
	return nil, net.ErrClosed
}

// Close implements net.Listener; the filter ends the waiting.
func (d deaf) Close() error { return nil }

// Addr implements net.Listener.
func (d deaf) Addr() net.Addr { return d.port.Addr() }

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
	book *members.AddressBook
}

// Dial connects to a node that book.ServerAddr named.
func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	node, _, ok := strings.Cut(string(address), members.AddressMark)
	if !ok {
		return nil, fmt.Errorf("cluster: the address %q names no node", address)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := s.book.Dial(ctx, node, func(ctx context.Context, addr string) (*wire.Conn, error) {
		return s.port.Dial(ctx, wire.Raft, node, addr)
	})
	if err != nil {
		return nil, err // not a nil *wire.Conn
	}
	return conn, nil
}
