package records

import (
	"net"
	"strconv"
	"strings"
	"unicode"

	"relay/node/admin"
	"relay/node/directory"
	"relay/smtp/mailaddr"
	"relay/smtp/printable"
)

// MaxName bounds the free texts and lists an operator may store.
const (
	MaxName    = 255
	maxTargets = 1000
)

// mailAddress brings an address of the directory into the form it is kept in:
// lower case, whole. A bare local part gets the default domain.
func mailAddress(text, defaultDomain string) (string, error) {
	address := strings.ToLower(strings.TrimSpace(text))
	if address == "" {
		return "", admin.Invalid("an address is missing")
	}
	if !strings.Contains(address, "@") {
		if defaultDomain == "" {
			return "", admin.Invalid("%s has no domain and there is no default domain: give the whole address",
				printable.Text(address, MaxName))
		}
		address += "@" + defaultDomain
	}
	address, err := mailaddr.Parse(address)
	if err != nil {
		return "", admin.Invalid("%s is not a mail address: %s", printable.Text(text, MaxName), err)
	}
	return directory.Canonical(address), nil
}

// domainName brings a domain's name into the form it is kept in.
func domainName(text string) (string, error) {
	name := strings.TrimSuffix(strings.ToLower(strings.TrimSpace(text)), ".")
	if name == "" {
		return "", admin.Invalid("a domain is missing")
	}
	address, err := mailaddr.Parse("x@" + name)
	if err != nil || strings.HasPrefix(name, "[") || address != "x@"+name {
		return "", admin.Invalid("%s is not the name of a domain", printable.Text(text, MaxName))
	}
	return directory.ASCIIDomain(name), nil
}

// RouteTarget checks a hop: mx, smtp:HOST[:PORT], lmtp:HOST:PORT, discard.
// An action that the agent can not do is refused here, not deferred later.
func RouteTarget(text string) (string, error) {
	target := strings.TrimSpace(text)
	scheme, rest, _ := strings.Cut(target, ":")
	switch strings.ToLower(scheme) {
	case "mx", "discard":
		if rest == "" && !strings.Contains(target, ":") {
			return strings.ToLower(target), nil
		}
	case "smtp":
		rest = bareName(rest)
		if hostPort(rest, false) {
			return "smtp:" + rest, nil
		}
		return "", admin.Invalid("%s is not smtp:HOST or smtp:HOST:PORT", printable.Text(text, MaxName))
	case "lmtp":
		if hostPort(rest, true) {
			return "lmtp:" + rest, nil
		}
		return "", admin.Invalid("%s is not lmtp:HOST:PORT", printable.Text(text, MaxName))
	case "https":
		return "", admin.Invalid("this version can not hand mail over by https: give mx, smtp:HOST[:PORT], " +
			"lmtp:HOST:PORT or discard")
	}
	return "", admin.Invalid("%s is no route: give mx, smtp:HOST[:PORT], lmtp:HOST:PORT or discard", printable.Text(text,
		MaxName))
}

// bareName takes the brackets off a host's name. Postfix has them where no MX is to be
// asked, as none is here; those of an IPv6 address stay.
func bareName(hop string) string {
	in, bracketed := strings.CutPrefix(hop, "[")
	name, rest, closed := strings.Cut(in, "]")
	if !bracketed || !closed || strings.Contains(name, ":") || rest != "" && rest[0] != ':' {
		return hop
	}
	return name + rest
}

// hostPort reports whether s is a host name or address, with a port where one
// must be. An IPv6 address stands in brackets.
func hostPort(s string, must bool) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		if must {
			return false
		}
		host, port = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), "25"
		bracketed := strings.HasPrefix(s, "[")
		if bracketed != strings.HasSuffix(s, "]") || bracketed != strings.Contains(host, ":") {
			return false
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return false
	}
	if net.ParseIP(host) != nil {
		return true
	}
	_, err = domainName(host)
	return err == nil &&
		!strings.ContainsFunc(host, func(c rune) bool { return c == '/' || unicode.IsSpace(c) || unicode.IsControl(c) })
}
