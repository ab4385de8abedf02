package remote

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Kind is the way in which a Target is reached.
type Kind uint8

// The kinds of Target.
const (
	MX      Kind = iota // the mail hosts of the domain, as DNS names them
	SMTP                // one host, by its address records
	LMTP                // one host, by its address records, spoken to in LMTP (RFC 2033)
	Discard             // nowhere: everything counts as delivered
	HTTPS               // a web service
)

// Target is where a route leads.
type Target struct {
	Kind Kind
	Host string // SMTP and LMTP: a name or an IP address without brackets
	Port int    // SMTP and LMTP; 0: the agent's port
	URL  string // HTTPS

	Link   Link    // not part of the text form, as is Spread
	Spread *Spread // nil: to no other host
}

// Link says what is particular about connections to a target. Links that are equal can
// share a connection.
type Link struct {
	Without string  // EHLO keywords of the host that do not count, parted by commas
	TLS     LinkTLS // how TLS is used
	// Implicit says that TLS begins with the first octet (RFC 8314 §3.3).
	Implicit bool
	// Pins are what VerifyPin compares: SHA-256 of certificates or of their public keys
	// (SubjectPublicKeyInfo), 64 lower-case hexadecimal digits each, parted by commas. Of
	// lists that are parted by a blank each must have one.
	Pins string
	// CA are certificates in PEM that count in place of Config.Roots. Of texts that are
	// parted by a NUL each must vouch for the host, an empty one being Config.Roots.
	CA string
	// Configured says that another route to the target leaves TLS to Config.TLS, which
	// decides where it is stricter than TLS.
	Configured bool
	Login      *Login // nil: none
	Cert       *Cert  // nil: none is shown
	// Sources are addresses to connect from, parted by commas, of which each node uses its own; empty: Config.Sources.
	Sources string
}

// LinkTLS is the TLS policy of a route.
type LinkTLS uint8

// The policies. From NoTLS on each is stricter than those before it.
const (
	AsConfigured LinkTLS = iota // Config.TLS decides
	NoTLS                       // never, but for mail that asks for it (REQUIRETLS)
	AnyTLS                      // where the host offers it, with any certificate
	EncryptTLS                  // always, with any certificate; mail waits otherwise
	VerifyTLS                   // always, with a certificate for the host's name; mail waits otherwise
	DaneTLS                     // always, with a certificate that TLSA records name (RFC 7672); mail waits otherwise
	VerifyPin                   // always, with a certificate or key that Pins has; mail waits otherwise
)

// Merge returns what holds for a target that two routes lead to: the stricter policy, TLS
// from the start where either wants it, and no keyword that either leaves out. Of two that
// are as strict and go by different certificates the host must satisfy both: the mail of one
// route is not given to a host that the other one alone trusts. Login, Cert and Sources are
// those of l where it has them, else of o.
func (l Link) Merge(o Link) Link {
	strict, other := l, o
	if o.TLS > l.TLS {
		strict, other = o, l
	} else if o.TLS == l.TLS {
		strict.Pins, strict.CA = union(l.Pins, o.Pins, pinLists), union(l.CA, o.CA, caTexts)
	}
	strict.Implicit, strict.Login = l.Implicit || o.Implicit, cmp.Or(l.Login, o.Login)
	strict.Cert, strict.Sources = cmp.Or(l.Cert, o.Cert), cmp.Or(l.Sources, o.Sources)
	strict.Configured = (other.TLS == AsConfigured || l.Configured || o.Configured) &&
		(strict.TLS == NoTLS || strict.TLS == AnyTLS) // Config.TLS is no stricter than EncryptTLS
	if had := strict.Without; had != "" && other.Without != "" && had != other.Without {
		strict.Without = had + "," + other.Without
	} else if had == "" {
		strict.Without = other.Without
	}
	return strict
}

const (
	pinLists = " "
	caTexts  = "\x00"
)

// union puts two lists together, whose elements may be empty.
func union(a, b, sep string) string {
	if a == b {
		return a
	}
	all := append(strings.Split(a, sep), strings.Split(b, sep)...)
	slices.Sort(all)
	return strings.Join(slices.Compact(all), sep)
}

// Router says where mail for a domain goes. The node implements it. An error
// defers the mail.
type Router interface {
	Route(ctx context.Context, domain string) (Target, error)
}

// Links is what a Router implements besides where there is something particular about a
// target that was set by hand, or found before.
type Links interface {
	Link(target string) Link
	// Named returns the target that a queue's Config.Route has named in words of its own.
	Named(hop string) (Target, bool)
}

// ParseTarget reads a target as operators write it: mx, smtp:HOST[:PORT],
// lmtp:HOST:PORT, https://…, or discard. Empty means mx. An IPv6 address stands
// in brackets.
func ParseTarget(s string) (Target, error) {
	switch {
	case s == "" || s == "mx":
		return Target{Kind: MX}, nil
	case s == "discard":
		return Target{Kind: Discard}, nil
	case strings.HasPrefix(s, "https://") && len(s) > len("https://"):
		return Target{Kind: HTTPS, URL: s}, nil
	}
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok || scheme != "smtp" && scheme != "lmtp" {
		return Target{}, fmt.Errorf("remote: %q is not mx, smtp:HOST[:PORT], lmtp:HOST:PORT, https://… or discard", s)
	}
	host, port, err := splitHost(rest)
	if err != nil {
		return Target{}, fmt.Errorf("remote: %q: %w", s, err)
	}
	t := Target{Kind: SMTP, Host: host, Port: port}
	if scheme == "lmtp" {
		t.Kind = LMTP
		if port == 0 {
			return Target{}, fmt.Errorf("remote: %q names no port, and LMTP has none of its own", s)
		}
	}
	return t, nil
}

func splitHost(s string) (host string, port int, err error) {
	host = s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		host = s[1 : len(s)-1]
	} else if strings.Contains(s, ":") {
		var digits string
		if host, digits, err = net.SplitHostPort(s); err != nil {
			return "", 0, fmt.Errorf("not HOST or HOST:PORT (an IPv6 address needs brackets)")
		}
		n, err := strconv.ParseUint(digits, 10, 16)
		if err != nil || n == 0 {
			return "", 0, fmt.Errorf("%q is not a port", digits)
		}
		port = int(n)
	}
	if host == "" || strings.ContainsAny(host, " \t\r\n/@<>[]\"") {
		return "", 0, fmt.Errorf("%q is not a host", host)
	}
	return host, port, nil
}

// String writes a target as ParseTarget reads it.
func (t Target) String() string {
	scheme := "smtp:"
	switch t.Kind {
	case MX:
		return "mx"
	case Discard:
		return "discard"
	case HTTPS:
		return t.URL
	case LMTP:
		scheme = "lmtp:"
	}
	if t.Port == 0 {
		if strings.Contains(t.Host, ":") {
			return scheme + "[" + t.Host + "]"
		}
		return scheme + t.Host
	}
	return scheme + net.JoinHostPort(t.Host, strconv.Itoa(t.Port))
}
