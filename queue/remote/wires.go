package remote

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

const (
	maxPerWire = 256     // questions over one socket in its life
	maxTCP     = 32      // questions at once by TCP
	answerSize = 4 << 10 // of UDP, more than was asked for
)

// wires carry questions to name servers by UDP. Those that are under way share
// their sockets: there are some for hundreds of questions, and none while nobody
// asks. No socket lives for long, so that nobody has the time to find out its
// port, and an answer has to know question, port and a random number.
type wires struct {
	reading *sync.WaitGroup // the sockets' goroutines
	tcp     chan struct{}

	mu      sync.Mutex
	current map[string]*wire // by server
	open    int
}

// wire is a UDP socket. Its fields are guarded by wires.mu.
type wire struct {
	conn    net.Conn
	server  string
	waiting map[uint16]*waiting
	left    int // questions that it takes still
}

// waiting is a question without an answer so far.
type waiting struct {
	heard chan heard // takes one without blocking
}

type heard struct {
	m   *dns.Msg
	err error
}

func newWires(reading *sync.WaitGroup) *wires {
	return &wires{reading: reading, tcp: make(chan struct{}, maxTCP), current: map[string]*wire{}}
}

// udp asks one server. The end of ctx ends the question.
func (w *wires) udp(ctx context.Context, server string, m *dns.Msg) (*dns.Msg, error) {
	one, k, err := w.enter(server, m)
	if err != nil {
		return nil, err
	}
	defer w.leave(one, m.Id)
	packet, err := m.Pack()
	if err != nil {
		return nil, err
	}
	if _, err := one.conn.Write(packet); err != nil {
		return nil, err
	}
	select {
	case h := <-k.heard:
		return h.m, h.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%s does not answer: %w", server, ctx.Err())
	}
}

// enter gives a question a socket and a number.
func (w *wires) enter(server string, m *dns.Msg) (*wire, *waiting, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	one := w.current[server]
	if one == nil || one.left == 0 {
		conn, err := net.Dial("udp", server) // which asks nobody anything
		if err != nil {
			return nil, nil, err
		}
		one = &wire{conn: conn, server: server, waiting: map[uint16]*waiting{}, left: maxPerWire}
		w.current[server] = one
		w.open++
		w.reading.Go(func() { w.read(one) })
	}
	one.left--
	for m.Id = uint16(rand.Uint32()); one.waiting[m.Id] != nil; m.Id = uint16(rand.Uint32()) {
	}
	k := &waiting{make(chan heard, 1)}
	one.waiting[m.Id] = k
	return one, k, nil
}

// leave ends a question, and the socket with the last one.
func (w *wires) leave(one *wire, id uint16) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(one.waiting, id)
	if len(one.waiting) == 0 {
		w.drop(one)
	}
}

// drop closes a socket. It needs w.mu.
func (w *wires) drop(one *wire) {
	if w.current[one.server] == one {
		delete(w.current, one.server)
	}
	if one.left >= 0 {
		one.left = -1
		w.open--
		_ = one.conn.Close()
	}
}

// read hands out answers until the socket is closed.
func (w *wires) read(one *wire) {
	b := make([]byte, answerSize)
	for {
		n, err := one.conn.Read(b)
		if err != nil {
			w.fail(one, err)
			return
		}
		var m dns.Msg
		if err = m.Unpack(b[:n]); n >= 12 { // else it has no number
			w.deliver(one, &m, err)
		}
	}
}

// deliver gives an answer to whoever has asked under its number.
func (w *wires) deliver(one *wire, m *dns.Msg, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := one.waiting[m.Id]
	if k == nil {
		return
	}
	select {
	case k.heard <- heard{m, err}:
	default:
	}
}

// answers reports whether a message is about a question. One that says that the
// question could not be read may leave it out.
func answers(m *dns.Msg, q dns.Question) bool {
	if len(m.Question) == 0 {
		return m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented
	}
	return len(m.Question) == 1 && strings.EqualFold(m.Question[0].Name, q.Name) && m.Question[0].Qtype == q.Qtype
}

// fail ends all questions of a socket, such as when nothing listens there.
func (w *wires) fail(one *wire, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(one)
	for _, k := range one.waiting {
		select {
		case k.heard <- heard{nil, err}:
		default:
		}
	}
}

// stream asks one server by TCP, when it is its turn.
func (w *wires) stream(ctx context.Context, server string, m *dns.Msg) (*dns.Msg, error) {
	select {
	case w.tcp <- struct{}{}:
		defer func() { <-w.tcp }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	client := dns.Client{Net: "tcp", Timeout: perTry}
	conn, err := client.DialContext(ctx, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	m.Id = uint16(rand.Uint32())
	in, _, err := client.ExchangeWithConnContext(ctx, m, conn)
	return in, err
}

// clientKey is where a context names the network for whose sake is asked.
type clientKey struct{}

// ForClient has the questions under a context count for a network of strangers,
// which has at most 32 of all at once; those beyond wait.
func ForClient(ctx context.Context, network netip.Prefix) context.Context {
	return context.WithValue(ctx, clientKey{}, network)
}

// shares are the questions under way by network.
type shares struct {
	mu sync.Mutex
	by map[netip.Prefix]*netShare
}

type netShare struct {
	turns chan struct{}
	users int // who have a turn or wait for one
}

const maxPerNetwork = 32

var errNoTurn = errors.New("too many questions for the same network")

// acquire waits for a turn of the network that ctx names, if it does.
func (s *shares) acquire(ctx context.Context) (release func(), err error) {
	network, ok := ctx.Value(clientKey{}).(netip.Prefix)
	if !ok {
		return func() {}, nil
	}
	s.mu.Lock()
	one := s.by[network]
	if one == nil {
		one = &netShare{turns: make(chan struct{}, maxPerNetwork)}
		s.by[network] = one
	}
	one.users++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(s.by, network)
		}
	}
	select {
	case one.turns <- struct{}{}:
		return func() { <-one.turns; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, fmt.Errorf("%w: %w", errNoTurn, ctx.Err())
	}
}
