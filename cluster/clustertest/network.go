package clustertest

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// network is the wires between the nodes of a Group. Each direction of each
// pair can be cut: octets sent there are held, as by a network that drops packets,
// until the wire is healed or the connection is closed.
type network struct {
	weather atomic.Pointer[Weather] // nil: there is none

	mu    sync.Mutex
	names map[string]string // address → node
	wires map[wire]*path

	refused map[wire]bool // connections that fail at once
}

type wire struct{ from, to string }

func newNetwork() *network {
	return &network{names: map[string]string{}, wires: map[wire]*path{}}
}

func (n *network) register(node, addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[addr] = node
}

func (n *network) path(from, to string) *path {
	n.mu.Lock()
	defer n.mu.Unlock()
	w := wire{from, to}
	if n.wires[w] == nil {
		n.wires[w] = &path{open: closedChannel()}
	}
	return n.wires[w]
}

func (n *network) healAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.wires {
		p.heal()
	}
}

// refuse makes a node's connections to another one fail, or no longer.
func (n *network) refuse(from, to string, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.refused == nil {
		n.refused = map[wire]bool{}
	}
	n.refused[wire{from, to}] = on
}

// dialer is how a node connects to the others.
func (n *network) dialer(from string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		n.mu.Lock()
		to := n.names[addr]
		refused := n.refused[wire{from, to}]
		n.mu.Unlock()
		if refused {
			return nil, syscall.ECONNREFUSED
		}
		there, back := n.path(from, to), n.path(to, from)
		for _, p := range []*path{there, back} {
			if err := p.pass(ctx.Done(), nil); err != nil {
				return nil, err
			}
		}
		weather := n.weather.Load()
		if weather != nil {
			if err := weather.travel(ctx); err != nil {
				return nil, err
			}
		}
		var d net.Dialer
		raw, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		if weather != nil {
			return n.slow(raw, there, back), nil
		}
		return &conn{Conn: raw, out: there, in: back, gone: make(chan struct{})}, nil
	}
}

// path is one direction between two nodes.
type path struct {
	mu   sync.Mutex
	open chan struct{} // closed while traffic flows
}

func closedChannel() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func (p *path) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		p.open = make(chan struct{})
	default:
	}
}

func (p *path) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}

var errCut = errors.New("clustertest: the wire is cut")

// pass waits until the path is open.
func (p *path) pass(gone <-chan struct{}, late <-chan time.Time) error {
	p.mu.Lock()
	open := p.open
	p.mu.Unlock()
	select {
	case <-open:
		return nil
	default:
	}
	select {
	case <-open:
		return nil
	case <-gone:
		return errCut
	case <-late:
		return os.ErrDeadlineExceeded
	}
}

// conn is the dialling side of a connection; it stands for both directions.
type conn struct {
	net.Conn
	out, in *path
	gone    chan struct{}
	once    sync.Once

	mu          sync.Mutex
	read, write time.Time
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		if err := c.hold(c.in, &c.read); err != nil {
			return 0, err
		}
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	if err := c.hold(c.out, &c.write); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *conn) hold(p *path, deadline *time.Time) error {
	c.mu.Lock()
	at := *deadline
	c.mu.Unlock()
	var late <-chan time.Time
	if !at.IsZero() {
		t := time.NewTimer(time.Until(at))
		defer t.Stop()
		late = t.C
	}
	return p.pass(c.gone, late)
}

func (c *conn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	c.read, c.write = t, t
	c.mu.Unlock()
	return c.Conn.SetDeadline(t)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.read = t
	c.mu.Unlock()
	return c.Conn.SetReadDeadline(t)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	c.write = t
	c.mu.Unlock()
	return c.Conn.SetWriteDeadline(t)
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.gone) })
	return c.Conn.Close()
}

// nap waits a moment, or for done.
func nap(done <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-done:
	}
}
