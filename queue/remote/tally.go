package remote

import (
	"crypto/x509"
	"errors"
	"strings"

	"relay/queue/remote/mtasts"
	"relay/queue/remote/tlsrpt"
)

// failure is what an error of TLS is called in reports (RFC 8460 §4.3).
func failure(err error) string {
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return tlsrpt.HostMismatch
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return tlsrpt.Expired
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return tlsrpt.NotTrusted
	}
	return tlsrpt.Invalid
}

// tally tells of a session with a host whose domain publishes a policy: of one that was opened, or did not come about
// for a reason of TLS.
func (d *delivery) tally(h hop, k key, c *conn, f *fault) {
	if d.a.conf.Tally == nil || !h.mx || c != nil && c.idle || f != nil && f.tls == "" {
		return
	}
	s := &tlsrpt.Session{Domain: d.domain(), Host: h.name}
	if h.addr.Addr().IsValid() {
		s.IP = h.addr.Addr().String()
	}
	kind := k.proof.kind
	if f != nil {
		kind, s.Failure, s.Reason = f.proof, f.tls, f.text
	}
	switch {
	case kind == byDANE || kind == anyCert:
		s.Kind = tlsrpt.TLSA
		if k.proof.records != "" {
			s.Strings = strings.Split(k.proof.records, ",")
		}
	case d.sts == nil:
		return
	case kind == noProof && f == nil && d.sts.Mode == mtasts.Testing:
		s.Failure, s.Reason = d.wouldMiss(c)
		fallthrough
	case kind == bySTS:
		s.Kind, s.MX = tlsrpt.STS, d.sts.MX
		s.Strings = strings.Split(strings.TrimSuffix(d.sts.Text(), "\n"), "\n")
	default:
		return
	}
	d.a.conf.Tally(s)
}
