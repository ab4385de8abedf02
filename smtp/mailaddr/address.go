// Package mailaddr reads the addresses that SMTP and the directory have: mailboxes,
// and the paths of MAIL and RCPT (RFC 5321 section 4.1.2, RFC 6531), and it writes
// them into parameters and reads them there (xtext, RFC 3461 and RFC 6533).
package mailaddr

import (
	"bytes"
	"net/netip"
	"strings"
	"unicode/utf8"

	"relay/smtp/printable"
)

// MaxDomain is how many octets a domain may have (RFC 5321 section 4.5.3.1.2).
const MaxDomain = 255

// RFC 5321 section 4.5.3.1 asks for 64 and 255 octets at least; longer local
// parts are in use (VERP), so only the whole is bounded.
const (
	maxAddress = 64 + 1 + MaxDomain
	maxLabel   = 63
)

// The reasons to refuse an address. SMTP answers ErrNeedUTF8 with 553 5.6.7 (RFC 6531
// section 3.5), the others with 501.
const (
	ErrSyntax   = syntaxError("bad address syntax")
	ErrTooLong  = syntaxError("address too long")
	ErrNoDomain = syntaxError("the address needs a domain")
	ErrNeedUTF8 = syntaxError("an address that is not ASCII needs SMTPUTF8")
)

// syntaxError is why an address was refused; its text may be shown to who wrote it.
type syntaxError string

func (e syntaxError) Error() string { return string(e) }

// Parse checks a mailbox of the form local-part@domain, without angle
// brackets, and returns it in its plainest form: quotes that are not needed are
// gone, and those that are missing are there. Dots at the ends of a local part, or
// next to each other, are taken as people write them and as Postfix takes them;
// such a local part comes back quoted, as RFC 5321 wants it. One dot behind the
// domain is dropped. The local part may hold UTF-8 (RFC 6531).
func Parse(s string) (string, error) {
	a := parser{in: []byte(s), utf8: true}
	addr, err := a.mailbox()
	if err == nil && a.pos != len(a.in) {
		err = ErrSyntax
	}
	if err == nil && strings.LastIndexByte(addr, '@') < 0 {
		err = ErrNoDomain
	}
	return addr, err
}

// Split parts an address that an smtp.Session was given, or that Parse returned, into
// local part and domain. The domain is empty for a bare local part.
func Split(addr string) (local, domain string) {
	i := strings.LastIndexByte(addr, '@') // a domain never holds one
	if i < 0 {
		return addr, ""
	}
	return addr[:i], addr[i+1:]
}

// RoutesOn reports whether a local part asks for more routing behind its
// domain: the percent hack (user%host@relay), a bang path (host!user@relay) or
// an @ that was quoted ("user@host"@relay). A relay must not let strangers do
// that.
func RoutesOn(local string) bool {
	return strings.ContainsAny(local, "%!@")
}

// IsASCII reports whether s has no octet above 127.
func IsASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// ReadPath reads the path (an address in angle brackets) that in begins with and
// returns its mailbox, which is empty for the null path, and what stands behind it. A
// source route is dropped; routed reports that there was one.
func ReadPath(in []byte) (mailbox string, rest []byte, routed bool, err error) {
	a := parser{in: in, utf8: true}
	mailbox, err = a.path()
	return mailbox, in[a.pos:], a.route, err
}

// ReadMailbox reads the mailbox that in begins with, as Parse does but for the domain,
// which may be missing, and returns what stands behind it.
func ReadMailbox(in []byte) (mailbox string, rest []byte, err error) {
	a := parser{in: in, utf8: true}
	mailbox, err = a.mailbox()
	return mailbox, in[a.pos:], err
}

// parser reads one address from the front of in.
type parser struct {
	in    []byte
	pos   int
	utf8  bool // SMTPUTF8 was asked for
	route bool // a source route was seen, and dropped
}

// path reads "<" [source route] [mailbox] ">", with blanks inside of the brackets
// or without. The null path gives "". A source route is dropped, as RFC 5321
// appendix C tells servers to.
func (a *parser) path() (string, error) {
	if !a.eat('<') {
		return "", ErrSyntax
	}
	a.blanks()
	if a.eat('>') {
		return "", nil
	}
	if a.peek() == '@' {
		if err := a.sourceRoute(); err != nil {
			return "", err
		}
	}
	addr, err := a.mailbox()
	if err != nil {
		return "", err
	}
	a.blanks()
	if !a.eat('>') {
		return "", ErrSyntax
	}
	return addr, nil
}

func (a *parser) blanks() {
	for a.eat(' ') {
	}
}

// sourceRoute reads "@one,@two:".
func (a *parser) sourceRoute() error {
	for {
		if !a.eat('@') {
			return ErrSyntax
		}
		if err := a.domain(); err != nil {
			return err
		}
		if a.eat(':') {
			a.route = true
			return nil
		}
		if !a.eat(',') {
			return ErrSyntax
		}
	}
}

// mailbox reads local-part ["@" domain].
func (a *parser) mailbox() (string, error) {
	start := a.pos
	quoted, err := a.local()
	if err != nil {
		return "", err
	}
	rest := a.pos
	if a.eat('@') {
		if err := a.domain(); err != nil {
			return "", err
		}
	}
	end := a.pos
	if end > rest && a.in[end-1] == '.' { // of a domain written as DNS has it
		end--
	}
	switch {
	case a.pos-start > maxAddress:
		return "", ErrTooLong
	case quoted != "":
		return quoted + string(a.in[rest:end]), nil
	}
	return string(a.in[start:end]), nil
}

func (a *parser) peek() byte {
	if a.pos < len(a.in) {
		return a.in[a.pos]
	}
	return 0
}

func (a *parser) eat(c byte) bool {
	if a.peek() != c || c == 0 {
		return false
	}
	a.pos++
	return true
}

// local reads a local part. One that was quoted, or has to be, is returned in its
// plainest form.
func (a *parser) local() (quoted string, err error) {
	if a.peek() == '"' {
		return a.quoted()
	}
	n := 0
	for a.pos+n < len(a.in) && (isAtext(a.in[a.pos+n]) || a.in[a.pos+n] == '.') {
		n++
	}
	if n == 0 {
		return "", ErrSyntax
	}
	local := a.in[a.pos : a.pos+n]
	if err := a.checkUTF8(local); err != nil {
		return "", err
	}
	a.pos += n
	if dotString(local) != n {
		return plainest(local), nil
	}
	return "", nil
}

// dotString returns the length of the dot-string in front of b. It may end in
// the middle of what is not one; the caller finds that by what follows.
func dotString(b []byte) int {
	n, atom := 0, 0
	for n < len(b) {
		switch c := b[n]; {
		case isAtext(c):
			atom++
		case c == '.' && atom > 0:
			atom = 0
		default:
			if atom == 0 && n > 0 {
				return n - 1 // a dot at the end
			}
			return n
		}
		n++
	}
	if atom == 0 && n > 0 {
		return n - 1
	}
	return n
}

func isAtext(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c >= utf8.RuneSelf:
		return true
	}
	return strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

// quoted reads a quoted local part and returns its plainest form.
func (a *parser) quoted() (string, error) {
	var text []byte
	for a.pos++; ; a.pos++ {
		c := a.peek()
		switch {
		case c == '"':
			a.pos++
			if err := a.checkUTF8(text); err != nil {
				return "", err
			}
			return plainest(text), nil
		case c == '\\':
			a.pos++
			if c = a.peek(); c < ' ' || c >= 0x7f {
				return "", ErrSyntax
			}
		case c < ' ' || c == 0x7f:
			return "", ErrSyntax
		}
		if len(text) > maxAddress {
			return "", ErrTooLong
		}
		text = append(text, c)
	}
}

// plainest quotes a local part only where it must be.
func plainest(text []byte) string {
	if len(text) > 0 && dotString(text) == len(text) {
		return string(text)
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range text {
		if c == '"' || c == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	b.WriteByte('"')
	return b.String()
}

func (a *parser) checkUTF8(b []byte) error {
	for i := 0; i < len(b); i++ {
		if b[i] < utf8.RuneSelf {
			continue
		}
		if !a.utf8 {
			return ErrNeedUTF8
		}
		c, size := utf8.DecodeRune(b[i:])
		if c == utf8.RuneError && size == 1 || !printable.Rune(c) { // C1 controls, bidi
			return ErrSyntax
		}
		i += size - 1
	}
	return nil
}

func (a *parser) domain() error {
	if a.peek() == '[' {
		return a.literal()
	}
	start, label := a.pos, 0
	for ; a.pos < len(a.in); a.pos++ {
		c := a.in[a.pos]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c >= utf8.RuneSelf:
			label++
		case (c == '-' || c == '_') && (label > 0 || c == '_'): // hosts with _ exist
			label++
		case c == '.' && label > 0 && a.in[a.pos-1] != '-':
			label = 0
		default:
			return a.endDomain(start, label)
		}
		if label > maxLabel {
			return ErrTooLong
		}
	}
	return a.endDomain(start, label)
}

func (a *parser) endDomain(start, label int) error {
	domain := a.in[start:a.pos]
	if n := len(domain); label == 0 && n > 1 && domain[n-1] == '.' {
		domain, label = domain[:n-1], 1
	}
	switch {
	case label == 0 || domain[len(domain)-1] == '-':
		return ErrSyntax
	case len(domain) > MaxDomain:
		return ErrTooLong
	}
	return a.checkUTF8(domain)
}

// literal reads an address literal (RFC 5321 section 4.1.3).
func (a *parser) literal() error {
	n := bytes.IndexByte(a.in[a.pos:], ']')
	if n < 0 || n > MaxDomain || !validLiteral(string(a.in[a.pos+1:a.pos+n])) {
		return ErrSyntax
	}
	a.pos += n + 1
	return nil
}

func validLiteral(in string) bool {
	tag, content, tagged := strings.Cut(in, ":")
	if !tagged {
		ip, err := netip.ParseAddr(in)
		return err == nil && ip.Is4()
	}
	if strings.EqualFold(tag, "IPv6") {
		ip, err := netip.ParseAddr(content)
		return err == nil && ip.Is6() && ip.Zone() == ""
	}
	for i := range len(content) {
		if c := content[i]; c <= ' ' || c >= 0x7f || c == '[' || c == '\\' || c == '@' {
			return false
		}
	}
	for i := range len(tag) {
		if c := tag[i]; !isAlnum(c) && c != '-' {
			return false
		}
	}
	return content != "" && tag != "" && tag[len(tag)-1] != '-'
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
