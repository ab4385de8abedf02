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
	if l.CA != "" {
		c.RootCAs = x509.NewCertPool()
		c.RootCAs.AppendCertsFromPEM([]byte(l.CA))
	}
	if l.TLS == VerifyPin {
		c.InsecureSkipVerify, c.VerifyConnection = true, l.pinned
	}
}

// pinned refuses a connection whose certificate is none of Pins, nor has a key of them.
func (l Link) pinned(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the host has no certificate")
	}
	leaf := s.PeerCertificates[0]
	whole, key := sha256.Sum256(leaf.Raw), sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	pins := strings.Split(l.Pins, ",")
	if slices.Contains(pins, hex.EncodeToString(whole[:])) || slices.Contains(pins, hex.EncodeToString(key[:])) {
		return nil
	}
	return fmt.Errorf("the certificate's fingerprint %x, and that of its key %x, are not those of the route", whole, key)
}
