package verify

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// finding is why a signature does not count.
type finding struct {
	outcome Outcome
	reason  string
}

func (f *finding) Error() string { return "verify: " + f.reason }

func permanent(format string, args ...any) error {
	return &finding{PermError, fmt.Sprintf(format, args...)}
}

// claim is what a DKIM-Signature field says, in a form that can be checked.
type claim struct {
	field           []byte // all its lines
	domain          string
	selector        string
	algorithm       string // of the key: rsa, ed25519
	names           []string
	relaxedHeader   bool
	relaxedBody     bool
	limited         bool // l=
	bodyHash, proof []byte
}

// readTags reads a list of tags (RFC 6376 §3.2).
func readTags(text string) (map[string]string, error) {
	tags := map[string]string{}
	for pair := range strings.SplitSeq(text, ";") {
		name, v, ok := strings.Cut(pair, "=")
		name = strings.TrimSpace(name)
		_, twice := tags[name]
		switch {
		case !ok && name == "":
			continue
		case !ok:
			return nil, errors.New("malformed tags")
		case twice:
			return nil, errors.New("duplicate tag name")
		}
		tags[name] = strings.TrimSpace(v)
	}
	return tags, nil
}

// dense is a text without any white space.
func dense(s string) string { return strings.Join(strings.Fields(s), "") }

func list(s string) []string { return strings.Split(dense(s), ":") }

// readClaim reads a field (RFC 6376 §3.5, §6.1.1).
func readClaim(field []byte, now time.Time) (*claim, error) {
	tags, err := readTags(value(field))
	if err != nil {
		return nil, permanent("malformed signature tags: %v", err)
	}
	if tags["v"] != "1" {
		return nil, permanent("incompatible signature version")
	}
	for _, name := range [...]string{"a", "b", "bh", "d", "h", "s"} {
		if _, ok := tags[name]; !ok {
			return nil, permanent("signature missing required tag")
		}
	}
	c := &claim{field: field, domain: dense(tags["d"]), selector: dense(tags["s"]), names: list(tags["h"])}
	_, c.limited = tags["l"]
	if i := dense(tags["i"]); i != "" && !strings.HasSuffix(i, "@"+c.domain) && !strings.HasSuffix(i, "."+c.domain) {
		return nil, permanent("domain mismatch")
	}
	if !slices.ContainsFunc(c.names, func(n string) bool { return strings.EqualFold(n, "From") }) {
		return nil, permanent("From field not signed")
	}
	if q, ok := tags["q"]; ok && !slices.Contains(list(q), "dns/txt") {
		return nil, permanent("unsupported public key query method")
	}
	if err := inTime(tags, now); err != nil {
		return nil, err
	}
	return c, c.readForms(tags)
}

func inTime(tags map[string]string, now time.Time) error {
	for _, name := range [...]string{"t", "x"} {
		text, ok := tags[name]
		if !ok {
			continue
		}
		at, err := strconv.ParseInt(dense(text), 10, 64)
		switch {
		case err != nil:
			return permanent("malformed time")
		case name == "x" && now.After(time.Unix(at, 0)):
			return permanent("signature has expired")
		}
	}
	return nil
}

func (c *claim) readForms(tags map[string]string) (err error) {
	key, hash, ok := strings.Cut(dense(tags["a"]), "-")
	switch {
	case !ok:
		return permanent("malformed algorithm name")
	case hash == "sha1": // RFC 8301 §3.1
		return permanent("hash algorithm too weak: sha1")
	case hash != "sha256":
		return permanent("unsupported hash algorithm")
	}
	c.algorithm = key
	header, body, _ := strings.Cut(dense(tags["c"]), "/")
	for _, one := range [...]struct {
		text string
		to   *bool
	}{{header, &c.relaxedHeader}, {body, &c.relaxedBody}} {
		switch one.text {
		case "", "simple":
		case "relaxed":
			*one.to = true
		default:
			return permanent("unsupported canonicalization algorithm")
		}
	}
	if c.bodyHash, err = base64.StdEncoding.DecodeString(dense(tags["bh"])); err != nil {
		return permanent("malformed body hash")
	}
	if c.proof, err = base64.StdEncoding.DecodeString(dense(tags["b"])); err != nil {
		return permanent("malformed signature")
	}
	return nil
}

// publicKey is the key in a record (RFC 6376 §3.6.1) that a claim may use.
func (c *claim) publicKey(records []string) (crypto.PublicKey, error) {
	switch {
	case len(records) == 0:
		return nil, permanent("no valid key found")
	case len(records) > 1: // RFC 6376 §3.6.2.2
		return nil, permanent("multiple TXT records found for key")
	}
	tags, err := readTags(records[0])
	p, ok := tags["p"]
	kind := tags["k"]
	if kind == "" {
		kind = "rsa"
	}
	v, versioned := tags["v"]
	hashes, bound := tags["h"]
	services, serves := tags["s"]
	switch {
	case err != nil:
		return nil, permanent("key record error: %v", err)
	case versioned && v != "DKIM1":
		return nil, permanent("incompatible public key version")
	case !ok:
		return nil, permanent("key syntax error: missing public key data")
	case p == "":
		return nil, permanent("key revoked")
	case bound && !slices.Contains(list(hashes), "sha256"):
		return nil, permanent("inappropriate hash algorithm")
	case serves && !slices.Contains(list(services), "*") && !slices.Contains(list(services), "email"):
		return nil, permanent("inappropriate service")
	case kind != c.algorithm:
		return nil, permanent("inappropriate key algorithm")
	}
	der, err := base64.StdEncoding.DecodeString(dense(p))
	if err != nil {
		return nil, permanent("key syntax error: %v", err)
	}
	return readKey(kind, der)
}

func readKey(kind string, der []byte) (crypto.PublicKey, error) {
	switch kind {
	case "ed25519":
		if len(der) != ed25519.PublicKeySize {
			return nil, permanent("invalid Ed25519 public key size: %d bytes", len(der))
		}
		return ed25519.PublicKey(der), nil
	case "rsa":
		key, err := x509.ParsePKIXPublicKey(der)
		if err != nil { // RFC 6376 is of two minds about the form (erratum 3017)
			if key, err = x509.ParsePKCS1PublicKey(der); err != nil {
				return nil, permanent("key syntax error: %v", err)
			}
		}
		public, ok := key.(*rsa.PublicKey)
		switch {
		case !ok:
			return nil, permanent("key syntax error: not an RSA public key")
		case public.Size()*8 < 1024: // RFC 8301 §3.2
			return nil, permanent("key is too short: want 1024 bits, has %d bits", public.Size()*8)
		}
		return public, nil
	}
	return nil, permanent("unsupported key algorithm")
}

// check holds a claim against the header and the hash of the body.
func (c *claim) check(fields map[string][][]byte, body []byte, key crypto.PublicKey) error {
	switch {
	case c.limited: // what is behind could say anything
		return &finding{Policy, "message contains an insecure body length tag"}
	case subtle.ConstantTimeCompare(body, c.bodyHash) != 1:
		return &finding{Fail, "body hash did not verify"}
	}
	sum := c.headerSum(fields)
	switch key := key.(type) {
	case *rsa.PublicKey:
		if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum, c.proof); err != nil {
			return &finding{Fail, "signature did not verify: " + err.Error()}
		}
	case ed25519.PublicKey:
		if !ed25519.Verify(key, sum, c.proof) {
			return &finding{Fail, "signature did not verify: invalid Ed25519 signature"}
		}
	}
	return nil
}

// headerSum is the hash of the fields that are signed (RFC 6376 §3.7). A name
// stands for the last field of its kind that was not named before, one too many
// for nothing.
func (c *claim) headerSum(fields map[string][][]byte) []byte {
	sum := sha256.New()
	used := map[string]int{}
	for _, name := range c.names {
		name = strings.ToLower(name)
		all := fields[name]
		if n := len(all) - 1 - used[name]; n >= 0 {
			used[name]++
			sum.Write(canonicalField(all[n], c.relaxedHeader))
		}
	}
	sum.Write(bytes.TrimRight(canonicalField(unsigned(c.field), c.relaxedHeader), "\r\n"))
	return sum.Sum(nil)
}

// unsigned is a DKIM-Signature field without the value of its b=.
func unsigned(field []byte) []byte {
	start := bytes.IndexByte(field, ':') + 1
	out := bytes.Clone(field[:start])
	for i, pair := range bytes.Split(field[start:], []byte(";")) {
		if i > 0 {
			out = append(out, ';')
		}
		if name, _, _ := bytes.Cut(pair, []byte("=")); string(bytes.TrimSpace(name)) == "b" {
			pair = pair[:len(name)+1]
		}
		out = append(out, pair...)
	}
	return out
}

// canonicalField is RFC 6376 §3.4.1 and §3.4.2.
func canonicalField(field []byte, relaxed bool) []byte {
	if !relaxed {
		if !bytes.HasSuffix(field, []byte("\n")) {
			return append(bytes.Clone(field), '\r', '\n')
		}
		return field
	}
	name, v, _ := bytes.Cut(field, []byte(":"))
	out := append(bytes.ToLower(bytes.TrimSpace(name)), ':')
	for i, word := range bytes.FieldsFunc(v,
		func(r rune) bool { return r == ' ' || r == '\t' || r == '\r' || r == '\n' }) {
		if i > 0 {
			out = append(out, ' ')
		}
		out = append(out, word...)
	}
	return append(out, '\r', '\n')
}
