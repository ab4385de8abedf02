package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"relay/cluster/internal/wire"
)

const (
	caLife = 20 * 365 * 24 * time.Hour
	// LongLife is for certificates of before cluster version 2, which nobody renews.
	LongLife = 10 * 365 * 24 * time.Hour
	// Clocks of nodes may differ; a certificate must not be of tomorrow.
	backdate = 24 * time.Hour
)

// authority is a cluster's own CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes a CA for a cluster of that name.
func NewAuthority(name string, now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          newSerial(0),
		Subject:               pkix.Name{CommonName: "relay cluster " + name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key}, err
}

// OpenAuthority reads a CA from PEM.
func OpenAuthority(certPEM, keyPEM []byte) (*authority, error) {
	cert, err := ParseCert(certPEM)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("cluster: the CA's key is not PEM")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	return &authority{cert, key}, nil
}

func (a *authority) CertPEM() []byte { return CertPEM(a.cert.Raw) }

func (a *authority) KeyPEM() ([]byte, error) { return keyPEM(a.key) }

// Cross signs the CA that a rotation changes to, for those who know this one
// only. It returns PEM.
func (a *authority) Cross(next *authority) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, next.cert, a.cert, &next.key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return CertPEM(der), nil
}

// Subject is whom a certificate is for, and for how long.
type Subject struct {
	Cluster, Node string
	Now           time.Time
	Life          time.Duration
	Index         uint64 // applied by the signer: later certificates have greater serials
}

// Sign makes a node's certificate for the key of a CSR. Nothing else of the
// request is believed: the name is the CA's to give.
func (a *authority) Sign(csr *x509.CertificateRequest, s Subject) ([]byte, error) {
	template := &x509.Certificate{
		SerialNumber: newSerial(s.Index),
		Subject:      pkix.Name{CommonName: s.Node},
		NotBefore:    s.Now.Add(-backdate),
		NotAfter:     s.Now.Add(s.Life),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{wire.NodeURI(s.Cluster, s.Node)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, csr.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return CertPEM(der), nil
}

// ParseRequest reads a CSR. Its signature is checked only where its key is of the
// kind that nodes have: others can cost much time.
func ParseRequest(der []byte) (*x509.CertificateRequest, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	if err := wire.PlainKey(csr.PublicKey); err != nil {
		return nil, err
	}
	return csr, csr.CheckSignature()
}

// NewRequest makes a key and a CSR for it.
func NewRequest(node string) (keyPEMBytes, csrDER []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	csrDER, err = x509.CreateCertificateRequest(rand.Reader,
		&x509.CertificateRequest{Subject: pkix.Name{CommonName: node}}, key)
	if err != nil {
		return nil, nil, err
	}
	keyPEMBytes, err = keyPEM(key)
	return keyPEMBytes, csrDER, err
}

// newSerial makes a serial number: an index, then 8 random octets.
func newSerial(index uint64) *big.Int {
	b := binary.BigEndian.AppendUint64(nil, index)
	b = append(b, make([]byte, SerialSize-len(b))...)
	_, _ = rand.Read(b[8:])
	b[8] |= 0x80 // never 0, whatever the index
	return new(big.Int).SetBytes(b)
}

// CertPEM writes a certificate as PEM.
func CertPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// ParseCert reads one certificate from PEM.
func ParseCert(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("cluster: not a PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// parseCerts reads any number of certificates.
func parseCerts(text string) (all []*x509.Certificate, err error) {
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return all, nil
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, cert)
	}
}
