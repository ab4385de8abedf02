// Package tlscert holds the certificates that a node shows to its clients, from files and
// by ACME (RFC 8555), and knows whose own certificates may relay.
package tlscert

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"relay/node/config"
)

// Certificates serves certificates from files and reads them again when they
// change. The name that a client asks for (SNI) chooses among them.
type Certificates struct {
	files   []certFiles  // the first is for clients that ask for none of the names
	ACME    *ACMEManager // nil: none. Set before anybody is served
	log     *zap.Logger
	current atomic.Pointer[[]*tls.Certificate]
	stamp   atomic.Uint64 // of the files that are in use
	refused atomic.Uint64 // of those that could not be read, and that the log has heard of
	looked  atomic.Int64
}

// certFiles is one certificate: two files, or one with both parts.
type certFiles struct{ cert, key string }

// recheck is how often a handshake looks at the files' times.
const recheck = 5 * time.Second

// NewCertificates reads the files that [tls] names.
func NewCertificates(t config.TLS, log *zap.Logger) (*Certificates, error) {
	c := &Certificates{log: log}
	if t.Cert != "" {
		c.files = append(c.files, certFiles{t.Cert, t.Key})
	}
	for _, f := range t.Certificates {
		c.files = append(c.files, certFiles{f, f})
	}
	return c, c.Load()
}

// Load reads the files whatever their times; SIGHUP calls it.
func (c *Certificates) Load() error {
	stamp := c.modified()
	pairs := make([]*tls.Certificate, len(c.files))
	for i, f := range c.files {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return fmt.Errorf("read the certificate %s named in [tls]: %w", f.cert, err)
		}
		pairs[i] = &pair
	}
	c.current.Store(&pairs)
	c.stamp.Store(stamp)
	return nil
}

// modified is a digest of what tells one state of the files from another. Which
// of them is the newest says nothing: a file that replaces another may be older
// than its neighbours.
func (c *Certificates) modified() uint64 {
	h := fnv.New64a()
	for _, f := range c.files {
		for _, name := range []string{f.cert, f.key} {
			if st, err := os.Stat(name); err == nil {
				_, _ = fmt.Fprintln(h, st.ModTime().UnixNano(), st.Size())
			}
		}
	}
	return h.Sum64()
}

// refresh reads the files again where they have changed. Files that can not be read
// leave the old ones in use: half-written files are common while they are being
// replaced.
func (c *Certificates) refresh() {
	stamp := c.modified()
	if stamp == c.stamp.Load() {
		return
	}
	switch err := c.Load(); {
	case err == nil:
		c.log.Info("certificates read again")
	case c.refused.Swap(stamp) != stamp:
		c.log.Error("the new certificate files can not be used, the old ones stay", zap.Error(err))
	}
}

// Certificate is one certificate that clients are shown.
type Certificate struct {
	Name string // the file, or the host of ACME
	Leaf *x509.Certificate
}

// InUse lists the certificates of files, in the order of the configuration. A nil
// receiver has none.
func (c *Certificates) InUse() (all []Certificate) {
	if c == nil || c.current.Load() == nil {
		return nil
	}
	for i, pair := range *c.current.Load() {
		all = append(all, Certificate{c.files[i].cert, pair.Leaf})
	}
	return all
}

// get is a tls.Config.GetCertificate.
func (c *Certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	now := time.Now().UnixNano()
	if last := c.looked.Load(); now-last > int64(recheck) && c.looked.CompareAndSwap(last, now) {
		c.refresh()
	}
	pairs := *c.current.Load()
	if len(pairs)+c.ACME.count() > 1 && hello.ServerName != "" {
		for _, pair := range pairs {
			if pair.Leaf.VerifyHostname(hello.ServerName) == nil && hello.SupportsCertificate(pair) == nil {
				return pair, nil
			}
		}
	}
	if pair := c.ACME.find(hello.ServerName, len(pairs) == 0); pair != nil {
		return pair, nil
	}
	if len(pairs) == 0 {
		return nil, errors.New("there is no certificate yet")
	}
	return pairs[0], nil
}

// Config makes the server side's TLS settings. With ask, clients may show a
// certificate of their own; the session decides on its worth.
func (c *Certificates) Config(min string, ask bool) *tls.Config {
	t := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}
	if min == "1.3" {
		t.MinVersion = tls.VersionTLS13
	}
	if ask {
		t.ClientAuth = tls.RequestClientCert
	}
	return t
}

// Relayers knows the certificates whose owners may relay.
type Relayers struct {
	prints map[[sha256.Size]byte]bool
	roots  *x509.CertPool // nil: none
}

// NewRelayers reads the configuration; nil where no certificate is worth
// anything.
func NewRelayers(c config.Relay) (*Relayers, error) {
	if len(c.ClientCertificates) == 0 && c.ClientCA == "" {
		return nil, nil
	}
	r := &Relayers{prints: map[[sha256.Size]byte]bool{}}
	for _, text := range c.ClientCertificates {
		b, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
		if err != nil || len(b) != sha256.Size {
			return nil, fmt.Errorf("[relay] client_certificates: %q is not a SHA-256 fingerprint", text)
		}
		r.prints[[sha256.Size]byte(b)] = true
	}
	if c.ClientCA != "" {
		data, err := os.ReadFile(c.ClientCA)
		if err != nil {
			return nil, fmt.Errorf("read [relay] client_ca: %w", err)
		}
		r.roots = x509.NewCertPool()
		if !r.roots.AppendCertsFromPEM(data) {
			return nil, errors.New("[relay] client_ca holds no certificate")
		}
	}
	return r, nil
}

// May reports whether the client of a connection may relay. The handshake has
// proved that it has the certificate's key.
func (r *Relayers) May(s *tls.ConnectionState) bool {
	if r == nil || s == nil || len(s.PeerCertificates) == 0 {
		return false
	}
	leaf := s.PeerCertificates[0]
	if r.prints[sha256.Sum256(leaf.Raw)] {
		return true
	}
	if r.roots == nil {
		return false
	}
	between := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: r.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err == nil
}

// TLSText describes a connection's TLS for Received, history and logs.
func TLSText(s *tls.ConnectionState) string {
	if s == nil {
		return ""
	}
	version, cipher := TLSNames(s)
	return version + " " + cipher
}

// TLSNames names the version and the cipher of a connection's TLS.
func TLSNames(s *tls.ConnectionState) (version, cipher string) {
	return tls.VersionName(s.Version), tls.CipherSuiteName(s.CipherSuite)
}
