// Package webguard asks web servers that strangers name: MTA-STS policies and the like. Nobody outside can make the
// relay talk to its own machine or network by it. Every address is judged when it is dialled, whatever DNS said
// before; no proxy is used and no redirect is followed; answers are bounded in size and in time.
package webguard

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// Bounds of one question.
const (
	MaxAnswer   = 64 << 10 // octets of a body
	Timeout     = 60 * time.Second
	maxHeader   = 32 << 10
	maxTried    = 4 // addresses of a host
	dialTimeout = 10 * time.Second
)

// Errors of a question.
var (
	ErrForbidden = errors.New("the address is not one of the public internet")
	ErrTooLong   = errors.New("the answer is larger than 64 KiB")
)

// Options of a Client.
type Options struct {
	// Resolve returns the addresses of a host. Required.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Roots are the CAs that count; nil: the system's.
	Roots *x509.CertPool
	// Loopback lets questions go to loopback addresses; for tests whose DNS points there.
	Loopback bool
}

// Client asks. It is safe for concurrent use and holds no connection between questions.
type Client struct{ http http.Client }

// New makes a Client.
func New(o Options) *Client {
	d := dialer{o}
	return &Client{http.Client{
		Timeout: Timeout,
		Transport: &http.Transport{
			DialContext: d.dial, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
			TLSHandshakeTimeout: dialTimeout, TLSClientConfig: &tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Do asks, and returns the answer with its body. A URL that is not https, or has a user in it, is refused, as is a body
// of more than MaxAnswer octets.
func (c *Client) Do(r *http.Request) (*http.Response, []byte, error) {
	if r.URL.Scheme != "https" || r.URL.User != nil {
		return nil, nil, fmt.Errorf("%q is not a plain https address", r.URL.Redacted())
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxAnswer+1))
	if err == nil && len(body) > MaxAnswer {
		err = ErrTooLong
	}
	return resp, body, err
}

type dialer struct{ Options }

// dial connects to the first address of a host that may be asked and answers.
func (d dialer) dial(ctx context.Context, network, to string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(to)
	if err != nil {
		return nil, err
	}
	addrs := []netip.Addr{}
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, a)
	} else if addrs, err = d.Resolve(ctx, host); err != nil {
		return nil, err
	}
	err = ErrForbidden
	tried := 0
	for _, a := range addrs {
		if !d.may(a) || tried == maxTried {
			continue
		}
		tried++
		nd := net.Dialer{Timeout: dialTimeout, Control: d.control}
		conn, e := nd.DialContext(ctx, network, net.JoinHostPort(a.String(), port))
		if e == nil {
			return conn, nil
		}
		err = e
	}
	return nil, err
}

// control is the last look, at the address that the kernel is given.
func (d dialer) control(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil || !d.may(a.Addr()) {
		return ErrForbidden
	}
	return nil
}

func (d dialer) may(a netip.Addr) bool {
	return Public(a) || d.Loopback && a.Unmap().IsLoopback()
}
