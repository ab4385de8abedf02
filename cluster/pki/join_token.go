package pki

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"relay/cluster/fault"
)

const (
	tokenPrefix = "rj1."
	SecretSize  = 16
)

// Token is what an operator carries from a member to a new node: by whom
// to be let in, and the word that opens.
type Token struct {
	Fingerprint [sha256.Size]byte // of the CA's certificate
	Secret      [SecretSize]byte
}

// String is the token as an operator carries it.
func (t Token) String() string {
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(t.Fingerprint[:], t.Secret[:]...))
}

// Hash is what the cluster keeps of the secret.
func (t Token) Hash() []byte {
	sum := sha256.Sum256(t.Secret[:])
	return sum[:]
}

// Request tells one use of a token from another: the tries of one joining node
// are one use. A node that does not have the token can't name it.
func (t Token) Request(id []byte) []byte {
	sum := sha256.Sum256(append(t.Hash(), id...))
	return sum[:]
}

// ParseToken reads a join token. Errors wrap ErrToken and do not repeat it.
func ParseToken(s string) (t Token, err error) {
	body, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok {
		return t, fmt.Errorf("%w: it does not begin with %q: copy it whole, as 'relayctl node token' printed it",
			fault.ErrToken, tokenPrefix)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(b) != len(t.Fingerprint)+len(t.Secret) {
		return t, fmt.Errorf("%w: it is cut short or mistyped: copy it whole, as 'relayctl node token' printed it",
			fault.ErrToken)
	}
	copy(t.Fingerprint[:], b)
	copy(t.Secret[:], b[len(t.Fingerprint):])
	return t, nil
}

// CheckToken reports what is wrong with the form of a join token; nil: a cluster may
// have made it. Errors wrap ErrToken and do not repeat it.
func CheckToken(s string) error {
	_, err := ParseToken(s)
	return err
}
