package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certificateLife is what browsers and mail programs still accept.
const certificateLife = 397 * 24 * time.Hour

// writeCertificate makes a key and a certificate for host names and addresses.
// If caPath is named, a private authority signs it and is left there; its key
// is thrown away, so it can never sign another. Else it signs itself.
func writeCertificate(certPath, keyPath, caPath string, hosts []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leaf := template(hosts[0])
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, h)
		}
	}
	parent, signer := leaf, key
	var ca []byte
	if caPath != "" {
		if parent, signer, ca, err = newAuthority(); err != nil {
			return err
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, parent, &key.PublicKey, signer)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for _, path := range []string{certPath, keyPath, caPath} {
		if err := makeDir(filepath.Dir(path)); err != nil {
			return err
		}
	}
	err = errors.Join(writeFile(keyPath, encode("PRIVATE KEY", secret), 0o600),
		writeFile(certPath, encode("CERTIFICATE", der), 0o644))
	if caPath != "" {
		err = errors.Join(err, writeFile(caPath, ca, 0o644))
	}
	return err
}

// newAuthority makes a CA for one use.
func newAuthority() (*x509.Certificate, *ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	ca := template("relay private CA")
	ca.IsCA, ca.BasicConstraintsValid, ca.MaxPathLenZero = true, true, true
	ca.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		return nil, nil, nil, err
	}
	ca, err = x509.ParseCertificate(der)
	return ca, key, encode("CERTIFICATE", der), err
}

func template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour), // clocks differ
		NotAfter:     time.Now().Add(certificateLife),
	}
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// expired reports whether a certificate file is missing, broken or ends within
// a week.
func expired(path string) bool {
	data, err := os.ReadFile(path)
	if err != nil {
		return true
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return true
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	return err != nil || time.Until(cert.NotAfter) < 7*24*time.Hour
}
