package records

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"slices"
	"strings"

	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/queue/remote"
	"relay/smtp/printable"
)

const (
	maxPins    = 16
	maxRouteCA = 64 << 10 // octets of PEM
)

// tlsOf is what a route says of TLS.
func tlsOf(r *pb.Route) admin.RouteTLS {
	t := admin.RouteTLS{TLS: r.Tls, ImplicitTLS: r.ImplicitTls, TLSCA: r.TlsCa}
	for _, p := range r.Fingerprints {
		t.Fingerprints = append(t.Fingerprints, hex.EncodeToString(p))
	}
	return t
}

// setTLS checks what an operator says of TLS and puts it into a route.
func setTLS(r *pb.Route, t admin.RouteTLS) (err error) {
	if r.Tls, err = tlsPolicy(t); err != nil {
		return err
	}
	if r.Fingerprints, err = pins(t.Fingerprints); err != nil {
		return err
	}
	if r.TlsCa, err = routeCA(t.TLSCA); err != nil {
		return err
	}
	if r.Tls == "" && !t.ImplicitTLS {
		return nil
	}
	r.ImplicitTls = t.ImplicitTLS
	to, err := remote.ParseTarget(r.Target)
	switch {
	case err != nil:
		return err
	case to.Kind == remote.Discard || to.Kind == remote.HTTPS:
		return admin.Invalid("--tls and --implicit-tls are for mx, smtp: and lmtp: routes")
	case to.Kind == remote.MX && t.ImplicitTLS:
		return admin.Invalid("mail hosts of the domain's own (mx) have no implicit TLS: name the host, as smtp:HOST:465")
	case t.ImplicitTLS:
		if r.Target, err = port465(r.Target); err != nil {
			return err
		}
		for i := range r.More {
			if r.More[i], err = port465(r.More[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// port465 is a target with the port of RFC 8314 §7.3 where it has none.
func port465(target string) (string, error) {
	to, err := remote.ParseTarget(target)
	if err == nil && to.Port == 0 {
		to.Port = 465
		return to.String(), nil
	}
	return target, err
}

var policies = []string{"none", "opportunistic", "encrypt", "verify", "dane", "fingerprint"}

// tlsPolicy checks the policy and that all options go together.
func tlsPolicy(t admin.RouteTLS) (string, error) {
	p := strings.ToLower(strings.TrimSpace(t.TLS))
	if p == "" && len(t.Fingerprints) > 0 {
		p = "fingerprint"
	}
	if p == "" && t.TLSCA != "" {
		p = "verify"
	}
	switch {
	case p != "" && !slices.Contains(policies, p):
		return "", admin.Invalid("--tls %s is none of none, opportunistic, encrypt, verify, dane and fingerprint",
			printable.Text(t.TLS, 32))
	case p == "none" && t.ImplicitTLS:
		return "", admin.Invalid("--implicit-tls and --tls none exclude each other")
	case p == "fingerprint" && len(t.Fingerprints) == 0:
		return "", admin.Invalid("--tls fingerprint needs --fingerprint: the SHA-256 of the host's certificate or of its " +
			"public key, as 'openssl x509 -fingerprint -sha256 -noout' prints it")
	case p != "fingerprint" && len(t.Fingerprints) > 0:
		return "", admin.Invalid("--fingerprint goes with --tls fingerprint, not with %s", p)
	case p != "verify" && t.TLSCA != "":
		return "", admin.Invalid("--tls-ca goes with --tls verify, not with %s", p)
	}
	return p, nil
}

// pins reads fingerprints as programs print them: with colons or without, in any case.
func pins(texts []string) (all [][]byte, err error) {
	if len(texts) > maxPins {
		return nil, admin.Invalid("at most %d fingerprints", maxPins)
	}
	for _, text := range texts {
		p, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(text), ":", ""))
		if err != nil || len(p) != sha256.Size {
			return nil, admin.Invalid("%q is not a SHA-256 fingerprint of 64 hexadecimal digits, as "+
				"'openssl x509 -fingerprint -sha256 -noout' prints it", printable.Text(text, MaxName))
		}
		all = append(all, p)
	}
	return all, nil
}

// routeCA checks the certificates of --tls-ca.
func routeCA(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	return certificates("--tls-ca", text)
}

// certificates checks that a text holds certificates and nothing else, such as a key.
func certificates(option, text string) (string, error) {
	if len(text) > maxRouteCA {
		return "", admin.Invalid("the certificates of %s are larger than 64 KiB", option)
	}
	var kept strings.Builder
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return "", admin.Invalid("%s holds a %s: give a file with certificates only",
				option, printable.Text(block.Type, MaxName))
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", admin.Invalid("%s holds a certificate that can't be read: %v", option, err)
		}
		_ = pem.Encode(&kept, &pem.Block{Type: block.Type, Bytes: block.Bytes})
	}
	if kept.Len() == 0 {
		return "", admin.Invalid("%s holds no certificate in PEM", option)
	}
	return kept.String(), nil
}
