package node

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"
)

// headerTimeout is how long a load balancer may take for its header.
const headerTimeout = 5 * time.Second

// proxied wants a PROXY header from the configured load balancers and takes
// none from anybody else. The header is read where a connection is served, not
// by Accept.
//
// Behind a load balancer everything goes by the address in its PROXY header: trust, limits, lists,
// greylisting, history. The header is no talking before the greeting, and the pause begins behind it.
// A connection from there without a header that can be read is closed unserved: it would have the
// balancer's own rights. closed hears of each such connection, once.
func proxied(l net.Listener, from []netip.Prefix, closed func(balancer net.Addr, err error)) net.Listener {
	return balancers{closed: closed, Listener: &proxyproto.Listener{Listener: l, ReadHeaderTimeout: headerTimeout,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			a, err := netip.ParseAddrPort(o.Upstream.String())
			if err != nil {
				return proxyproto.REJECT, err
			}
			for _, p := range from {
				if p.Contains(a.Addr().Unmap()) {
					return proxyproto.REQUIRE, nil
				}
			}
			return proxyproto.SKIP, nil
		}}}
}

type balancers struct {
	*proxyproto.Listener
	closed func(balancer net.Addr, err error)
}

// Accept implements net.Listener.
func (b balancers) Accept() (net.Conn, error) {
	conn, err := b.Listener.Accept()
	if p, ok := conn.(*proxyproto.Conn); ok && err == nil {
		return &relayed{Conn: p, closed: b.closed}, nil
	}
	return conn, err
}

// relayed is a connection that came through a load balancer.
type relayed struct {
	*proxyproto.Conn
	closed func(balancer net.Addr, err error)
	once   sync.Once
}

// RemoteAddr is the client's address, which the header tells. Without a header
// that can be read nobody is served: it would be with the rights of the load
// balancer.
func (r *relayed) RemoteAddr() net.Addr {
	if r.ProxyHeader() == nil {
		r.once.Do(func() {
			_, err := r.Read(nil) // what was wrong with the header
			r.closed(r.Raw().RemoteAddr(), err)
			_ = r.Close()
		})
	}
	return r.Conn.RemoteAddr()
}

// NetConn is the connection with the load balancer.
func (r *relayed) NetConn() net.Conn { return r.Raw() }

// CloseWrite lets a server say its last words before it closes.
func (r *relayed) CloseWrite() error {
	if t, ok := r.TCPConn(); ok {
		return t.CloseWrite()
	}
	return errors.ErrUnsupported
}
