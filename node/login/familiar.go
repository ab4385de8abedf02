package login

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"sync"
	"time"

	"relay/smtp/admission"
)

// Familiar remembers from which networks accounts have logged in lately. Nothing
// of it is on any disk; the nodes ask each other. Its methods may be called
// concurrently.
type Familiar struct {
	Others func(ctx context.Context, key []byte) bool // whether another node knows it; nil: there is none

	mu    sync.Mutex
	halfs [2]map[[16]byte]struct{} // the newer half first
	since time.Time                // the newer half began
	asked map[[16]byte]time.Time   // in vain
}

const (
	familiarFor  = 15 * 24 * time.Hour // of a half
	familiarMost = 100_000
	askAgain     = time.Minute
	AskFamiliar  = "familiar"
)

// NewFamiliar makes an empty memory; Others is set before its first use, or never.
func NewFamiliar() *Familiar { return &Familiar{asked: map[[16]byte]time.Time{}} }

// familiarKey is of an account and a /24 or /48.
func familiarKey(account string, from netip.Addr) [16]byte {
	sum := sha256.Sum256([]byte(account + " " + admission.Block(from).String()))
	return [16]byte(sum[:16])
}

func (f *Familiar) note(account string, from netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.put(familiarKey(account, from))
}

// put needs f.mu.
func (f *Familiar) put(key [16]byte) {
	now := time.Now()
	if f.halfs[0] == nil || now.Sub(f.since) > familiarFor || len(f.halfs[0]) >= familiarMost {
		f.halfs, f.since = [2]map[[16]byte]struct{}{{}, f.halfs[0]}, now
	}
	f.halfs[0][key] = struct{}{}
	delete(f.asked, key)
}

func (f *Familiar) knows(account string, from netip.Addr) bool {
	key := familiarKey(account, from)
	return f.Has(key[:])
}

// Has reports whether this node remembers a key that another node has asked for.
func (f *Familiar) Has(key []byte) bool {
	if len(key) != 16 {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, newer := f.halfs[0][[16]byte(key)]
	_, older := f.halfs[1][[16]byte(key)]
	return newer || older
}

// ask asks the other nodes, once a minute for the same account and network.
func (f *Familiar) ask(ctx context.Context, account string, from netip.Addr) bool {
	key := familiarKey(account, from)
	now := time.Now()
	f.mu.Lock()
	last, lately := f.asked[key]
	if len(f.asked) >= familiarMost {
		clear(f.asked)
	}
	f.asked[key] = now
	f.mu.Unlock()
	if f.Others == nil || lately && now.Sub(last) < askAgain || !f.Others(ctx, key[:]) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.put(key)
	return true
}
