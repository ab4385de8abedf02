package wire

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
)

// ErrFingerprint says that the cluster at an address is not the one a join
// token was made by.
var ErrFingerprint = errors.New("wire: the CA's fingerprint does not match the token")

// pinned finds the CA of the given fingerprint in a chain and checks that it
// signed the leaf.
func pinned(chain []*x509.Certificate, fingerprint [32]byte) (*x509.Certificate, error) {
	for _, ca := range chain {
		sum := sha256.Sum256(ca.Raw)
		if subtle.ConstantTimeCompare(sum[:], fingerprint[:]) != 1 {
			continue
		}
		if !ca.IsCA {
			return nil, ErrFingerprint
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFingerprint, err)
		}
		return ca, nil
	}
	return nil, ErrFingerprint
}
