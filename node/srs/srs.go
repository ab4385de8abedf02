// Package srs rewrites reverse-paths of mail that an alias leads elsewhere, so that the next host finds the forwarder
// and not a stranger in SPF, and leads bounces of it back (Sender Rewriting Scheme, forms 0 and 1). There is no RFC for
// it; the forms are those of libsrs2 and postsrsd. Nothing is kept: an address bears a day and a keyed hash. Keys
// follow from the cluster's secret and change each 32 days by themselves, and at once with another generation.
package srs

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"relay/smtp/mailaddr"
)

const (
	validDays = 21   // a bounce comes within the time that hosts queue mail, and some more
	keyDays   = 32   // for how long a key makes addresses
	wrapDays  = 1024 // days are counted in ten bits
	hashLen   = 8    // characters, 40 bits
	mostPath  = 254  // octets of an address in an envelope (RFC 5321 §4.5.3.1.3, without the brackets)
)

// Errors of Reverse.
var (
	ErrForged  = errors.New("the return address was not made here")
	ErrExpired = errors.New("the return address has expired")
)

var digits = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Scheme makes and reads addresses. The zero value reads none.
type Scheme struct {
	Secret     []byte // of the cluster
	Generation uint32 // another one makes all former addresses void
	Domain     string // of the addresses that are made
}

// Is reports whether an address, or its local part, has a form of SRS.
func Is(address string) bool { return prefix(address, "srs0") || prefix(address, "srs1") }

func prefix(s, name string) bool {
	return len(s) > len(name) && strings.EqualFold(s[:len(name)], name) && strings.IndexByte("=+-", s[len(name)]) >= 0
}

// Forward returns the address that takes the sender's place. A sender that can not be rewritten stays as it is: the
// null path, one that is no plain address, and one that would get too long.
func (s *Scheme) Forward(sender string, now time.Time) string {
	local, domain, ok := cut(sender)
	if !ok || len(s.Secret) == 0 || s.Domain == "" || strings.ContainsAny(local, "%!@\"") {
		return sender
	}
	var made string
	switch day := dayOf(now); {
	case prefix(local, "srs0"):
		made = s.chain(domain, local[len("srs0"):], day)
	case prefix(local, "srs1"):
		_, rest, _ := strings.Cut(local[len("srs1="):], "=")
		host, opaque, ok := strings.Cut(rest, "=")
		if !ok || host == "" || opaque == "" {
			return sender
		}
		made = s.chain(host, opaque, day)
	default:
		stamp := stampOf(day)
		made = "SRS0=" + s.hash(day/keyDays, "0", stamp, domain, local) + "=" + stamp + "=" + domain + "=" + local
	}
	made += "@" + s.Domain
	if parsed, err := mailaddr.Parse(made); err != nil || parsed != made || len(made) > mostPath {
		return sender
	}
	return made
}

// chain makes an address of form 1: of what a forwarder before us has made, whose host keeps the day.
func (s *Scheme) chain(host, opaque string, day int64) string {
	return "SRS1=" + s.hash(day/keyDays, "1", host, opaque) + "=" + host + "=" + opaque
}

// Reverse returns where a bounce to an address goes whose local part has a form of SRS, in any case of letters.
func (s *Scheme) Reverse(local string, now time.Time) (string, error) {
	if len(s.Secret) == 0 || !Is(local) {
		return "", ErrForged
	}
	day, parts := dayOf(now), strings.SplitN(local[len("srs0="):], "=", 4)
	if prefix(local, "srs1") {
		return s.unchain(local[len("srs1="):], day)
	}
	if len(parts) != 4 || parts[2] == "" || parts[3] == "" {
		return "", ErrForged
	}
	made, ok := dayFrom(parts[1], day)
	if !ok || !same(parts[0], s.hash(made/keyDays, "0", parts[1], parts[2], parts[3])) {
		return "", ErrForged
	}
	if day-made > validDays {
		return "", ErrExpired
	}
	return parts[3] + "@" + parts[2], nil
}

// unchain reads form 1, which has no day: keys of two periods count.
func (s *Scheme) unchain(rest string, day int64) (string, error) {
	parts := strings.SplitN(rest, "=", 3)
	if len(parts) != 3 || parts[1] == "" || parts[2] == "" {
		return "", ErrForged
	}
	for period := day / keyDays; period >= day/keyDays-1; period-- {
		if same(parts[0], s.hash(period, "1", parts[1], parts[2])) {
			return "SRS0" + parts[2] + "@" + parts[1], nil
		}
	}
	return "", ErrForged
}

// hash is the keyed hash of an address, which may lose the case of its letters on the way.
func (s *Scheme) hash(period int64, parts ...string) string {
	key := hmac.New(sha256.New, s.Secret)
	key.Write([]byte("srs"))
	key.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, s.Generation), uint64(period)))
	h := hmac.New(sha256.New, key.Sum(nil))
	for _, p := range parts {
		h.Write(lower(p))
		h.Write([]byte{0})
	}
	return digits.EncodeToString(h.Sum(nil))[:hashLen]
}

func same(given, want string) bool {
	return subtle.ConstantTimeCompare(lower(given), []byte(want)) == 1
}

// lower is s with ASCII letters in lower case: others look alike in some form, and are not the same address.
func lower(s string) []byte {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return b
}

// cut splits a mailbox; false for what has no two parts.
func cut(address string) (local, domain string, ok bool) {
	i := strings.LastIndexByte(address, '@')
	if i < 1 || i == len(address)-1 {
		return "", "", false
	}
	return address[:i], address[i+1:], true
}

func dayOf(t time.Time) int64 { return t.Unix() / (24 * 3600) }

// stampOf writes a day, modulo wrapDays, in two digits.
func stampOf(day int64) string {
	n := day % wrapDays
	const letters = "abcdefghijklmnopqrstuvwxyz234567"
	return string([]byte{letters[n>>5], letters[n&31]})
}

// dayFrom reads a day: the latest that is not after tomorrow, as clocks differ.
func dayFrom(stamp string, today int64) (int64, bool) {
	if len(stamp) != 2 {
		return 0, false
	}
	n := int64(0)
	for _, c := range strings.ToLower(stamp) {
		i := strings.IndexRune("abcdefghijklmnopqrstuvwxyz234567", c)
		if i < 0 {
			return 0, false
		}
		n = n<<5 | int64(i)
	}
	tomorrow := today + 1
	return tomorrow - (tomorrow-n%wrapDays+wrapDays)%wrapDays, true
}
