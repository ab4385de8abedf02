package remote

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// judge says in a configuration of TLS which certificates count: by name and CA, the
// route's where it has one, or by fingerprint alone.
func (l Link) judge(c *tls.Config) {
	pools := []*x509.CertPool{}
	for text := range strings.SplitSeq(l.CA, caTexts) {
		pool := c.RootCAs
		if text != "" {
			pool = x509.NewCertPool()
			pool.AppendCertsFromPEM([]byte(text))
		}
		pools = append(pools, pool)
	}
	c.RootCAs = pools[0]
	switch {
	case l.TLS == VerifyPin:
		c.InsecureSkipVerify, c.VerifyConnection = true, l.pinned
	case len(pools) > 1:
		c.VerifyConnection = func(s tls.ConnectionState) error { return vouched(s, pools[1:]) }
	}
}

// vouched refuses a connection whose certificate, which one CA has vouched for, some other
// one that has to does not know.
func vouched(s tls.ConnectionState, pools []*x509.CertPool) error {
	between := x509.NewCertPool()
	for _, one := range s.PeerCertificates[1:] {
		between.AddCert(one)
	}
	for _, pool := range pools {
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: between})
		if err != nil {
			return fmt.Errorf("two routes to the host go by different CAs: %w", err)
		}
	}
	return nil
}

// pinned refuses a connection where the certificate is none of Pins, nor has a key of them.
func (l Link) pinned(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the host has no certificate")
	}
	leaf := s.PeerCertificates[0]
	whole, key := sha256.Sum256(leaf.Raw), sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	for list := range strings.SplitSeq(l.Pins, pinLists) {
		pins := strings.Split(list, ",")
		if !slices.Contains(pins, hex.EncodeToString(whole[:])) && !slices.Contains(pins, hex.EncodeToString(key[:])) {
			return fmt.Errorf("the certificate's fingerprint %x, and that of its key %x, are not those of the route",
				whole, key)
		}
	}
	return nil
}
