package sasl

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"

	"github.com/xdg-go/scram"
)

// Keys is what a server keeps of a password for SCRAM-SHA-256 (RFC 5802 section 3):
// enough to check a proof, not enough to make one.
type Keys struct {
	Salt       []byte
	Iterations int
	StoredKey  []byte
	ServerKey  []byte
}

// NewKeys derives the keys of a password, which it prepares. RFC 7677 section 4
// wants 4096 iterations at least. It is slow on purpose.
func NewKeys(password string, salt []byte, iterations int) (*Keys, error) {
	c, err := scram.SHA256.NewClientUnprepped("", Prepared(password), "")
	if err != nil {
		return nil, err
	}
	k, err := c.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: iterations})
	if err != nil {
		return nil, err
	}
	return &Keys{Salt: salt, Iterations: iterations, StoredKey: k.StoredKey, ServerKey: k.ServerKey}, nil
}

// Fit reports whether the keys are those of a password. It is as slow as NewKeys.
func (k *Keys) Fit(password string) bool {
	other, err := NewKeys(password, k.Salt, k.Iterations)
	return err == nil && subtle.ConstantTimeCompare(other.StoredKey, k.StoredKey) == 1
}

const saltSize = 16

// DummyKeys makes up keys that no proof meets, for a user who is not there. They are
// the same whenever the secret and the name are, so that nobody learns from a
// salt whether there is such a user.
func DummyKeys(secret []byte, user string, iterations int) *Keys {
	part := func(what string) []byte {
		m := hmac.New(sha256.New, secret)
		m.Write([]byte("SCRAM of nobody\x00" + what + "\x00" + user))
		return m.Sum(nil)
	}
	return &Keys{
		Salt: part("salt")[:saltSize], Iterations: iterations, StoredKey: part("stored"), ServerKey: part("server"),
	}
}
