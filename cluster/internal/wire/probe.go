package wire

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
)

// Probe reports, as nil, that a member of some cluster answers at an address: it
// speaks TLS and offers the join service. It says nothing, and believes nothing
// else.
func Probe(ctx context.Context, addr string) error {
	d := &net.Dialer{}
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	t := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{Join},
		InsecureSkipVerify: true, // whose cluster it is does not matter
	})
	defer t.Close()
	if err := t.HandshakeContext(ctx); err != nil {
		return err
	}
	if t.ConnectionState().NegotiatedProtocol != Join {
		return fmt.Errorf("%w: %s is not a cluster port", ErrPeer, addr)
	}
	return nil
}
