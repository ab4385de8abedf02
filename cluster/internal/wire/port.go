package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// The services of the port, by ALPN name. The number is the version of what is
// spoken inside.
const (
	Raft = "relay-raft/1" // the log's own traffic
	RPC  = "relay-rpc/1"  // small proposals, questions and answers
	Bulk = "relay-bulk/1" // proposals that carry large bodies
	Join = "relay-join/1" // the one service open to nodes without a certificate
)

const (
	handshakeTime = 10 * time.Second
	userTimeout   = 15 * time.Second

	firstOctet  = 3 * time.Second // a member says hello as soon as it is connected
	strangers   = 192             // handshakes at once from addresses that no member has come from
	fromOne     = 64              // from one address: several members may share it
	forReturner = 64              // from addresses that members have come from
)

// Options say how a Port listens and dials.
type Options struct {
	Listener net.Listener // the Port owns it from now on
	Identity Identity
	// Allow is asked before a node is dialled (of the Peer there is only the
	// name) and about each peer that shows a certificate of a CA of ours, in
	// both directions; nil allows all. It is called concurrently.
	Allow func(p Peer, proto string) error
	// Later hears, perhaps often, that a peer is of a later generation of the
	// cluster (ErrLater); nil: nobody. It must not close the Port.
	Later func(error)
	// Dial opens the TCP connection; nil is net.Dialer.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	Log  *zap.Logger
}

// Stats counts what a Port has seen.
type Stats struct {
	Accepted atomic.Uint64 // handshakes that succeeded
	Refused  atomic.Uint64 // handshakes that failed, or peers not allowed
	Dialled  atomic.Uint64
}

// Port is one listener shared by several protocols, and the way to the ports
// of the other members. All methods may be called concurrently.
type Port struct {
	Stats Stats

	o      Options
	id     atomic.Pointer[Identity]
	server *tls.Config
	routes map[string]*listener
	done   chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
	lobby  *Lobby

	turned Sparing // log lines about strangers
	denied Sparing // and about nodes that Allow refuses

	mu    sync.Mutex
	conns map[net.Conn]Link // every live connection
}

// Link is what is known of a live connection: its peer and protocol, empty while they
// are not known, and since when there is the connection.
type Link struct {
	Peer  Peer
	Proto string
	Since time.Time
}

// New makes a port. Listeners of all protocols exist from here on; nothing is
// accepted before Start.
func New(o Options) *Port {
	if o.Dial == nil {
		d := &net.Dialer{Timeout: handshakeTime, KeepAliveConfig: keepAlive()}
		o.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	}
	if o.Allow == nil {
		o.Allow = func(Peer, string) error { return nil }
	}
	p := &Port{
		o:      o,
		routes: make(map[string]*listener),
		done:   make(chan struct{}),
		lobby:  NewLobby(strangers, fromOne, forReturner),
		conns:  make(map[net.Conn]Link),
	}
	for _, proto := range []string{Raft, RPC, Bulk, Join} {
		p.routes[proto] = &listener{port: p, proto: proto, conns: make(chan *Conn), done: make(chan struct{})}
	}
	p.id.Store(&o.Identity)
	p.server = p.serverConfig()
	return p
}

// SetIdentity changes what the node shows and trusts in handshakes from now on.
func (p *Port) SetIdentity(id Identity) { p.id.Store(&id) }

// Listen returns the listener of one protocol. Its connections are *Conn.
func (p *Port) Listen(proto string) net.Listener { return p.routes[proto] }

// Addr is the address listened on.
func (p *Port) Addr() net.Addr { return p.o.Listener.Addr() }

// Start accepts connections until Close.
func (p *Port) Start() {
	p.wg.Add(1)
	go p.accept()
}

// Close stops accepting, closes every connection and waits for the handshakes
// under way.
func (p *Port) Close() error {
	var err error
	p.once.Do(func() {
		close(p.done)
		err = p.o.Listener.Close()
		p.CutOff(func(Link) bool { return true })
	})
	p.wg.Wait()
	return err
}

// CutOff closes the live connections, of either direction, that fn names: a node that
// was removed must not go on talking. The Peer of a Link may be empty, or a name alone.
func (p *Port) CutOff(fn func(Link) bool) {
	p.mu.Lock()
	all := maps.Clone(p.conns)
	p.mu.Unlock()
	for c, l := range all {
		if fn(l) {
			_ = c.Close()
		}
	}
}

func (p *Port) accept() {
	defer p.wg.Done()
	wait := 5 * time.Millisecond
	for {
		raw, err := p.o.Listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || p.closed() {
				return
			}
			// Out of file descriptors, or a peer gone before accept: the
			// port must outlive it.
			p.o.Log.Warn("cluster port: accept failed", zap.Error(err))
			select {
			case <-time.After(wait):
			case <-p.done:
				return
			}
			wait = min(2*wait, time.Second)
			continue
		}
		wait = 5 * time.Millisecond
		p.wg.Add(1)
		go p.welcome(p.lobby.Enter(raw, firstOctet, handshakeTime))
	}
}

func (p *Port) closed() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// welcome does the handshake of one inbound connection and routes it.
func (p *Port) welcome(g *Guest) {
	defer p.wg.Done()
	c, err := p.greet(g)
	p.lobby.Leave(g)
	if err != nil {
		p.Stats.Refused.Add(1)
		p.complain(g.RemoteAddr(), err)
		_ = g.Close()
		return
	}
	if c.Peer != "" {
		p.lobby.Trust(g.RemoteAddr())
	}
	p.Stats.Accepted.Add(1)
	p.routes[c.Proto].offer(c)
}

// complain writes a line about a connection that was refused, but not more than
// one a minute: strangers can make any number.
func (p *Port) complain(remote net.Addr, err error) {
	line := &p.turned
	var d denied
	if errors.As(err, &d) {
		line = &p.denied
	}
	if !p.closed() {
		line.Warn(p.o.Log, "cluster port: connection refused", zap.Stringer("remote", remote), zap.Error(err))
	}
}

// denied is what Allow says of a node whose certificate a CA of ours has signed.
type denied struct{ error }

func (d denied) Unwrap() error { return d.error }

func (p *Port) greet(raw *Guest) (*Conn, error) {
	tune(raw.Conn)
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTime)
	defer cancel()
	if !p.track(raw, Peer{}, "") {
		return nil, net.ErrClosed
	}
	t := tls.Server(raw, p.server)
	err := t.HandshakeContext(ctx)
	if err != nil {
		p.forget(raw)
		return nil, err
	}
	state := t.ConnectionState()
	c := &Conn{Conn: t, Proto: state.NegotiatedProtocol, forget: func() { p.forget(raw) }}
	if p.routes[c.Proto] == nil {
		p.forget(raw)
		return nil, fmt.Errorf("%w: it asked for no service of ours (%q)", ErrPeer, c.Proto)
	}
	// VerifyConnection has checked the chain of a member; at the join server anybody
	// may show a certificate, and one that is not ours counts for nothing.
	shown, err := p.verify(state.PeerCertificates)
	switch {
	case err == nil:
		c.Shown = shown
	case c.Proto != Join:
		p.forget(raw)
		return nil, err
	}
	if c.Proto != Join {
		c.Peer = shown.Node
		p.track(raw, shown, c.Proto)
	}
	return c, nil
}

// verify checks a peer's chain, and tells of peers of a later generation.
func (p *Port) verify(chain []*x509.Certificate) (Peer, error) {
	peer, err := p.id.Load().verify(chain)
	if errors.Is(err, ErrLater) && p.o.Later != nil {
		p.o.Later(err)
	}
	return peer, err
}

// Probe opens a TCP connection to an address and closes it again. It tells
// whether anything listens there, not what.
func (p *Port) Probe(ctx context.Context, addr string) error {
	raw, err := p.o.Dial(ctx, addr)
	if err != nil {
		return err
	}
	return raw.Close()
}

// Dial connects to a member. The connection is to that node and no other, or
// the call fails with ErrPeer.
func (p *Port) Dial(ctx context.Context, proto, node, addr string) (*Conn, error) {
	if p.closed() {
		return nil, net.ErrClosed
	}
	if err := p.o.Allow(Peer{Node: node}, proto); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	raw, err := p.o.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	tune(raw)
	if !p.track(raw, Peer{Node: node}, proto) {
		_ = raw.Close()
		return nil, net.ErrClosed
	}
	t := tls.Client(raw, p.clientConfig(proto, node))
	if err := t.HandshakeContext(ctx); err != nil {
		p.forget(raw)
		_ = raw.Close()
		return nil, fmt.Errorf("wire: %s at %s: %w", node, addr, err)
	}
	shown, err := p.id.Load().verify(t.ConnectionState().PeerCertificates)
	if err != nil {
		p.forget(raw)
		_ = raw.Close()
		return nil, err
	}
	p.track(raw, shown, proto)
	p.Stats.Dialled.Add(1)
	return &Conn{Conn: t, Peer: node, Proto: proto, forget: func() { p.forget(raw) }}, nil
}

// track remembers a connection, so that Close and CutOff find it.
func (p *Port) track(raw net.Conn, peer Peer, proto string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed() {
		return false
	}
	p.conns[raw] = Link{peer, proto, time.Now()}
	return true
}

func (p *Port) forget(raw net.Conn) {
	p.mu.Lock()
	delete(p.conns, raw)
	p.mu.Unlock()
}

func (p *Port) serverConfig() *tls.Config {
	member := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &p.id.Load().Cert, nil },
		NextProtos:     []string{Raft, RPC, Bulk},
		// The chain is checked in VerifyConnection, against our CAs alone.
		ClientAuth:                  tls.RequireAnyClientCert,
		VerifyPeerCertificate:       plainKey,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			peer, err := p.verify(s.PeerCertificates)
			if err != nil {
				return err
			}
			if err := p.o.Allow(peer, s.NegotiatedProtocol); err != nil {
				return denied{err}
			}
			return nil
		},
	}
	stranger := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: member.GetCertificate,
		NextProtos:     []string{Join},
		// A node that lost touch proves by its certificate who it is.
		ClientAuth:             tls.RequestClientCert,
		VerifyPeerCertificate:  plainKey,
		SessionTicketsDisabled: true,
	}
	outer := member.Clone()
	outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == Join {
			return stranger, nil
		}
		return member, nil
	}
	return outer
}

func (p *Port) clientConfig(proto, node string) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{proto},
		DynamicRecordSizingDisabled: true,
		// Names of hosts mean nothing here: VerifyConnection checks the chain
		// against our CAs and the node's own name.
		InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &p.id.Load().Cert, nil
		},
		VerifyConnection: func(s tls.ConnectionState) error {
			got, err := p.verify(s.PeerCertificates)
			if err != nil {
				return err
			}
			if got.Node != node {
				return fmt.Errorf("%w: %s answered, not %s", ErrPeer, got.Node, node)
			}
			if s.NegotiatedProtocol != proto {
				return fmt.Errorf("%w: it does not speak %s", ErrPeer, proto)
			}
			return p.o.Allow(got, proto)
		},
	}
}

// DialJoin connects to any member of a cluster whose CA has the given
// fingerprint (SHA-256 of the certificate), and returns the certificate of the
// CA that has signed the member's: it is the CA of the fingerprint, or one that
// that CA has signed. Nothing is sent before this was checked. me, if not nil, is
// shown where the other side asks for a certificate.
func DialJoin(ctx context.Context, addr string, fingerprint [32]byte, me *tls.Certificate,
	dial func(context.Context, string) (net.Conn, error)) (*tls.Conn, *x509.Certificate, error) {
	if me == nil {
		me = &tls.Certificate{}
	}
	if dial == nil {
		d := &net.Dialer{Timeout: handshakeTime}
		dial = func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	}
	raw, err := dial(ctx, addr)
	if err != nil {
		return nil, nil, err
	}
	tune(raw)
	var ca *x509.Certificate
	t := tls.Client(raw, &tls.Config{
		MinVersion:           tls.VersionTLS13,
		NextProtos:           []string{Join},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return me, nil },
		InsecureSkipVerify:   true, // checked against the fingerprint below
		VerifyConnection: func(s tls.ConnectionState) error {
			ca, err = pinned(s.PeerCertificates, fingerprint)
			return err
		},
	})
	if err := t.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, nil, err
	}
	if t.ConnectionState().NegotiatedProtocol != Join {
		_ = t.Close()
		return nil, nil, fmt.Errorf("%w: %s is not a cluster port", ErrPeer, addr)
	}
	return t, ca, nil
}

func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 3 * time.Second, Count: 3}
}

// tune sets what every connection between members has: dead peers are noticed
// within seconds, idle or not, and what a link loses is sent again soon.
func tune(c net.Conn) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	_ = t.SetKeepAliveConfig(keepAlive())
	if raw, err := t.SyscallConn(); err == nil {
		_ = setUserTimeout(raw, userTimeout)
		_ = setLinear(raw)
	}
}
