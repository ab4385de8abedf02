package node

import (
	"errors"
	"net"
	"net/netip"
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
// balancer's own rights.
func proxied(l net.Listener, from []netip.Prefix) net.Listener {
	return balancers{&proxyproto.Listener{Listener: l, ReadHeaderTimeout: headerTimeout,
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

type balancers struct{ *proxyproto.Listener }

// Accept implements net.Listener.
func (b balancers) Accept() (net.Conn, error) {
	conn, err := b.Listener.Accept()
	if p, ok := conn.(*proxyproto.Conn); ok && err == nil {
		return relayed{p}, nil
	}
	return conn, err
}

// relayed is a connection that came through a load balancer.
type relayed struct{ *proxyproto.Conn }

// RemoteAddr is the client's address, which the header tells. Without a header
// that can be read nobody is served: it would be with the rights of the load
// balancer.
func (r relayed) RemoteAddr() net.Addr {
	if r.ProxyHeader() == nil {
		_ = r.Close()
	}
	return r.Conn.RemoteAddr()
}

// NetConn is the connection with the load balancer.
func (r relayed) NetConn() net.Conn { return r.Raw() }

// CloseWrite lets a server say its last words before it closes.
func (r relayed) CloseWrite() error {
	if t, ok := r.TCPConn(); ok {
		return t.CloseWrite()
	}
	return errors.ErrUnsupported
}
