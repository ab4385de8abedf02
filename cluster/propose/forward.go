package propose

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"relay/cluster/fault"
	"relay/cluster/internal/wire"
	"relay/cluster/members"
	pb "relay/cluster/spool/spoolpb"
)

// Peers holds the connections to the other members: two each, one for small
// proposals and questions, one for bulk, so that a lock never waits behind a
// message body in a socket's buffer. They are made when first needed.
type Peers struct {
	ctx  context.Context // ends with the Cluster
	port *wire.Port
	book *members.AddressBook
	log  *zap.Logger
	wg   sync.WaitGroup

	mu     sync.Mutex
	links  map[linkKey]*link
	closed bool
}

type linkKey struct{ node, proto string }

// link is one gRPC connection and the proposals on it.
type link struct {
	node string
	cc   *grpc.ClientConn
	pipe *pipe
}

// NewPeers makes links as they are needed, until ctx ends.
func NewPeers(ctx context.Context, port *wire.Port, book *members.AddressBook, log *zap.Logger) *Peers {
	return &Peers{ctx: ctx, port: port, book: book, log: log, links: map[linkKey]*link{}}
}

// to returns the link to a node.
func (ps *Peers) to(node, proto string) (*link, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.closed {
		return nil, fault.ErrStopping
	}
	k := linkKey{node, proto}
	if l := ps.links[k]; l != nil {
		return l, nil
	}
	cc, err := ps.connect(node, proto)
	if err != nil {
		return nil, err
	}
	l := &link{node: node, cc: cc, pipe: newPipe(cc, proto == wire.Bulk)}
	ps.links[k] = l
	ps.wg.Add(1)
	go func() {
		defer ps.wg.Done()
		l.pipe.run(ps.ctx)
	}()
	return l, nil
}

func (ps *Peers) connect(node, proto string) (*grpc.ClientConn, error) {
	return dialMember(func(ctx context.Context) (net.Conn, error) {
		conn, err := ps.book.Dial(ctx, node, func(ctx context.Context, addr string) (*wire.Conn, error) {
			return ps.port.Dial(ctx, proto, node, addr)
		})
		if err != nil {
			return nil, err // not a nil *wire.Conn
		}
		return conn, nil
	}, node)
}

// dialMember makes a gRPC client of a member on the connections that dial opens.
func dialMember(dial func(context.Context) (net.Conn, error), node string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+node,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
		grpc.WithTransportCredentials(portCreds{}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(maxMessage),
			grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 300 * time.Millisecond,
			},
			MinConnectTimeout: 3 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithWriteBufferSize(64<<10),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
	)
}

// AskOnce puts one question to a node, on a connection of its own that dial opens.
func AskOnce(ctx context.Context, dial func(context.Context) (net.Conn, error), node, method string,
	req []byte) ([]byte, error) {
	cc, err := dialMember(dial, node)
	if err != nil {
		return nil, err
	}
	defer cc.Close()
	var out plain
	if err := cc.Invoke(ctx, askMethod, &question{method, req}, &out); err != nil {
		return nil, fault.OfRemote(node, err)
	}
	return out.b, nil
}

// Prepare connects to a node ahead of need: the new leader.
func (ps *Peers) Prepare(node string) {
	for _, proto := range []string{wire.RPC, wire.Bulk} {
		if l, err := ps.to(node, proto); err == nil {
			l.cc.Connect()
		}
	}
}

// Forget closes the links to nodes that fn names.
func (ps *Peers) Forget(fn func(node string) bool) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for k, l := range ps.links {
		if fn(k.node) {
			delete(ps.links, k)
			l.pipe.close()
			_ = l.cc.Close()
		}
	}
}

// Close ends all links and waits for their goroutines.
func (ps *Peers) Close() {
	ps.mu.Lock()
	ps.closed = true
	ps.mu.Unlock()
	ps.Forget(func(string) bool { return true })
	ps.wg.Wait()
}

// Ask puts a question to a node and waits for the answer.
func (ps *Peers) Ask(ctx context.Context, node, method string, req []byte) ([]byte, error) {
	l, err := ps.to(node, wire.RPC)
	if err != nil {
		return nil, err
	}
	var out plain
	if err := l.cc.Invoke(ctx, askMethod, &question{method, req}, &out); err != nil {
		return nil, fault.OfRemote(node, err)
	}
	return out.b, nil
}

// call is a proposal of this node and its answer.
type call struct {
	proposal
	done chan struct{} // capacity 1
	res  *pb.Result
	err  error
}

// settle implements sink.
func (c *call) settle(_ *proposal, res *pb.Result, err error) {
	c.res, c.err = res, err
	c.done <- struct{}{}
}

// Bounds of one message on a pipe: large enough to carry what queued up while
// the last one was written, small enough to keep the pipe flowing.
const (
	batchEntries = 128
	batchControl = 256 << 10
	batchBulk    = 1 << 20
)

// pipe carries proposals to one node on one long-lived stream, many at a time.
// One goroutine sends, one receives.
type pipe struct {
	cc    *grpc.ClientConn
	bytes int

	mu     sync.Mutex
	queue  []*call
	sent   map[uint64]*call
	next   uint64
	closed bool
	wake   chan struct{}
}

func newPipe(cc *grpc.ClientConn, bulk bool) *pipe {
	p := &pipe{cc: cc, bytes: batchControl, sent: map[uint64]*call{}, wake: make(chan struct{}, 1)}
	if bulk {
		p.bytes = batchBulk
	}
	return p
}

// submit queues a proposal; its call hears of it unless it is withdrawn.
func (p *pipe) submit(c *call) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		c.settle(&c.proposal, nil, fault.ErrUnsent)
		return
	}
	c.stage = queued
	p.queue = append(p.queue, c)
	p.mu.Unlock()
	p.nudge()
}

func (p *pipe) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// withdraw takes a proposal back. It reports whether it was never sent. An
// answer that comes later is dropped.
func (p *pipe) withdraw(c *call) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.stage == taken {
		delete(p.sent, c.num)
		return false
	}
	c.stage = withdrawn
	return true
}

// close fails what is queued and under way, and all that comes later.
func (p *pipe) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.fail(fault.ErrUnsent)
	p.nudge()
}

func (p *pipe) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// run keeps a stream open while there is something to send, until ctx ends or
// the pipe is closed.
func (p *pipe) run(ctx context.Context) {
	for !p.isClosed() {
		select {
		case <-p.wake:
			p.fail(p.stream(ctx))
		case <-ctx.Done():
			p.close()
			return
		}
	}
}

// stream opens a stream and works on it until it breaks.
func (p *pipe) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	desc := &grpc.StreamDesc{StreamName: "Propose", ServerStreams: true, ClientStreams: true}
	s, err := p.cc.NewStream(ctx, desc, proposeMethod)
	if err != nil {
		return fmt.Errorf("%w: %w", fault.ErrUnsent, err)
	}
	var wg sync.WaitGroup
	var broken error
	wg.Add(1)
	go func() {
		defer wg.Done()
		defer cancel()
		broken = p.receive(s)
	}()
	p.send(ctx, s)
	cancel()
	wg.Wait()
	return fmt.Errorf("%w: %w", fault.ErrUnsent, broken)
}

func (p *pipe) send(ctx context.Context, s grpc.ClientStream) {
	for {
		b, n := p.take()
		if n == 0 {
			select {
			case <-p.wake:
			case <-ctx.Done():
				return
			}
			if p.isClosed() {
				return
			}
			continue
		}
		if s.SendMsg(b) != nil {
			return
		}
	}
}

// take moves what is queued, within the bounds, to what is under way. The
// frames are read here, under the mutex.
func (p *pipe) take() (*batch, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := &batch{}
	n, bytes, i := 0, 0, 0
	for ; i < len(p.queue); i++ {
		c := p.queue[i]
		if c.stage == withdrawn {
			continue
		}
		if n == batchEntries || n > 0 && bytes+len(c.frame) > p.bytes {
			break
		}
		p.next++
		c.num, c.stage = p.next, taken
		p.sent[c.num] = c
		b.add(c.num, c.frame)
		n++
		bytes += len(c.frame)
	}
	rest := copy(p.queue, p.queue[i:])
	clear(p.queue[rest:])
	p.queue = p.queue[:rest]
	return b, n
}

func (p *pipe) receive(s grpc.ClientStream) error {
	var in answers
	for {
		if err := s.RecvMsg(&in); err != nil {
			return err
		}
		for _, a := range in.in {
			p.mu.Lock()
			c := p.sent[a.num]
			delete(p.sent, a.num)
			p.mu.Unlock()
			if c != nil {
				c.settle(&c.proposal, a.res, a.err)
			}
		}
	}
}

// fail ends all that is queued (surely not applied) and all that was sent
// (nobody knows).
func (p *pipe) fail(cause error) {
	p.mu.Lock()
	var unsent, lost []*call
	for _, c := range p.queue {
		if c.stage == queued {
			c.stage = taken
			unsent = append(unsent, c)
		}
	}
	for _, c := range p.sent {
		lost = append(lost, c)
	}
	p.queue = nil
	clear(p.sent)
	p.mu.Unlock()
	for _, c := range unsent {
		c.settle(&c.proposal, nil, cause)
	}
	// The cause is quoted, not wrapped: it may wrap fault.ErrUnsent.
	err := fmt.Errorf("%w: %v", fault.ErrLost, cause)
	for _, c := range lost {
		c.settle(&c.proposal, nil, err)
	}
}
