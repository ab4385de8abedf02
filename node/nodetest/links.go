package nodetest

import (
	"context"
	"errors"
	"net"
	"sync"
)

// links are the connections between the nodes of a Cluster, so that a test can
// cut them.
type links struct {
	mu    sync.Mutex
	names map[string]string  // cluster address → node
	cut   map[[2]string]bool // from, to
	open  map[*link]struct{}
}

type link struct {
	net.Conn
	all      *links
	from, to string
}

func newLinks() *links {
	return &links{names: map[string]string{}, cut: map[[2]string]bool{}, open: map[*link]struct{}{}}
}

var errCut = errors.New("nodetest: the link is cut")

// name says which node listens at an address.
func (l *links) name(addr, node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names[addr] = node
}

// dial is the node.Options.Dial of one node.
func (l *links) dial(from string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		l.mu.Lock()
		to := l.names[addr]
		cut := l.cut[[2]string{from, to}]
		l.mu.Unlock()
		if cut {
			return nil, errCut
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		c := &link{conn, l, from, to}
		l.mu.Lock()
		l.open[c] = struct{}{}
		cut = l.cut[[2]string{from, to}]
		l.mu.Unlock()
		if cut {
			_ = c.Close()
			return nil, errCut
		}
		return c, nil
	}
}

// Close implements net.Conn.
func (c *link) Close() error {
	c.all.mu.Lock()
	delete(c.all.open, c)
	c.all.mu.Unlock()
	return c.Conn.Close()
}

// set cuts or heals the connections that one node opens to another.
func (l *links) set(from, to string, cut bool) {
	l.mu.Lock()
	var drop []*link
	l.cut[[2]string{from, to}] = cut
	for c := range l.open {
		if cut && c.from == from && c.to == to {
			drop = append(drop, c)
		}
	}
	l.mu.Unlock()
	for _, c := range drop {
		_ = c.Close()
	}
}

// Isolate cuts a node off from all others; its clients still reach it.
func (c *Cluster) Isolate(m *Member) { c.setLinks(m, true, true) }

// Starve has a node fall behind: the entries that the others have for it do not come,
// but they answer its questions. It goes on for as long as the node may be silent
// before it stands for election (Tuning.Heartbeat).
func (c *Cluster) Starve(m *Member) { c.setLinks(m, false, true) }

// Heal joins a node to all others again.
func (c *Cluster) Heal(m *Member) { c.setLinks(m, false, false) }

func (c *Cluster) setLinks(m *Member, outward, inward bool) {
	for _, other := range c.Nodes {
		if other != m {
			c.links.set(m.ID, other.ID, outward)
			c.links.set(other.ID, m.ID, inward)
		}
	}
}
