// Package dkimkey makes and reads the keys that sign by DKIM (RFC 6376, RFC 8463).
package dkimkey

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strings"

	pb "relay/cluster/spool/spoolpb"
)

// Algorithms of signing keys.
const (
	RSA     = "rsa"
	Ed25519 = "ed25519"
)

// New makes a signing key: RSA of 2048 bits, which everybody can check,
// or Ed25519 (RFC 8463).
func New(domain, selector, algorithm string) (*pb.DkimKey, error) {
	var key any
	var err error
	switch algorithm {
	case RSA:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case Ed25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, fmt.Errorf("%q is neither rsa nor ed25519", algorithm)
	}
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return &pb.DkimKey{Domain: domain, Selector: selector, Algorithm: algorithm, Private: der}, err
}

// Signer reads the private key.
func Signer(k *pb.DkimKey) (crypto.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(k.Private)
	if err != nil {
		return nil, fmt.Errorf("signing key %s of %s: %w", k.Selector, k.Domain, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("signing key %s of %s can not sign", k.Selector, k.Domain)
	}
	return signer, nil
}

// Record is what DNS must say of a key, at SELECTOR._domainkey.DOMAIN.
func Record(k *pb.DkimKey) (string, error) {
	signer, err := Signer(k)
	if err != nil {
		return "", err
	}
	var public []byte
	switch p := signer.Public().(type) {
	case ed25519.PublicKey:
		public = p // RFC 8463 §4: the bare key
	default:
		if public, err = x509.MarshalPKIXPublicKey(p); err != nil {
			return "", err
		}
	}
	return "v=DKIM1; k=" + k.Algorithm + "; p=" + base64.StdEncoding.EncodeToString(public), nil
}

// PublicKey is the tag p of a record, without blanks; empty where it has none.
func PublicKey(record string) string {
	for tag := range strings.SplitSeq(record, ";") {
		if name, value, ok := strings.Cut(tag, "="); ok && strings.TrimSpace(name) == "p" {
			return strings.Join(strings.Fields(value), "")
		}
	}
	return ""
}
