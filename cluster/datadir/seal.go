package datadir

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"
)

// SealID is the length of a key's ID.
const SealID = 8

const sealKeysMost = 8 // kept, the newest ones

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
