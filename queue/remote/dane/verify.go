package dane

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Errors of Verify.
var (
	ErrNoCertificate = errors.New("the host has no certificate")
	ErrMismatch      = errors.New("the host's certificate is none of those that its TLSA records name")
)

const maxChain = 16 // certificates of a host that are looked at

// parses reports whether a record that holds a whole certificate or key can be read.
func (r Record) parses() bool {
	var err error
	if r.Selector == selectCert {
		_, err = x509.ParseCertificate(r.Data)
	} else {
		_, err = x509.ParsePKIXPublicKey(r.Data)
	}
	return err == nil
}

// Verify judges the certificates that a host has shown, its own one first, by records that Usable has returned. names
// are those of which the host must have one where a CA's record vouches for it; for a record of the host's own
// certificate neither names nor dates count (RFC 7672 §3.1.1).
func Verify(chain []*x509.Certificate, records []Record, names []string, now time.Time) error {
	if len(chain) == 0 {
		return ErrNoCertificate
	}
	chain = chain[:min(len(chain), maxChain)]
	failed := ErrMismatch
	for _, r := range records {
		if r.Usage == UsageEE && r.matches(chain[0].Raw, chain[0].RawSubjectPublicKeyInfo) {
			return nil
		}
	}
	for _, r := range records {
		if r.Usage != UsageTA {
			continue
		}
		for _, anchor := range r.anchors(chain) {
			err := vouched(chain, anchor, names, now)
			if err == nil {
				return nil
			}
			failed = err
		}
	}
	return failed
}

// anchors are the certificates that a CA's record makes trusted: those of the chain that it names, the one that it
// holds, or those of the chain that the key which it holds has signed.
func (r Record) anchors(chain []*x509.Certificate) []*x509.Certificate {
	var all []*x509.Certificate
	for _, c := range chain[1:] {
		if r.matches(c.Raw, c.RawSubjectPublicKeyInfo) {
			all = append(all, c)
		}
	}
	if len(all) > 0 || r.Matching != matchFull {
		return all
	}
	if r.Selector == selectCert {
		if c, err := x509.ParseCertificate(r.Data); err == nil {
			all = append(all, c)
		}
		return all
	}
	return signedBy(r.Data, chain)
}

// signedBy are the certificates that a bare key has signed.
func signedBy(key []byte, chain []*x509.Certificate) []*x509.Certificate {
	public, err := x509.ParsePKIXPublicKey(key)
	if err != nil {
		return nil
	}
	ca := &x509.Certificate{PublicKey: public}
	var all []*x509.Certificate
	for _, c := range chain {
		if ca.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil {
			all = append(all, c)
		}
	}
	return all
}

// vouched checks that a CA's certificate has vouched for the host's, and that this one is for one of the names.
func vouched(chain []*x509.Certificate, anchor *x509.Certificate, names []string, now time.Time) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(anchor)
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now})
	if err != nil {
		return fmt.Errorf("the CA of its TLSA records does not vouch for it: %w", err)
	}
	for _, name := range names {
		if isFor(chain[0], name) {
			return nil
		}
	}
	return fmt.Errorf("the host's certificate is not for %s", strings.Join(names, " or "))
}

// isFor reports whether a certificate is for a name: by its DNS names, or by its common name where it has none of
// them (RFC 7672 §3.2.3).
func isFor(c *x509.Certificate, name string) bool {
	if len(c.DNSNames) > 0 {
		return c.VerifyHostname(name) == nil
	}
	common := strings.ToLower(c.Subject.CommonName)
	name = strings.ToLower(name)
	if rest, ok := strings.CutPrefix(common, "*."); ok {
		_, parent, _ := strings.Cut(name, ".")
		return rest != "" && parent == rest
	}
	return common != "" && common == name
}
