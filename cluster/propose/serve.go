package propose

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"relay/cluster/fault"
	"relay/cluster/internal/wire"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

const (
	serviceName   = "relay.cluster.v1.Members"
	proposeMethod = "/" + serviceName + "/Propose"
	askMethod     = "/" + serviceName + "/Ask"

	// AskHello is the one question that a node may ask which is no member.
	AskHello = "cluster/hello"

	maxMessage   = 64 << 20
	streamWindow = 4 << 20
	connWindow   = 8 << 20
)

// Server answers the other members: proposals on long-lived streams, and
// questions one by one.
type Server struct {
	Batcher *Batcher
	Mark    func(spool.Frame, *wire.Peer) spool.Frame // writes into a frame who sent it
	Asks    func(node string) bool                    // whether a node may ask more than hello
	mu      sync.RWMutex
	how     map[string]Handler
}

// NewServer makes a server that answers no question; Batcher, Mark and Asks are set before it serves.
func NewServer() *Server { return &Server{how: map[string]Handler{}} }

// errStranger is told those who may say hello and nothing else.
var errStranger = status.Error(codes.PermissionDenied, "the asker is not a member")

// Handler answers a question of another node. It runs on a goroutine of its
// own; ctx ends with the asker's patience or the connection.
type Handler func(ctx context.Context, from string, req []byte) ([]byte, error)

// Handle registers the answer to a question.
func (s *Server) Handle(method string, h Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.how[method] = h
}

// Handler is what answers a question; nil: nothing does.
func (s *Server) Handler(method string) Handler {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.how[method]
}

// GRPC makes the gRPC server; the caller serves it on the port's
// listeners.
func (s *Server) GRPC() *grpc.Server {
	g := grpc.NewServer(
		grpc.Creds(portCreds{}),
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.WriteBufferSize(64<<10),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Ask",
			Handler: func(srv any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				return srv.(*Server).ask(ctx, dec)
			},
		}},
		Streams: []grpc.StreamDesc{{
			StreamName:    "Propose",
			Handler:       func(srv any, stream grpc.ServerStream) error { return srv.(*Server).propose(stream) },
			ServerStreams: true,
			ClientStreams: true,
		}},
	}, s)
	return g
}

// propose serves one stream of proposals. They go to the batcher as they come,
// without a goroutine each; one goroutine sends back what the batcher settles.
func (s *Server) propose(stream grpc.ServerStream) error {
	if !s.Asks(peerOf(stream.Context())) {
		return errStranger
	}
	back := &backlog{wake: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(stream.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Add(1)
	go func() {
		defer wg.Done()
		back.send(ctx, stream)
	}()
	shown := ShownOf(stream.Context())
	var in batch
	for {
		if err := stream.RecvMsg(&in); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		for _, p := range in.in {
			p.sink = back
			p.frame = s.Mark(p.frame, &shown)
		}
		s.Batcher.submit(in.in...)
	}
}

// backlog holds the answers that wait to be sent on one stream. All answers that are
// settled in one go travel in one message.
type backlog struct {
	mu   sync.Mutex
	raw  answers
	wake chan struct{}
}

func (b *backlog) settle(p *proposal, res *pb.Result, err error) {
	b.mu.Lock()
	b.raw.add(p.num, res, err)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// send sends until ctx ends or the stream breaks; the reader of the stream
// finds that out too.
func (b *backlog) send(ctx context.Context, stream grpc.ServerStream) {
	for {
		select {
		case <-b.wake:
		case <-ctx.Done():
			return
		}
		b.mu.Lock()
		out := answers{raw: b.raw.raw}
		b.raw.raw = nil
		b.mu.Unlock()
		if len(out.raw) == 0 {
			continue
		}
		if stream.SendMsg(&out) != nil {
			return
		}
	}
}

func (s *Server) ask(ctx context.Context, dec func(any) error) (any, error) {
	var q question
	if err := dec(&q); err != nil {
		return nil, err
	}
	if q.method != AskHello && !s.Asks(peerOf(ctx)) {
		return nil, errStranger
	}
	h := s.Handler(q.method)
	if h == nil {
		return nil, status.Errorf(codes.Unimplemented, "this node does not know the question %q", q.method)
	}
	b, err := h(ctx, peerOf(ctx), q.body)
	if err != nil {
		return nil, status.Error(fault.Code(err), err.Error())
	}
	return &plain{b}, nil
}

// portCreds tells gRPC who is at the other end of a connection of the port,
// which did the handshake already.
type portCreds struct{}

type portAuth struct {
	credentials.CommonAuthInfo
	node  string
	shown wire.Peer // of an inbound connection
}

func (portAuth) AuthType() string { return "relay" }

func (portCreds) authenticate(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	w, ok := c.(*wire.Conn)
	if !ok {
		return nil, nil, fmt.Errorf("cluster: a %T did not come through the port", c)
	}
	return c, portAuth{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, w.Peer, w.Shown}, nil
}

func (p portCreds) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return p.authenticate(c)
}

func (p portCreds) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return p.authenticate(c)
}

func (portCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}
func (p portCreds) Clone() credentials.TransportCredentials { return p }
func (portCreds) OverrideServerName(string) error           { return nil }

// peerOf names the node a call came from.
func peerOf(ctx context.Context) string { return authOf(ctx).node }

// ShownOf returns the certificate by which the connection of a call was let in;
// it is empty for a call that this node makes to itself.
func ShownOf(ctx context.Context) wire.Peer { return authOf(ctx).shown }

func authOf(ctx context.Context) portAuth {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return portAuth{}
	}
	auth, _ := p.AuthInfo.(portAuth)
	return auth
}
