package datadir

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"
)

// SealID is the length of a key's ID.
const SealID = 8

const (
	sealKeysMost = 8 // kept, the newest ones
	sealFormat   = 1 // first octet of what is sealed; the key's id, the nonce and the ciphertext follow
	sealHead     = 1 + SealID
)

// SealKey is one key, as identity files have it.
type SealKey struct {
	Key  []byte `json:"key"`
	Made int64  `json:"made"` // Unix milliseconds
}

// ID names a key without telling it.
func (k SealKey) ID() []byte {
	sum := sha256.Sum256(append([]byte("relay seal key\x00"), k.Key...))
	return sum[:SealID]
}

// SealKeys returns the keys of a node, the newest first.
func (id *Identity) SealKeys() []SealKey {
	id.mu.Lock()
	defer id.mu.Unlock()
	return slices.Clone(id.Seal)
}

// SealKey finds a key by its ID.
func (id *Identity) SealKey(name []byte) (SealKey, bool) {
	for _, k := range id.SealKeys() {
		if bytes.Equal(k.ID(), name) {
			return k, true
		}
	}
	return SealKey{}, false
}

// MergeSealKeys adds keys that are new here. It reports whether there were any.
func (id *Identity) MergeSealKeys(keys []SealKey) (grown bool) {
	id.mu.Lock()
	defer id.mu.Unlock()
	all := slices.Clone(id.Seal)
	for _, k := range keys {
		has := slices.ContainsFunc(all, func(had SealKey) bool { return bytes.Equal(had.Key, k.Key) })
		if len(k.Key) == chacha20poly1305.KeySize && !has {
			all, grown = append(all, k), true
		}
	}
	if !grown {
		return false
	}
	slices.SortFunc(all, func(a, b SealKey) int {
		return cmp.Or(cmp.Compare(b.Made, a.Made), bytes.Compare(a.Key, b.Key))
	})
	id.Seal = all[:min(len(all), sealKeysMost)]
	return true
}

// SetSealKeys takes other keys in place of those that a node has.
func (id *Identity) SetSealKeys(keys []SealKey) {
	id.mu.Lock()
	defer id.mu.Unlock()
	id.Seal = keys
}

// Seal encrypts a secret; about says what it is for, and Open must be told the same.
func (k SealKey) Seal(secret []byte, about string) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(k.Key)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce)
	head := append(append([]byte{sealFormat}, k.ID()...), nonce...)
	return aead.Seal(head, nonce, secret, []byte(about)), nil
}

// SealedWith names the key of what was sealed.
func SealedWith(sealed []byte) (id []byte, err error) {
	if len(sealed) < sealHead+chacha20poly1305.NonceSizeX || sealed[0] != sealFormat {
		return nil, errors.New("cluster: the secret was sealed in a way that this version does not know")
	}
	return sealed[1:sealHead], nil
}

// Open decrypts what Seal made; SealedWith has judged its form.
func (k SealKey) Open(sealed []byte, about string) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(k.Key)
	if err != nil {
		return nil, err
	}
	nonce := sealed[sealHead : sealHead+aead.NonceSize()]
	return aead.Open(nil, nonce, sealed[sealHead+aead.NonceSize():], []byte(about))
}
