package cluster

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"relay/cluster/fault"
)

const (
	tokenPrefix = "rj1."
	secretSize  = 16
)

// joinToken is what an operator carries from a member to a new node: by whom
// to be let in, and the word that opens.
type joinToken struct {
	fingerprint [sha256.Size]byte // of the CA's certificate
	secret      [secretSize]byte
}

func (t joinToken) String() string {
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(t.fingerprint[:], t.secret[:]...))
}

func (t joinToken) hash() []byte {
	sum := sha256.Sum256(t.secret[:])
	return sum[:]
}

// request tells one use of a token from another: the tries of one joining node
// are one use. A node that does not have the token can't name it.
func (t joinToken) request(id []byte) []byte {
	sum := sha256.Sum256(append(t.hash(), id...))
	return sum[:]
}

// parseToken reads a join token. Errors wrap ErrToken and do not repeat it.
func parseToken(s string) (t joinToken, err error) {
	body, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok {
		return t, fmt.Errorf("%w: it does not begin with %q: copy it whole, as 'relayctl node token' printed it",
			fault.ErrToken, tokenPrefix)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(b) != len(t.fingerprint)+len(t.secret) {
		return t, fmt.Errorf("%w: it is cut short or mistyped: copy it whole, as 'relayctl node token' printed it",
			fault.ErrToken)
	}
	copy(t.fingerprint[:], b)
	copy(t.secret[:], b[len(t.fingerprint):])
	return t, nil
}

// CheckToken reports what is wrong with the form of a join token; nil: a cluster may
// have made it. Errors wrap ErrToken and do not repeat it.
func CheckToken(s string) error {
	_, err := parseToken(s)
	return err
}
