package remote

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync"
)

// Cert is a certificate that is shown to hosts which ask for one. It is made once for each record of it, as links
// compare it. Its methods may be called concurrently.
type Cert struct {
	route string
	pem   []byte
	key   func(context.Context) ([]byte, error)

	mu   sync.Mutex
	read *tls.Certificate // nil: not yet
}

// NewCert makes the certificate of a route, in PEM. key is asked for the key, in PEM, until it has told it, and may
// wait.
func NewCert(route, pem string, key func(context.Context) ([]byte, error)) *Cert {
	return &Cert{route: route, pem: []byte(pem), key: key}
}

// show is tls.Config.GetClientCertificate.
func (c *Cert) show(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.read != nil {
		return c.read, nil
	}
	key, err := c.key(info.Context())
	if err != nil {
		return nil, fmt.Errorf("route %s: the key of its certificate can not be read: %w", c.route, err)
	}
	pair, err := tls.X509KeyPair(c.pem, key)
	if err != nil {
		return nil, fmt.Errorf("route %s: %w", c.route, err)
	}
	c.read = &pair
	return c.read, nil
}
