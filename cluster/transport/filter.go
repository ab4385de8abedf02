package transport

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"relay/cluster/fault"
	"relay/cluster/internal/wire"
)

var (
	errProbation = errors.New("cluster: this start of the node is not vetted yet")
	errFiltered  = errors.New("cluster: the call is refused")
)

// filter stands between the other members and raft. Raft believes what a call
// says of its sender; here each call comes with the peer that TLS has proved,
// because the connections of each peer are served by a transport of their own.
// And a call that would change what is committed here ends the node before raft
// sees it.
//
// Each peer's connections have a transport of their own, and of all five calls the
// header's id must be the TLS peer. TimeoutNow comes from the leader or from us. A call
// that contradicts an entry up to max(applied, promise.Commit) ends the node before
// raft acts (ErrContradiction); the log refuses to drop such a suffix, too. A snapshot that is
// older than what is applied here is refused: raft would take the state back to it. One that
// ends before this node's log begins is not, as entries could not follow on it.
type filter struct {
	self    string
	Vetted  atomic.Bool       // before that raft hears nobody and reaches nobody
	admits  func(string) bool // whether a peer is a member
	Leader  func() string     // as raft knows it
	term    func() uint64     // raft's current term
	floor   func() uint64     // index up to which everything is committed here
	applied func() uint64
	termAt  func(uint64) (term uint64, known bool)
	fatal   func(error)
	inlet   func(*inbound) *raft.NetworkTransport

	out    chan raft.RPC // to raft
	done   chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
	mu     sync.Mutex
	peers  map[string]*inbound
	Broken atomic.Bool // a call contradicted what is committed
}

// newFilter makes a filter that is shut; its hooks let everything pass. They are
// to be set before the port starts.
func newFilter(self string) *filter {
	return &filter{
		self: self, out: make(chan raft.RPC), done: make(chan struct{}), peers: map[string]*inbound{},
		admits:  func(string) bool { return true },
		Leader:  func() string { return "" },
		term:    func() uint64 { return 0 },
		floor:   func() uint64 { return 0 },
		applied: func() uint64 { return 0 },
		termAt:  func(uint64) (uint64, bool) { return 0, false },
	}
}

// serve takes raft's connections from the port until the port or the filter is
// closed.
func (f *filter) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		w, ok := conn.(*wire.Conn)
		if !ok {
			_ = conn.Close()
			continue
		}
		if in := f.from(w.Peer, l.Addr()); in == nil || !in.offer(conn) {
			_ = conn.Close()
		}
	}
}

// from returns the entrance of a peer's calls, nil where the filter is closed.
func (f *filter) from(peer string, addr net.Addr) *inbound {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.done:
		return nil
	default:
	}
	if in := f.peers[peer]; in != nil {
		return in
	}
	in := &inbound{peer: peer, conns: make(chan net.Conn), done: f.done, addr: addr}
	in.trans = f.inlet(in)
	f.peers[peer] = in
	f.wg.Add(1)
	go func() {
		defer f.wg.Done()
		f.pump(in)
	}()
	return in
}

// pump hands one peer's calls to raft, in the order in which they came.
func (f *filter) pump(in *inbound) {
	for {
		select {
		case rpc := <-in.trans.Consumer():
			if err := f.check(in.peer, rpc); err != nil {
				refuse(rpc, err)
				continue
			}
			select {
			case f.out <- rpc:
			case <-f.done:
				return
			}
		case <-f.done:
			return
		}
	}
}

// refuse answers a call with an error. It reads first the data that follows a
// call on its connection, because the next call stands behind it. The text must not have
// raft's words for a call that it does not know: a candidate would take it for
// the consent of an older build.
func refuse(rpc raft.RPC, err error) {
	if rpc.Reader == nil {
		rpc.Respond(nil, err)
		return
	}
	go func() {
		_, _ = io.Copy(io.Discard, rpc.Reader)
		rpc.Respond(nil, err)
	}()
}

// check says why a call must not reach raft.
func (f *filter) check(peer string, rpc raft.RPC) error {
	if !f.Vetted.Load() {
		return errProbation
	}
	if f.Broken.Load() {
		return errFiltered
	}
	call, ok := rpc.Command.(raft.WithRPCHeader)
	if !ok {
		return fmt.Errorf("%w: it has no header", errFiltered)
	}
	if id := string(call.GetRPCHeader().ID); id != peer {
		return fmt.Errorf("%w: node %s calls in the name of %q", errFiltered, peer, id)
	}
	if peer != f.self && !f.admits(peer) {
		return fmt.Errorf("%w: node %s is not a member", errFiltered, peer)
	}
	switch req := rpc.Command.(type) {
	case *raft.TimeoutNowRequest:
		if peer != f.self && peer != f.Leader() {
			return fmt.Errorf("%w: node %s does not lead", errFiltered, peer)
		}
	case *raft.AppendEntriesRequest:
		// Raft would take its own last entry for committed, matched or not.
		req.LeaderCommitIndex = min(req.LeaderCommitIndex, req.PrevLogEntry+uint64(len(req.Entries)))
		return f.uphold(peer, req.Term, f.contradicted(req))
	case *raft.InstallSnapshotRequest:
		if err := f.uphold(peer, req.Term, f.differs(req.LastLogIndex, req.LastLogTerm)); err != nil {
			return err
		}
		return f.outdated(peer, req)
	}
	return nil
}

// outdated refuses a snapshot that would take the state back, where the log has what follows it.
func (f *filter) outdated(peer string, req *raft.InstallSnapshotRequest) error {
	applied := f.applied()
	if req.LastLogIndex >= applied {
		return nil
	}
	if _, known := f.termAt(req.LastLogIndex); !known {
		return nil
	}
	return fmt.Errorf("%w: the snapshot of node %s ends at entry %d, and entry %d is applied here",
		errFiltered, peer, req.LastLogIndex, applied)
}

// clash is an entry that is committed here and has another term elsewhere.
type clash struct{ index, here, there uint64 }

// contradicted finds what a call would change of what is committed here.
func (f *filter) contradicted(req *raft.AppendEntriesRequest) *clash {
	floor := f.floor()
	if req.PrevLogEntry > floor {
		return nil
	}
	if c := f.differs(req.PrevLogEntry, req.PrevLogTerm); c != nil {
		return c
	}
	for _, e := range req.Entries {
		if e.Index > floor {
			return nil
		}
		if c := f.differs(e.Index, e.Term); c != nil {
			return c
		}
	}
	return nil
}

func (f *filter) differs(index, term uint64) *clash {
	if index == 0 || index > f.floor() {
		return nil
	}
	if here, known := f.termAt(index); known && here != term {
		return &clash{index, here, term}
	}
	return nil
}

// uphold ends the node where a call contradicts what is committed here, unless
// its sender was deposed: raft refuses that one by itself.
func (f *filter) uphold(peer string, term uint64, c *clash) error {
	if c == nil || term < f.term() {
		return nil
	}
	err := fmt.Errorf("%w: entry %d was committed here in term %d, and %s sends it in term %d: %s's side has lost "+
		"acknowledged mail; "+
		"keep this directory, stop the other nodes, and see \"A node from the past\" in the guide",
		fault.ErrContradiction, c.index, c.here, peer, c.there, peer)
	f.Broken.Store(true)
	f.fatal(err)
	return err
}

// close ends the filter and waits for its goroutines. The port must be closed
// before, or soon: calls that are being read hold their transports.
func (f *filter) close() error {
	f.once.Do(func() { close(f.done) })
	f.mu.Lock()
	all := f.peers
	f.peers = map[string]*inbound{}
	f.mu.Unlock()
	var err error
	for _, in := range all {
		err = errors.Join(err, in.trans.Close())
	}
	f.wg.Wait()
	return err
}

// inbound is the StreamLayer of the transport that serves one peer.
type inbound struct {
	peer  string
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	trans *raft.NetworkTransport
}

func (in *inbound) offer(c net.Conn) bool {
	select {
	case in.conns <- c:
		return true
	case <-in.done:
		return false
	}
}

// Accept implements net.Listener.
func (in *inbound) Accept() (net.Conn, error) {
	select {
	case c := <-in.conns:
		return c, nil
	case <-in.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener; the filter ends all its peers' at once.
func (in *inbound) Close() error { return nil }

// Addr implements net.Listener.
func (in *inbound) Addr() net.Addr { return in.addr }
