package verify

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

const (
	maxKeyText = 4096 // octets of a key's record
	maxKeyBits = 8192 // of an RSA key
)

// errKey makes a signature fail for good: no honest signer has such a key, and
// to check one would take seconds of a processor.
var errKey = errors.New("verify: the key is too large")

// boundKeys refuses key records that cost too much. The check itself sees to records
// that cannot be read.
func boundKeys(records []string) error {
	for _, r := range records {
		if len(r) > maxKeyText {
			return fmt.Errorf("%w: a record of %d octets", errKey, len(r))
		}
		if bits := rsaBits(r); bits > maxKeyBits {
			return fmt.Errorf("%w: %d bits", errKey, bits)
		}
	}
	return nil
}

// rsaBits is the size of the RSA key in a record (RFC 6376 §3.6.1), 0 where
// there is none.
func rsaBits(record string) int {
	for tag := range strings.SplitSeq(record, ";") {
		name, value, _ := strings.Cut(tag, "=")
		if strings.TrimSpace(name) != "p" {
			continue
		}
		der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(value), ""))
		if err != nil {
			return 0
		}
		if key, err := x509.ParsePKIXPublicKey(der); err == nil {
			if key, ok := key.(*rsa.PublicKey); ok {
				return key.N.BitLen()
			}
			return 0
		}
		if key, err := x509.ParsePKCS1PublicKey(der); err == nil {
			return key.N.BitLen()
		}
	}
	return 0
}
