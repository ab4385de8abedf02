package wire

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
)

// ErrFingerprint says that the cluster at an address is not the one a join
// token was made by.
var ErrFingerprint = errors.New("wire: the CA's fingerprint does not match the token")

// pinned finds the CA of the given fingerprint in a chain, checks that it vouches
// for the leaf, itself or by having signed the CA that did, and returns the CA
// that signed the leaf. Dates are not judged: the fingerprint is the trust.
func pinned(chain []*x509.Certificate, fingerprint [32]byte) (*x509.Certificate, error) {
	for _, ca := range chain {
		sum := sha256.Sum256(ca.Raw)
		if subtle.ConstantTimeCompare(sum[:], fingerprint[:]) != 1 {
			continue
		}
		signer := signerOf(chain)
		if !ca.IsCA || signer == nil || !vouches(ca, signer, chain) {
			return nil, fmt.Errorf("%w: it did not sign what the other side shows", ErrFingerprint)
		}
		return signer, nil
	}
	return nil, ErrFingerprint
}

// signerOf finds the CA, a root by its own signature, that signed the leaf of a
// chain; nil: there is none.
func signerOf(chain []*x509.Certificate) *x509.Certificate {
	for _, ca := range chain[1:] {
		if ca.IsCA && ca.CheckSignatureFrom(ca) == nil && signedBy(chain[0], ca) == nil {
			return ca
		}
	}
	return nil
}

// vouches reports whether a CA is the signer, or has signed its key: after a
// rotation the chain has the present CA as the one before signed it, too.
func vouches(ca, signer *x509.Certificate, chain []*x509.Certificate) bool {
	for _, c := range chain[1:] {
		same := bytes.Equal(c.RawSubjectPublicKeyInfo, signer.RawSubjectPublicKeyInfo)
		if same && c.IsCA && c.CheckSignatureFrom(ca) == nil {
			return true
		}
	}
	return false
}
