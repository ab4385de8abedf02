package wire

import (
	"crypto/tls"
	"net"
	"sync"
)

// Conn is an authenticated connection. Peer is the node at the other end, and
// Shown the certificate by which an inbound one was let in; both are empty on a
// join connection. The fields never change.
type Conn struct {
	*tls.Conn
	Peer  string
	Shown Peer
	Proto string

	forget func()
	once   sync.Once
}

// Close closes the connection. It may be called more than once and from any
// goroutine; a blocked Read or Write returns.
func (c *Conn) Close() error {
	var err error
	c.once.Do(func() {
		c.forget()
		err = c.Conn.Close()
	})
	return err
}

// listener hands out the connections of one protocol.
type listener struct {
	port  *Port
	proto string
	conns chan *Conn
	once  sync.Once
	done  chan struct{}
}

// Accept waits for the next connection of the protocol.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
	case <-l.port.done:
	}
	return nil, net.ErrClosed
}

// Close ends this protocol's part of the port; the port itself stays open.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr is the address of the shared port.
func (l *listener) Addr() net.Addr { return l.port.Addr() }

func (l *listener) offer(c *Conn) {
	select {
	case l.conns <- c:
	case <-l.done:
		_ = c.Close()
	case <-l.port.done:
		_ = c.Close()
	}
}
